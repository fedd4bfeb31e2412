"""Agiltron FF 1x4 and 1x8: one fibre to one of four or eight."""

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
from qkdd_drivers.agiltron_ff import protocol as ff
from qkdd_drivers.dialogue import DialogueDriver

T = TypeVar("T")


class Ff1x4(DialogueDriver):
    """Role OpticalSwitch with four outputs."""

    channel = Field(
        doc="Control output that the input fibre leads to",
        kind=str,
        choices=("1", "2", "3", "4"),
        settable=True,
        category=Category.CONTROL,
    )
    on_close = Field(
        doc="Set output that is selected when the device is closed",
        kind=str,
        choices=("stay", "1", "2", "3", "4"),
        settable=True,
        readable=False,
        category=Category.SETTING,
    )

    outputs: ClassVar[int] = 4

    _last = "stay"

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 9600),)

    # Role OpticalSwitch

    @property
    def positions(self) -> int:
        return self.outputs

    async def read_position(self) -> int:
        """From 1."""
        self.require_open("get channel")
        return await self._ask("get channel", ff.GET, lambda answer: ff.channel(answer, self.outputs))

    async def select(self, position: int) -> int:
        """Lead the light to output `position` (from 1); returns the read-back. Raises CommandRefused."""
        self.require_open("select")
        if not 1 <= position <= self.outputs:
            raise ValueError(f"there are outputs 1 to {self.outputs}, not {position}")
        return await self._select("select", position)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        await self._ask("identify", ff.GET, lambda answer: ff.known(answer, self.outputs), urgent=True)
        return Identity("Agiltron", f"FF 1x{self.outputs}", "", "")

    async def _start(self) -> None:
        """The light stays where it goes: switching it at a connect would interrupt what an earlier run set up."""

    async def _make_safe(self) -> None:
        if self._last != "stay":
            await self._select("reach safe state", int(self._last))

    # Fields

    async def _get_channel(self) -> Values:
        return (str(await self.read_position()),)

    async def _set_channel(self, values: Values) -> Values:
        return (str(await self._select("set channel", int(values[0]))),)

    async def _set_on_close(self, values: Values) -> Values:
        self._last = str(values[0])
        return values

    # Dialogue

    async def _select(self, operation: str, position: int) -> int:
        order = ff.set_channel(position)
        await self._ask(operation, order, lambda answer: ff.confirm(answer, order))
        found = await self._ask(operation, ff.GET, lambda answer: ff.channel(answer, self.outputs))
        if found != position:
            raise self.error(errors.CommandRefused, operation, f"it stays at output {found} instead of {position}")
        return found

    async def _ask(self, operation: str, question: bytes, parse: Callable[[bytes], T], *, urgent: bool = False) -> T:
        def answer(reader: ByteReader, seconds: float) -> T:
            return parse(reader.exactly(ff.FRAME_BYTES, seconds))

        return await self.exchange(operation, question, answer, urgent=urgent)


class Ff1x8(Ff1x4):
    """Role OpticalSwitch with eight outputs."""

    channel = Field(
        doc="Control output that the input fibre leads to",
        kind=str,
        choices=("1", "2", "3", "4", "5", "6", "7", "8"),
        settable=True,
        category=Category.CONTROL,
    )
    on_close = Field(
        doc="Set output that is selected when the device is closed",
        kind=str,
        choices=("stay", "1", "2", "3", "4", "5", "6", "7", "8"),
        settable=True,
        readable=False,
        category=Category.SETTING,
    )

    outputs: ClassVar[int] = 8
