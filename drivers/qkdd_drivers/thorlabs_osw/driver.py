"""Thorlabs OSW: 2x2 and 1x2 fibre-optic switches."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.serial_link import serial_line
from qkdd.device.transport import ByteLink, ByteReader
from qkdd_drivers.dialogue import DialogueDriver, text_line
from qkdd_drivers.thorlabs_osw import protocol as osw

T = TypeVar("T")

_POLL = 0.03  # seconds between two looks at a switch that moves


class Osw(DialogueDriver):
    """Role OpticalSwitch: position 1 is bar, 2 is cross."""

    path = Field(
        doc="Control path of the light",
        kind=str,
        choices=osw.STATES,
        settable=True,
        category=Category.CONTROL,
    )
    on_close = Field(
        doc="Set path that is selected when the device is closed",
        kind=str,
        choices=("stay", *osw.STATES),
        settable=True,
        readable=False,
        category=Category.SETTING,
    )

    switch_time: ClassVar[float] = 2.0
    """Seconds in which it must have switched; 0.3 are usual."""

    _last = "stay"

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 115200, rtscts=True),)

    # Role OpticalSwitch

    @property
    def positions(self) -> int:
        return len(osw.STATES)

    async def read_position(self) -> int:
        """1 (bar) or 2 (cross)."""
        self.require_open("get path")
        return await self._ask("get path", osw.STATE, osw.state)

    async def select(self, position: int) -> int:
        """Switch to 1 (bar) or 2 (cross) and wait; returns the read-back. Raises CommandRefused."""
        self.require_open("select")
        if not 1 <= position <= self.positions:
            raise ValueError(f"there are positions 1 and 2, not {position}")
        return await self._select("select", position)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        await self._ask("identify", osw.STATE, osw.known, urgent=True)
        model = await self._ask("identify", osw.TYPE, str.strip, urgent=True)
        firmware = await self._ask("identify", osw.BOARD, osw.version, urgent=True)
        return Identity("Thorlabs", f"OSW type {model}", "", firmware)

    async def _ping(self) -> None:
        await self._ask("ping", osw.STATE, osw.state, urgent=True)

    async def _start(self) -> None:
        """The light stays where it goes: switching it at a connect would interrupt what an earlier run set up."""

    async def _make_safe(self) -> None:
        if self._last != "stay":
            await self._select("reach safe state", osw.STATES.index(self._last) + 1)

    # Fields

    async def _get_path(self) -> Values:
        return (osw.STATES[await self.read_position() - 1],)

    async def _set_path(self, values: Values) -> Values:
        found = await self._select("set path", osw.STATES.index(str(values[0])) + 1)
        return (osw.STATES[found - 1],)

    async def _set_on_close(self, values: Values) -> Values:
        self._last = str(values[0])
        return values

    # Dialogue

    async def _select(self, operation: str, position: int) -> int:
        order = osw.set_state(position) + osw.END_OUT
        await self.run(operation, lambda link: link.write(order, self.answer_time), self.answer_time)
        end = self._clock.monotonic() + self.switch_time
        while (found := await self._ask(operation, osw.STATE, osw.state)) != position:
            if self._clock.monotonic() > end:
                raise self.error(
                    errors.CommandRefused, operation, f"it stays at {osw.STATES[found - 1]} for {self.switch_time:g} s"
                )
            await self._clock.sleep(_POLL)
        return found

    async def _ask(self, operation: str, question: bytes, parse: Callable[[str], T], *, urgent: bool = False) -> T:
        def answer(reader: ByteReader, seconds: float) -> T:
            return parse(text_line(reader.until(osw.END_IN, seconds, limit=256)).strip())

        return await self.exchange(operation, question + osw.END_OUT, answer, urgent=urgent)
