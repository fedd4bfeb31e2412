"""S-Fifteen SPD: avalanche diode module with counter.

Source: fact sheet `devices.md` section 6 (pyS15, serial text as the TDC1). The ranges are in no source, so the bias cannot be
raised before the site has said in `limits` how far it may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Kelvins, Seconds, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import CountReading, Identity
from qkdd.device.serial_link import serial_line
from qkdd.device.transport import ByteLink, Stranger
from qkdd_drivers.scpi import ScpiDriver, number, switch

_MILLI, _ICE = 1e-3, 273.15


class Spd(ScpiDriver):
    """Role Detector, bias in volt. Opening leaves the bias as it is found; closing takes it to zero, the cooler goes on."""

    error_query = ""
    end = b"\r\n"
    options: ClassVar[dict[str, str]] = {}

    bias_voltage = Field(
        doc="Control bias of the avalanche diode",
        unit=Volts,
        range=(0.0, 1000.0),
        settable=True,
        category=Category.CONTROL,
    )
    threshold = Field(
        doc="Set threshold of the discriminator",
        unit=Volts,
        range=(-10.0, 10.0),
        settable=True,
        category=Category.SETTING,
    )
    temperature = Field(
        doc="Set temperature that is held",
        unit=Kelvins,
        range=(_ICE - 100.0, _ICE + 60.0),
        settable=True,
        category=Category.SETTING,
    )
    cooler = Field(doc="Control whether the temperature is held", kind=bool, settable=True, category=Category.CONTROL)
    gate_time = Field(
        doc="Set period over which counts are taken",
        unit=Seconds,
        range=(1e-3, 65.535),
        settable=True,
        category=Category.SETTING,
    )
    proportional = Field(
        doc="Set proportional constant of the cooler's loop",
        range=(-1e6, 1e6),
        settable=True,
        category=Category.SETTING,
    )
    integral = Field(
        doc="Set integral constant of the cooler's loop", range=(-1e6, 1e6), settable=True, category=Category.SETTING
    )
    delay_raw = Field(
        doc="Set delay of the output in the instrument's own steps",
        kind=int,
        range=(0, 65535),
        settable=True,
        category=Category.SETTING,
    )
    measured_temperature = Field(doc="Measure temperature of the diode", unit=Kelvins)
    cooler_voltage = Field(doc="Measure voltage at the cooler", unit=Volts, category=Category.DIAGNOSTIC)

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        if "bias_voltage" not in config.limits:
            self.narrow("bias_voltage", 0.0, 0.0)
        self._last_bias = 0.0

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 115200),)

    # Role Detector

    @property
    def detectors(self) -> int:
        return 1

    @property
    def bias_unit(self) -> str:
        return "V"

    async def counts(self) -> CountReading:
        """Starts a gate and waits for its end."""
        self.require_open("get counts")
        gate = await self._read("get counts", "time") * _MILLI
        counts = await self.query("get counts", "counts?", number, gate + self.answer_time)
        return CountReading(self._clock.wall(), gate, (round(counts),))

    async def bias(self) -> tuple[float, ...]:
        self.require_open("get bias")
        return (await self._read("get bias", "hvolt"),)

    async def set_bias(self, detector: int, value: float) -> float:
        self.require_open("set bias")
        if detector != 0:
            raise ValueError(f"there is one detector, number 0, not {detector}")
        self.check("bias_voltage", value)
        return await self._write_bias("set bias", value)

    async def set_enabled(self, enabled: bool) -> None:
        """Off: no bias. On: the bias that was set last; refused when none was."""
        self.require_open("set enabled")
        if not enabled:
            await self._write_bias("set enabled", 0.0)
            return
        if self._last_bias <= 0.0:
            raise self.error(errors.CommandRefused, "set enabled", "no bias was set yet")
        await self._write_bias("set enabled", self._last_bias)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        return await self.query("identify", "*IDN?", _identity, urgent=True)

    async def _start(self) -> None:
        """Nothing to do: see the class."""

    async def _make_safe(self) -> None:
        await self._write_bias("reach safe state", 0.0)

    # Fields

    async def _get_bias_voltage(self) -> Values:
        return (await self._read("get bias_voltage", "hvolt"),)

    async def _set_bias_voltage(self, values: Values) -> Values:
        return (await self._write_bias("set bias_voltage", float(values[0])),)

    async def _get_threshold(self) -> Values:
        return (await self._read("get threshold", "threshvolt"),)

    async def _set_threshold(self, values: Values) -> Values:
        return (await self._write("set threshold", "threshvolt", float(values[0]), 0.01),)

    async def _get_temperature(self) -> Values:
        return (await self._read("get temperature", "settemp") + _ICE,)

    async def _set_temperature(self, values: Values) -> Values:
        return (await self._write("set temperature", "settemp", float(values[0]) - _ICE, 0.1) + _ICE,)

    async def _get_cooler(self) -> Values:
        return (await self.query("get cooler", "loop?", switch),)

    async def _set_cooler(self, values: Values) -> Values:
        await self.command("set cooler", f"loop {int(bool(values[0]))}")
        found = await self.query("set cooler", "loop?", switch)
        self.must_match("set cooler", float(bool(values[0])), float(found), 0.0)
        return (found,)

    async def _get_gate_time(self) -> Values:
        return (await self._read("get gate_time", "time") * _MILLI,)

    async def _set_gate_time(self, values: Values) -> Values:
        return (await self._write("set gate_time", "time", round(float(values[0]) / _MILLI), 0.5) * _MILLI,)

    async def _get_proportional(self) -> Values:
        return (await self._read("get proportional", "constp"),)

    async def _set_proportional(self, values: Values) -> Values:
        return (await self._write_constant("proportional", "constp", float(values[0])),)

    async def _get_integral(self) -> Values:
        return (await self._read("get integral", "consti"),)

    async def _set_integral(self, values: Values) -> Values:
        return (await self._write_constant("integral", "consti", float(values[0])),)

    async def _get_delay_raw(self) -> Values:
        return (round(await self._read("get delay_raw", "delay")),)

    async def _set_delay_raw(self, values: Values) -> Values:
        return (round(await self._write("set delay_raw", "delay", round(float(values[0])), 0.5)),)

    async def _get_measured_temperature(self) -> Values:
        return (await self._read("get measured_temperature", "temp") + _ICE,)

    async def _get_cooler_voltage(self) -> Values:
        return (await self._read("get cooler_voltage", "pvolt"),)

    # Dialogue

    async def _read(self, operation: str, command: str) -> float:
        return await self.query(operation, f"{command}?", number)

    async def _write(self, operation: str, command: str, value: float, tolerance: float) -> float:
        await self.command(operation, f"{command} {value:.10g}")
        return self.must_match(operation, value, await self._read(operation, command), tolerance)

    async def _write_constant(self, field: str, command: str, value: float) -> float:
        return await self._write(f"set {field}", command, value, 1e-3 + 1e-3 * abs(value))

    async def _write_bias(self, operation: str, volt: float) -> float:
        # whether the read-back is the set-point or what is measured is not known: hence the wide tolerance
        found = await self._write(operation, "hvolt", round(volt, 3), max(1.0, 0.02 * volt))
        if volt > 0.0:
            self._last_bias = volt
        return found


def _identity(text: str) -> Identity:
    """Its answer to *IDN? is free text that contains SPD. Raises Stranger."""
    if "SPD" not in text.upper():
        raise Stranger(f"{text[:60]!r} answers, which is no SPD")
    return Identity("S-Fifteen Instruments", text[:60], "", "")
