"""Thorlabs CLD1015 and its sisters: laser diode current and temperature.

Source: fact sheet `devices.md` section 13. SCPI over USBTMC. The laser is not switched on while its temperature is not under
control, and its current moves in steps. Safe state: no emission, no current; the temperature goes on being held, because a
diode that warms up while the program restarts has to settle again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Amperes, Kelvins, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.transport import ByteLink
from qkdd_drivers.scpi import ScpiDriver, identity, number, on_off, switch

_MODELS = r"CLD101\d\w*|ITC4\d\d\d\w*"
_ICE = 273.15
_AMPERE_STEP = 50e-6  # by which a read-back may differ from what was set; the converter's step is not documented
_KELVIN_STEP = 0.02


class Cld1015(ScpiDriver):
    """Roles LaserDriver, TemperatureController."""

    current = Field(
        doc="Control laser current", unit=Amperes, range=(0.0, 20.0), settable=True, category=Category.CONTROL
    )
    current_limit = Field(
        doc="Set current that the instrument itself never exceeds",
        unit=Amperes,
        range=(0.0, 20.0),
        settable=True,
        category=Category.SETTING,
    )
    emission = Field(doc="Control whether the laser is on", kind=bool, settable=True, category=Category.CONTROL)
    temperature = Field(
        doc="Control temperature that is held",
        unit=Kelvins,
        range=(_ICE - 55.0, _ICE + 150.0),
        settable=True,
        category=Category.CONTROL,
    )
    tec = Field(doc="Control whether the temperature is held", kind=bool, settable=True, category=Category.CONTROL)
    ramp_step = Field(
        doc="Set step by which the current moves",
        unit=Amperes,
        range=(1e-5, 1.0),
        settable=True,
        readable=False,
        category=Category.SETTING,
    )
    temperature_window = Field(
        doc="Set difference to the held temperature at which the laser may be switched on",
        unit=Kelvins,
        range=(0.01, 10.0),
        settable=True,
        readable=False,
        category=Category.SETTING,
    )
    on_close = Field(
        doc="Set whether the temperature is held when the device is closed",
        kind=str,
        choices=("hold", "off"),
        settable=True,
        readable=False,
        category=Category.SETTING,
    )
    measured_current = Field(doc="Measure laser current", unit=Amperes)
    measured_voltage = Field(doc="Measure laser voltage", unit=Volts, category=Category.DIAGNOSTIC)
    measured_temperature = Field(doc="Measure temperature of the laser", unit=Kelvins)

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._ramp, self._window, self._hold = 0.01, 0.5, True

    # Role LaserDriver

    @property
    def current_range(self) -> tuple[float, float]:
        limits = self.limits("current")
        return limits.low, limits.high

    async def read_current(self) -> float:
        self.require_open("get measured_current")
        return await self.query("get measured_current", "SENS3:CURR:DATA?", number)

    async def set_current(self, value: float) -> float:
        self.require_open("set current")
        self.check("current", value)
        return await self._ramp_to("set current", value)

    async def is_emitting(self) -> bool:
        self.require_open("get emission")
        return await self._emitting("get emission")

    async def set_emission(self, on: bool) -> None:
        """The laser comes on without current, then goes to its set-point in steps."""
        self.require_open("set emission")
        if not on:
            await self._dark("set emission")
            return
        await self._must_be_held("set emission")
        if await self._emitting("set emission"):
            return
        wanted = await self._set_point("set emission")
        await self._write_current("set emission", 0.0)
        await self.command("set emission", "OUTP:STAT ON")
        if not await self._emitting("set emission"):
            await self._write_current("set emission", wanted)
            problem = "the laser stays off: look at its interlock, key switch and limits"
            raise self.error(errors.CommandRefused, "set emission", problem)
        await self._ramp_to("set emission", wanted)

    # Role TemperatureController

    @property
    def temperature_range(self) -> tuple[float, float]:
        limits = self.limits("temperature")
        return limits.low, limits.high

    async def read_temperature(self) -> float:
        self.require_open("get measured_temperature")
        return await self._measured("get measured_temperature")

    async def set_temperature(self, value: float) -> float:
        self.require_open("set temperature")
        self.check("temperature", value)
        await self.command("set temperature", f"SOUR2:TEMP:SPO {value - _ICE:.3f}")
        return self.must_match("set temperature", value, await self._held("set temperature"), _KELVIN_STEP)

    async def set_control(self, on: bool) -> None:
        """Refused for off while the laser is on."""
        self.require_open("set tec")
        if not on and await self._emitting("set tec"):
            raise self.error(errors.CommandRefused, "set tec", "the laser is on: switch it off first")
        await self._write_tec("set tec", on)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        return await self.query("identify", "*IDN?", lambda t: identity(t, _MODELS, "laser driver"), urgent=True)

    async def _start(self) -> None:
        await self.command("start", "*CLS")
        await self._dark("start")
        await self.command("start", "SOUR:FUNC:MODE CURR")
        most = await self.query("start", "SOUR:CURR:LEV:IMM:AMPL? MAX", number)
        for field in ("current", "current_limit"):
            self.narrow(field, 0.0, most)

    async def _make_safe(self) -> None:
        await self._dark("reach safe state")
        if not self._hold:
            await self._write_tec("reach safe state", False)

    # Fields

    async def _get_current(self) -> Values:
        return (await self._set_point("get current"),)

    async def _set_current(self, values: Values) -> Values:
        return (await self.set_current(float(values[0])),)

    async def _get_current_limit(self) -> Values:
        return (await self.query("get current_limit", "SOUR:CURR:LIM:AMPL?", number),)

    async def _set_current_limit(self, values: Values) -> Values:
        wanted = float(values[0])
        await self.command("set current_limit", f"SOUR:CURR:LIM:AMPL {wanted:.6f}")
        found = await self.query("set current_limit", "SOUR:CURR:LIM:AMPL?", number)
        return (self.must_match("set current_limit", wanted, found, _AMPERE_STEP),)

    async def _get_emission(self) -> Values:
        return (await self._emitting("get emission"),)

    async def _set_emission(self, values: Values) -> Values:
        await self.set_emission(bool(values[0]))
        return (bool(values[0]),)

    async def _get_temperature(self) -> Values:
        return (await self._held("get temperature"),)

    async def _set_temperature(self, values: Values) -> Values:
        return (await self.set_temperature(float(values[0])),)

    async def _get_tec(self) -> Values:
        return (await self._tec_on("get tec"),)

    async def _set_tec(self, values: Values) -> Values:
        await self.set_control(bool(values[0]))
        return (bool(values[0]),)

    async def _set_ramp_step(self, values: Values) -> Values:
        self._ramp = float(values[0])
        return values

    async def _set_temperature_window(self, values: Values) -> Values:
        self._window = float(values[0])
        return values

    async def _set_on_close(self, values: Values) -> Values:
        self._hold = values[0] == "hold"
        return values

    async def _get_measured_current(self) -> Values:
        return (await self.read_current(),)

    async def _get_measured_voltage(self) -> Values:
        return (await self.query("get measured_voltage", "SENS4:VOLT:DATA?", number),)

    async def _get_measured_temperature(self) -> Values:
        return (await self._measured("get measured_temperature"),)

    # Dialogue

    async def _emitting(self, operation: str) -> bool:
        return await self.query(operation, "OUTP:STAT?", switch)

    async def _tec_on(self, operation: str) -> bool:
        return await self.query(operation, "OUTP2:STAT?", switch)

    async def _set_point(self, operation: str) -> float:
        return await self.query(operation, "SOUR:CURR:LEV:IMM:AMPL?", number)

    async def _held(self, operation: str) -> float:
        return await self.query(operation, "SOUR2:TEMP:SPO?", number) + _ICE

    async def _measured(self, operation: str) -> float:
        return await self.query(operation, "SENS2:TEMP:DATA?", number) + _ICE

    async def _write_current(self, operation: str, ampere: float) -> float:
        await self.command(operation, f"SOUR:CURR:LEV:IMM:AMPL {ampere:.6f}")
        return self.must_match(operation, ampere, await self._set_point(operation), _AMPERE_STEP)

    async def _write_tec(self, operation: str, on: bool) -> None:
        await self.command(operation, f"OUTP2:STAT {on_off(on)}")
        if await self._tec_on(operation) != on:
            raise self.error(
                errors.CommandRefused, operation, f"the temperature control stays {on_off(not on).lower()}"
            )

    async def _dark(self, operation: str) -> None:
        await self.command(operation, "OUTP:STAT OFF")
        if await self._emitting(operation):
            raise self.error(errors.CommandRefused, operation, "the laser stays on")
        await self._write_current(operation, 0.0)

    async def _ramp_to(self, operation: str, ampere: float) -> float:
        """In steps while the laser is on; at once while it is off."""
        found = await self._set_point(operation)
        if await self._emitting(operation):
            steps = math.ceil(abs(ampere - found) / self._ramp)
            for step in range(1, steps):
                await self.command(operation, f"SOUR:CURR:LEV:IMM:AMPL {found + (ampere - found) * step / steps:.6f}")
        return await self._write_current(operation, ampere)

    async def _must_be_held(self, operation: str) -> None:
        if not await self._tec_on(operation):
            raise self.error(errors.CommandRefused, operation, "the temperature is not held: switch `tec` on first")
        off = abs(await self._measured(operation) - await self._held(operation))
        if off > self._window:
            problem = f"the temperature is {off:.2f} K away from what is to be held; {self._window:g} K are allowed"
            raise self.error(errors.CommandRefused, operation, problem)
