"""ID Quantique ID120: single-photon detector for visible light, bias, cooler and counters.

Source: fact sheet `devices.md` section 7. SCPI-like commands over USBTMC, integers in micro- and milli-units. The instrument has
no error queue, so each set is read back.
"""

from __future__ import annotations

from collections.abc import Sequence

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Hertz, Kelvins, Seconds, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import CountReading, Identity
from qkdd.device.transport import ByteLink, FrameError, Stranger
from qkdd_drivers.scpi import ScpiDriver, number, switch

_MICRO, _MILLI, _ICE = 1e-6, 1e-3, 273.15
_BIAS_STEP, _THRESHOLD_STEP, _TIME_STEP, _TEMPERATURE_STEP, _DEAD_STEP = 0.08, 0.5e-3, 0.2, 1.0, 40


class Id120(ScpiDriver):
    """Role Detector, bias in volt. Opening leaves bias and cooler as they are found; closing takes the bias to zero."""

    error_query = ""

    bias_voltage = Field(
        doc="Control bias of the avalanche diode",
        unit=Volts,
        range=(0.0, 250.0),
        settable=True,
        category=Category.CONTROL,
    )
    threshold = Field(
        doc="Set threshold of the discriminator",
        unit=Volts,
        range=(0.0, 1.047),
        settable=True,
        category=Category.SETTING,
    )
    dead_time_raw = Field(
        doc="Set dead time in the instrument's own unit, in steps of 40",
        kind=int,
        range=(40, 1_000_000),
        settable=True,
        category=Category.SETTING,
    )
    integration_time = Field(
        doc="Set period over which counts are taken",
        unit=Seconds,
        range=(0.2, 100.0),
        settable=True,
        category=Category.SETTING,
    )
    temperature = Field(
        doc="Set temperature that the cooler holds",
        unit=Kelvins,
        range=(_ICE - 50.0, _ICE - 10.0),
        settable=True,
        category=Category.SETTING,
    )
    cooler = Field(doc="Control whether the cooler runs", kind=bool, settable=True, category=Category.CONTROL)
    polarity = Field(
        doc="Set polarity of the two outputs",
        kind=str,
        choices=("positive", "negative"),
        size=2,
        settable=True,
        category=Category.SETTING,
    )
    on_close = Field(
        doc="Set what the cooler does when the device is closed",
        kind=str,
        choices=("off", "hold"),
        settable=True,
        readable=False,
        category=Category.SETTING,
    )
    count_rate = Field(doc="Measure detections a second", unit=Hertz)
    measured_temperature = Field(doc="Measure temperature of the diode", unit=Kelvins)
    cooler_state = Field(doc="Get what the cooler is doing", kind=str, category=Category.DIAGNOSTIC)
    bias_error = Field(doc="Get whether the bias supply reports an error", kind=bool, category=Category.DIAGNOSTIC)
    breakdown_voltage = Field(doc="Get breakdown voltage as its maker tells", unit=Volts, category=Category.DIAGNOSTIC)

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._last_bias = 0.0
        self._hold = False

    # Role Detector

    @property
    def detectors(self) -> int:
        return 1

    @property
    def bias_unit(self) -> str:
        return "V"

    async def counts(self) -> CountReading:
        """The instrument's last whole period; the same again when it is asked more often than that."""
        self.require_open("get counts")
        period = await self._read("get counts", "COUNTERS:INTEGRATION_TIME", _MILLI)
        counts = await self.query("get counts", "COUNTERS:DETECTION_COUNT?", number)
        return CountReading(self._clock.wall(), period, (round(counts),))

    async def bias(self) -> tuple[float, ...]:
        self.require_open("get bias")
        return (await self._read("get bias", "BIAS:VOLTAGE", _MICRO),)

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
        elif await self._read("set enabled", "BIAS:VOLTAGE", _MICRO) <= 0.0:
            if self._last_bias <= 0.0:
                raise self.error(errors.CommandRefused, "set enabled", "no bias was set yet")
            await self._write_bias("set enabled", self._last_bias)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        await self.query("identify", "INFO:PRODUCT_NAME?", _must_be_it, urgent=True)
        serial = await self.query("identify", "INFO:PRODUCT_SERIAL_NUMBER?", str, urgent=True)
        firmware = await self.query("identify", "INFO:FIRMWARE_VERSION?", str, urgent=True)
        return Identity("ID Quantique", "ID120", serial.strip('"'), firmware.strip('"'))

    async def _ping(self) -> None:
        await self.query("ping", "INFO:PRODUCT_NAME?", str, urgent=True)

    async def _start(self) -> None:
        """Nothing to do: see the class."""

    async def _make_safe(self) -> None:
        await self._write_bias("reach safe state", 0.0)
        if not self._hold:
            await self._write_cooler("reach safe state", False)

    # Fields

    async def _get_bias_voltage(self) -> Values:
        return (await self._read("get bias_voltage", "BIAS:VOLTAGE", _MICRO),)

    async def _set_bias_voltage(self, values: Values) -> Values:
        return (await self._write_bias("set bias_voltage", float(values[0])),)

    async def _get_threshold(self) -> Values:
        return (await self._read("get threshold", "THRESHOLD:VOLTAGE", _MICRO),)

    async def _set_threshold(self, values: Values) -> Values:
        return (await self._write("set threshold", "THRESHOLD:VOLTAGE", float(values[0]), _MICRO, _THRESHOLD_STEP),)

    async def _get_dead_time_raw(self) -> Values:
        return (round(await self._read("get dead_time_raw", "DEADTIME:TIME", 1.0)),)

    async def _set_dead_time_raw(self, values: Values) -> Values:
        return (round(await self._write("set dead_time_raw", "DEADTIME:TIME", float(values[0]), 1.0, _DEAD_STEP)),)

    async def _get_integration_time(self) -> Values:
        return (await self._read("get integration_time", "COUNTERS:INTEGRATION_TIME", _MILLI),)

    async def _set_integration_time(self, values: Values) -> Values:
        command = "COUNTERS:INTEGRATION_TIME"
        return (await self._write("set integration_time", command, float(values[0]), _MILLI, _TIME_STEP),)

    async def _get_temperature(self) -> Values:
        return (await self._read("get temperature", "REG:TEMP_SET_POINT", _MILLI) + _ICE,)

    async def _set_temperature(self, values: Values) -> Values:
        wanted = float(values[0]) - _ICE
        return (await self._write("set temperature", "REG:TEMP_SET_POINT", wanted, _MILLI, _TEMPERATURE_STEP) + _ICE,)

    async def _get_cooler(self) -> Values:
        return (await self.query("get cooler", "REG:RUN?", switch),)

    async def _set_cooler(self, values: Values) -> Values:
        await self._write_cooler("set cooler", bool(values[0]))
        return (bool(values[0]),)

    async def _get_polarity(self) -> Values:
        return tuple([await self.query("get polarity", f"OUTPUT{n}:POLARITY?", _polarity) for n in (1, 2)])

    async def _set_polarity(self, values: Values) -> Values:
        for n, value in enumerate(values, 1):
            await self.command("set polarity", f"OUTPUT{n}:POLARITY {str(value).upper()}")
        found = await self._get_polarity()
        if found != values:
            raise self.error(errors.CommandRefused, "set polarity", f"the outputs stay {', '.join(map(str, found))}")
        return found

    async def _set_on_close(self, values: Values) -> Values:
        self._hold = values[0] == "hold"
        return values

    async def _get_count_rate(self) -> Values:
        return (await self.query("get count_rate", "COUNTERS:DETECTION_FREQ?", number),)

    async def _get_measured_temperature(self) -> Values:
        return (await self._read("get measured_temperature", "REG:MEASURED_TEMP", _MILLI) + _ICE,)

    async def _get_cooler_state(self) -> Values:
        return (await self.query("get cooler_state", "REG:STATE?", str),)

    async def _get_bias_error(self) -> Values:
        return (await self.query("get bias_error", "BIAS:ERROR_STATUS?", switch),)

    async def _get_breakdown_voltage(self) -> Values:
        return (await self._read("get breakdown_voltage", "INFO:BIAS_BREAKDOWN_VOLTAGE", _MICRO),)

    # Dialogue

    async def _read(self, operation: str, command: str, unit: float) -> float:
        return await self.query(operation, f"{command}?", number) * unit

    async def _write(self, operation: str, command: str, value: float, unit: float, step: float) -> float:
        """Round to the instrument's step, send, read back."""
        await self.command(operation, f"{command} {round(round(value / step) * step / unit)}")
        return self.must_match(operation, value, await self._read(operation, command, unit), 0.51 * step)

    async def _write_bias(self, operation: str, volt: float) -> float:
        found = await self._write(operation, "BIAS:VOLTAGE", volt, _MICRO, _BIAS_STEP)
        if volt > 0.0:
            self._last_bias = volt
        return found

    async def _write_cooler(self, operation: str, on: bool) -> None:
        await self.command(operation, f"REG:RUN {str(on).upper()}")
        if await self.query(operation, "REG:RUN?", switch) != on:
            raise self.error(errors.CommandRefused, operation, f"the cooler {'does not start' if on else 'goes on'}")


def _must_be_it(text: str) -> None:
    if "ID120" not in text.upper():
        raise Stranger(f"{text[:60]!r} answers, which is no ID120")


def _polarity(text: str) -> str:
    word = text.strip().strip('"').lower()
    if word not in ("positive", "negative"):
        raise FrameError(f"{text[:40]!r} is no polarity")
    return word
