"""OZ Optics EPC-400: four fibre squeezers that turn the polarization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from qkdd.core.units import Hertz, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.serial_link import serial_line
from qkdd.device.transport import ByteLink, ByteReader, FrameError
from qkdd_drivers.dialogue import DialogueDriver, text_line
from qkdd_drivers.ozoptics_epc400 import protocol as epc

T = TypeVar("T")

_LINES = 8  # lines of an answer before its `Done`; the longest known has one, and an echo
_TOLERANCE_MV = 10  # by which a read-back may differ: the converter's step is not known, 10 bits would be 10 mV


class Epc400(DialogueDriver):
    """Role PolarizationController, settings in volt."""

    voltage = Field(
        doc="Control voltage of each squeezer",
        unit=Volts,
        range=(-epc.MAX_MV / 1000, epc.MAX_MV / 1000),
        size=epc.CHANNELS,
        settable=True,
        category=Category.CONTROL,
    )
    mode = Field(
        doc="Set whether the squeezers hold their voltage (dc) or scramble the polarization (ac)",
        kind=str,
        choices=epc.MODES,
        settable=True,
        category=Category.SETTING,
    )
    frequency = Field(
        doc="Set scrambling frequency of each squeezer, whole hertz",
        unit=Hertz,
        range=(0.0, float(epc.MAX_HZ)),
        size=epc.CHANNELS,
        settable=True,
        category=Category.SETTING,
    )
    waveform = Field(
        doc="Set waveform of the scrambling",
        kind=str,
        choices=epc.WAVEFORMS,
        settable=True,
        category=Category.SETTING,
    )
    on_close = Field(
        doc="Set what happens to the voltages when the device is closed",
        kind=str,
        choices=("hold", "zero"),
        settable=True,
        readable=False,
        category=Category.SETTING,
    )

    _zero_on_close = False

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 9600),)

    # Role PolarizationController

    @property
    def paddles(self) -> int:
        return epc.CHANNELS

    @property
    def setting_unit(self) -> str:
        return "V"

    @property
    def setting_range(self) -> tuple[float, float]:
        limits = self.limits("voltage")
        return limits.low, limits.high

    async def settings(self) -> tuple[float, ...]:
        """Voltages of all squeezers."""
        self.require_open("get voltage")
        return tuple(number / 1000 for number in await self._query("get voltage", epc.VOLTAGES, epc.voltages))

    async def move(self, paddle: int, value: float) -> float:
        """Set squeezer 0 to 3 to `value` volt. Returns the read-back. Raises OutOfRange; CommandRefused."""
        self.require_open("move")
        if not 0 <= paddle < self.paddles:
            raise ValueError(f"there are squeezers 0 to {self.paddles - 1}, not {paddle}")
        self.check("voltage", value)
        wanted = round(value * 1000)
        await self._command("move", epc.set_voltage(paddle + 1, wanted))
        found = (await self._query("move", epc.VOLTAGES, epc.voltages))[paddle]
        if abs(found - wanted) > _TOLERANCE_MV:
            raise self.error(
                errors.CommandRefused, "move", f"squeezer {paddle} stays at {found} mV instead of {wanted} mV"
            )
        return found / 1000

    # Hooks of the driver

    async def _identify(self) -> Identity:
        await self._query("identify", epc.VOLTAGES, epc.known, urgent=True)
        return Identity("OZ Optics", "EPC-400", "", "")

    async def _start(self) -> None:
        # the voltages stay as they are: they hold the polarization that an earlier run found
        await self._command("reach safe state", epc.set_mode("dc"))

    async def _make_safe(self) -> None:
        await self._start()
        for command in epc.ZERO if self._zero_on_close else ():
            await self._command("reach safe state", command)

    # Fields

    async def _get_voltage(self) -> Values:
        return await self.settings()

    async def _set_voltage(self, values: Values) -> Values:
        return tuple([await self.move(paddle, float(value)) for paddle, value in enumerate(values)])

    async def _get_mode(self) -> Values:
        return (await self._query("get mode", epc.MODE, epc.mode),)

    async def _set_mode(self, values: Values) -> Values:
        await self._command("set mode", epc.set_mode(str(values[0])))
        return self._same("set mode", values, await self._get_mode())

    async def _get_frequency(self) -> Values:
        found = await self._query("get frequency", epc.FREQUENCIES, epc.frequencies)
        return tuple(float(number) for number in found)

    async def _set_frequency(self, values: Values) -> Values:
        wanted = [round(float(value)) for value in values]
        for channel, hertz in enumerate(wanted, start=1):
            await self._command("set frequency", epc.set_frequency(channel, hertz))
        return self._same("set frequency", tuple(wanted), await self._get_frequency())

    async def _get_waveform(self) -> Values:
        return (await self._query("get waveform", epc.WAVEFORM, epc.waveform),)

    async def _set_waveform(self, values: Values) -> Values:
        await self._command("set waveform", epc.set_waveform(str(values[0])))
        return self._same("set waveform", values, await self._get_waveform())

    async def _set_on_close(self, values: Values) -> Values:
        self._zero_on_close = values[0] == "zero"
        return values

    # Dialogue

    def _same(self, operation: str, wanted: Values, found: Values) -> Values:
        if found != wanted:
            raise self.error(errors.CommandRefused, operation, f"it stays at {found} instead of {wanted}")
        return found

    async def _query(self, operation: str, question: bytes, parse: Callable[[str], T], *, urgent: bool = False) -> T:
        return await self._ask(operation, question, lambda lines: parse(" ".join(lines)), urgent=urgent)

    async def _command(self, operation: str, command: bytes) -> None:
        await self._ask(operation, command, lambda _: None)

    async def _ask(self, operation: str, command: bytes, parse: Callable[[list[str]], T], **how: Any) -> T:
        def answer(reader: ByteReader, seconds: float) -> T:
            lines: list[str] = []
            for _ in range(_LINES):
                line = text_line(reader.until(epc.END, seconds, limit=1024)).strip()
                if epc.over(line):
                    return parse(lines)
                if line and (lines or line != command.decode()):  # the echo of some firmware
                    lines.append(line)
            raise FrameError(f"{_LINES} lines and no Done")

        return await self.exchange(operation, command + epc.END, answer, **how)
