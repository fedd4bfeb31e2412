"""Thorlabs PM100D, PM100USB, PM400: optical power meters.

Source: fact sheet `devices.md` section 12. SCPI over USBTMC. A meter that somebody left in dBm would silently change the
meaning of its answers, so the unit is set to watt on every open and read back.
"""

from __future__ import annotations

from collections.abc import Sequence

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Kelvins, Metres, Watts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.transport import ByteLink
from qkdd_drivers.scpi import ScpiDriver, identity, number, switch
from qkdd_drivers.thorlabs_pm100d.protocol import NO_SENSOR, Sensor, sensor

_MODELS = r"PM100D|PM100USB|PM100A|PM101\w*|PM160\w*|PM200|PM400"
_NANO, _ICE = 1e-9, 273.15
_PER_SAMPLE = 0.003  # seconds


class Pm100d(ScpiDriver):
    """Role PowerMeter. Nothing in it can do harm: opening sets the unit, closing does nothing."""

    power = Field(doc="Measure optical power", unit=Watts)
    wavelength = Field(
        doc="Set wavelength for which the sensor's answer is corrected",
        unit=Metres,
        range=(100e-9, 30e-6),
        settable=True,
        category=Category.SETTING,
    )
    averaging = Field(
        doc="Set samples that are averaged, 3 ms each",
        kind=int,
        range=(1, 3000),
        settable=True,
        category=Category.SETTING,
    )
    auto_range = Field(
        doc="Set whether the meter chooses its measuring range", kind=bool, settable=True, category=Category.SETTING
    )
    zeroing = Field(
        doc="Set true to take the present light as zero; cover the sensor first",
        kind=bool,
        settable=True,
        readable=False,
        category=Category.SETTING,
    )
    sensor_name = Field(doc="Get name of the connected sensor", kind=str, category=Category.DIAGNOSTIC)
    head_temperature = Field(doc="Measure temperature of the sensor head", unit=Kelvins, category=Category.DIAGNOSTIC)

    zero_time = 20.0
    """Seconds for zeroing."""

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._sensor = NO_SENSOR
        self._averaging = 1

    # Role PowerMeter

    async def read_power(self) -> float:
        self.require_open("get power")
        if not self._sensor.power:
            raise self.error(
                errors.CommandRefused, "get power", f"{self._sensor.name}: no sensor for power is connected"
            )
        patience = self.answer_time + self._averaging * _PER_SAMPLE
        return await self.query("get power", "MEAS:POW?", number, patience)

    async def set_wavelength(self, value: float) -> float:
        self.require_open("set wavelength")
        self.check("wavelength", value)
        await self.command("set wavelength", f"SENS:CORR:WAV {value / _NANO:.2f}")
        found = await self.query("set wavelength", "SENS:CORR:WAV?", number)
        return self.must_match("set wavelength", value / _NANO, found, 0.51) * _NANO

    # Hooks of the driver

    async def _identify(self) -> Identity:
        return await self.query(
            "identify", "*IDN?", lambda t: identity(t, _MODELS, "Thorlabs power meter"), urgent=True
        )

    async def _start(self) -> None:
        await self.command("start", "*CLS", "SENS:POW:UNIT W")
        unit = await self.query("start", "SENS:POW:UNIT?", str)
        if unit.upper() != "W":
            raise self.error(errors.CommandRefused, "start", f"its unit stays {unit!r}")
        self._sensor = await self.query("start", "SYST:SENS:IDN?", sensor)
        self._averaging = round(await self.query("start", "SENS:AVER:COUN?", number))
        if self._sensor.power:
            low = await self.query("start", "SENS:CORR:WAV? MIN", number)
            high = await self.query("start", "SENS:CORR:WAV? MAX", number)
            self.narrow("wavelength", low * _NANO, high * _NANO)

    async def _make_safe(self) -> None:
        """A meter is always safe."""

    # Fields

    async def _get_power(self) -> Values:
        return (await self.read_power(),)

    async def _get_wavelength(self) -> Values:
        return (await self.query("get wavelength", "SENS:CORR:WAV?", number) * _NANO,)

    async def _set_wavelength(self, values: Values) -> Values:
        return (await self.set_wavelength(float(values[0])),)

    async def _get_averaging(self) -> Values:
        self._averaging = round(await self.query("get averaging", "SENS:AVER:COUN?", number))
        return (self._averaging,)

    async def _set_averaging(self, values: Values) -> Values:
        await self.command("set averaging", f"SENS:AVER:COUN {round(float(values[0]))}")
        (found,) = await self._get_averaging()
        self.must_match("set averaging", round(float(values[0])), float(found), 0.5)
        return (found,)

    async def _get_auto_range(self) -> Values:
        return (await self.query("get auto_range", "SENS:POW:RANG:AUTO?", switch),)

    async def _set_auto_range(self, values: Values) -> Values:
        await self.command("set auto_range", f"SENS:POW:RANG:AUTO {int(bool(values[0]))}")
        found = await self.query("set auto_range", "SENS:POW:RANG:AUTO?", switch)
        self.must_match("set auto_range", float(bool(values[0])), float(found), 0.0)
        return (found,)

    async def _set_zeroing(self, values: Values) -> Values:
        if not values[0]:
            await self.command("set zeroing", "SENS:CORR:COLL:ZERO:ABOR")
            return values
        await self.command("set zeroing", "SENS:CORR:COLL:ZERO:INIT")
        end = self._clock.monotonic() + self.zero_time
        while await self.query("set zeroing", "SENS:CORR:COLL:ZERO:STAT?", number):
            if self._clock.monotonic() >= end:
                raise self.error(errors.DeviceTimeout, "set zeroing", f"not done after {self.zero_time:g} s")
            await self._clock.sleep(0.1)
        return values

    async def _get_sensor_name(self) -> Values:
        found: Sensor = await self.query("get sensor_name", "SYST:SENS:IDN?", sensor)
        return (found.name,)

    async def _get_head_temperature(self) -> Values:
        if not self._sensor.temperature:
            raise self.error(
                errors.CommandRefused, "get head_temperature", f"{self._sensor.name}: it has no thermometer"
            )
        return (await self.query("get head_temperature", "MEAS:TEMP?", number) + _ICE,)
