"""SRS FS725: rubidium frequency standard, 10 MHz and 1PPS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from qkdd.core.units import Kelvins, Seconds
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.serial_link import serial_line
from qkdd.device.transport import ByteLink, ByteReader
from qkdd_drivers.dialogue import DialogueDriver, text_line
from qkdd_drivers.srs_fs725 import protocol as fs

T = TypeVar("T")


class Fs725(DialogueDriver):
    """Role ClockReference. It is watched, and told whether to follow its 1PPS input; its frequency is never touched."""

    locked = Field(doc="Get whether the oscillator is locked to the rubidium line", kind=bool)
    pulse_lock = Field(
        doc="Control whether it follows the pulses at its 1PPS input",
        kind=bool,
        settable=True,
        category=Category.SETTING,
    )
    pulse_time = Field(doc="Measure when the last pulse came, after its own pulse", unit=Seconds)
    case_temperature = Field(doc="Measure temperature of the case", unit=Kelvins, category=Category.DIAGNOSTIC)
    status = Field(
        doc="Get the six status bytes as the manual numbers them",
        kind=int,
        size=fs.STATUS_BYTES,
        category=Category.DIAGNOSTIC,
    )

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 9600),)

    # Role ClockReference

    async def is_locked(self) -> bool:
        """Whether its frequency may be relied on."""
        self.require_open("get locked")
        return await self._ask("get locked", fs.LOCKED, fs.flag)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        await self._tell("identify", fs.QUIET)
        await self._ask("identify", fs.STATUS, fs.known, urgent=True)
        model = await self._ask("identify", fs.IDENTITY, str, urgent=True)
        serial = await self._ask("identify", fs.SERIAL, fs.serial, urgent=True)
        return Identity("Stanford Research Systems", f"FS725 ({model[:40]})", serial, "")

    async def _ping(self) -> None:
        await self._ask("ping", fs.LOCKED, fs.flag, urgent=True)

    async def _start(self) -> None:
        """A clock has no unsafe state, and others may run on it: nothing is changed."""

    async def _make_safe(self) -> None:
        """A clock has no unsafe state, and others may run on it: nothing is changed."""

    # Fields

    async def _get_locked(self) -> Values:
        return (await self.is_locked(),)

    async def _get_pulse_lock(self) -> Values:
        return (await self._ask("get pulse_lock", fs.PULSE_LOCK, fs.flag),)

    async def _set_pulse_lock(self, values: Values) -> Values:
        await self._tell("set pulse_lock", fs.set_pulse_lock(bool(values[0])))
        found = await self._ask("set pulse_lock", fs.PULSE_LOCK, fs.flag)
        if found != values[0]:
            raise self.error(errors.CommandRefused, "set pulse_lock", f"it stays at {found}")
        return (found,)

    async def _get_pulse_time(self) -> Values:
        return (await self._ask("get pulse_time", fs.PULSE, fs.pulse_ns) * 1e-9,)

    async def _get_case_temperature(self) -> Values:
        return (await self._ask("get case_temperature", fs.CASE_TEMPERATURE, fs.celsius) + 273.15,)

    async def _get_status(self) -> Values:
        return await self._ask("get status", fs.STATUS, fs.status)

    # Dialogue

    async def _tell(self, operation: str, command: bytes) -> None:
        """A command without answer."""
        await self.run(operation, lambda link: link.write(command + fs.END, self.answer_time), self.answer_time)

    async def _ask(self, operation: str, question: bytes, parse: Callable[[str], T], *, urgent: bool = False) -> T:
        def answer(reader: ByteReader, seconds: float) -> T:
            line = reader.until(fs.END, seconds, limit=256)
            if line in (b"", b"\n"):  # the rest of an earlier answer that ended with CR LF
                line = reader.until(fs.END, seconds, limit=256)
            return parse(text_line(line.strip()))

        return await self.exchange(operation, question + fs.END, answer, urgent=urgent)
