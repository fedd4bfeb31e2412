"""Single Quantum Eos detectors through WebSQ: bias, trigger levels, counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Amperes, Seconds, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver, tcp_ports
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import CountReading, Identity
from qkdd.device.tcp_link import TcpLink
from qkdd.device.transport import ByteLink, ByteReader, FrameError, Refused, Stranger, TimedOut
from qkdd_drivers.single_quantum_websq import protocol as websq

_WRITE = 1.0
_MESSAGES = 4096  # messages that may come before the answer is complete
_MICRO, _MILLI = 1e-6, 1e-3
_WANTED = frozenset({websq.DETECTORS, websq.BIAS, websq.TRIGGER, websq.PERIOD, websq.ENABLE})


@dataclass(frozen=True, slots=True)
class _State:
    """What one labelProps told, in SI units."""

    detectors: int
    bias: tuple[float, ...]
    trigger: tuple[float, ...]
    period: float
    enabled: bool
    bounds: dict[str, tuple[float, float]]


class WebSq(Driver):
    """Role Detector. Opening leaves the bias as it is found (the cryostat may be shared); closing takes it to zero."""

    answer_time: ClassVar[float] = 1.0
    """Seconds for all messages that answer one labelProps."""

    bias_current = Field(
        doc="Control bias current of each detector",
        unit=Amperes,
        range=(0.0, 100e-6),
        size=None,
        settable=True,
        category=Category.CONTROL,
    )
    trigger_level = Field(
        doc="Set trigger level of each detector's output",
        unit=Volts,
        range=(-1.0, 1.0),
        size=None,
        settable=True,
        category=Category.SETTING,
    )
    measurement_period = Field(
        doc="Set period over which counts are taken",
        unit=Seconds,
        range=(0.01, 10.0),
        settable=True,
        category=Category.SETTING,
    )
    enabled = Field(doc="Control whether the detectors are on", kind=bool, settable=True, category=Category.CONTROL)

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._detectors = 0
        self._period = 1.0
        self._pending = b""  # of the line of counts that is on its way
        self._reader = ByteReader(links[0], clock)

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        control, counts = tcp_ports(config, (websq.CONTROL_PORT, websq.COUNTS_PORT))
        return TcpLink(config.host, control), TcpLink(config.host, counts)

    # Role Detector

    @property
    def detectors(self) -> int:
        """How many there are; 0 before the device was opened."""
        return self._detectors

    @property
    def bias_unit(self) -> str:
        return "A"

    async def counts(self) -> CountReading:
        """The newest period that was not given out yet; waits for it. `wall` is the instrument's own time stamp."""
        self.require_open("get counts")
        timeout = self._period + 2.0
        when, counts = await self.run("get counts", lambda link: self._newest_line(link, timeout), timeout, bus=1)
        return CountReading(when, self._period, counts)

    async def bias(self) -> tuple[float, ...]:
        """Bias of every detector in ampere."""
        self.require_open("get bias")
        return (await self._ask("get bias")).bias

    async def set_bias(self, detector: int, value: float) -> float:
        """Set one detector's bias in ampere; returns the read-back. Raises OutOfRange, CommandRefused."""
        self.require_open("set bias")
        if not 0 <= detector < self._detectors:
            raise ValueError(f"there are detectors 0 to {self._detectors - 1}, not {detector}")
        self.check("bias_current", value)
        bias = list((await self._ask("set bias")).bias)  # the instrument takes the whole array only
        bias[detector] = value
        return (await self._write_bias("set bias", bias))[detector]

    async def set_enabled(self, enabled: bool) -> None:
        self.require_open("set enabled")
        await self._write_enabled("set enabled", enabled)

    # Hooks of the driver

    async def _connect(self) -> Identity:
        self._reader.forget()
        self._pending = b""
        return await super()._connect()

    async def _identify(self) -> Identity:
        state = await self._ask("identify", urgent=True)
        self._detectors, self._period = state.detectors, state.period
        for field, bounds in state.bounds.items():
            self.narrow(field, *bounds)
        return Identity("Single Quantum", f"Eos with {state.detectors} detectors", "", "")

    async def _start(self) -> None:
        """Nothing to do: see the class."""

    async def _make_safe(self) -> None:
        await self._write_bias("reach safe state", [0.0] * self._detectors)
        await self._write_enabled("reach safe state", False)

    # Fields

    async def _get_bias_current(self) -> Values:
        return await self.bias()

    async def _set_bias_current(self, values: Values) -> Values:
        return await self._write_bias("set bias_current", [float(v) for v in self._for_all("bias_current", values)])

    async def _get_trigger_level(self) -> Values:
        return (await self._ask("get trigger_level")).trigger

    async def _set_trigger_level(self, values: Values) -> Values:
        volts = [float(v) for v in self._for_all("trigger_level", values)]
        state = await self._ask("set trigger_level", websq.set_trigger([v / _MILLI for v in volts]))
        self._must_match("set trigger_level", volts, state.trigger, 1e-4)
        return state.trigger

    async def _get_measurement_period(self) -> Values:
        return ((await self._ask("get measurement_period")).period,)

    async def _set_measurement_period(self, values: Values) -> Values:
        seconds = float(values[0])
        state = await self._ask("set measurement_period", websq.set_period(round(seconds / _MILLI)))
        self._must_match("set measurement_period", [seconds], [state.period], 1e-3)
        self._period = state.period
        return (state.period,)

    async def _get_enabled(self) -> Values:
        return ((await self._ask("get enabled")).enabled,)

    async def _set_enabled(self, values: Values) -> Values:
        await self._write_enabled("set enabled", bool(values[0]))
        return values

    def _for_all(self, field: str, values: Values) -> Values:
        if len(values) not in (1, self._detectors):
            raise ValueError(f"{field} has {self._detectors} elements, not {len(values)}")
        return values * self._detectors if len(values) == 1 else values

    # Dialogue

    async def _write_bias(self, operation: str, ampere: Sequence[float]) -> tuple[float, ...]:
        state = await self._ask(operation, websq.set_bias([round(a / _MICRO, 6) for a in ampere]))
        self._must_match(operation, ampere, state.bias, 0.05e-6)
        return state.bias

    async def _write_enabled(self, operation: str, enabled: bool) -> None:
        state = await self._ask(operation, websq.set_enabled(enabled))
        if state.enabled != enabled:
            raise self.error(errors.CommandRefused, operation, f"the detectors stay {'on' if state.enabled else 'off'}")

    def _must_match(self, operation: str, wanted: Sequence[float], found: Sequence[float], tolerance: float) -> None:
        for number, (a, b) in enumerate(zip(wanted, found, strict=True)):
            if abs(a - b) > tolerance:
                raise self.error(errors.CommandRefused, operation, f"element {number} is {b:g} instead of {a:g}")

    async def _ask(self, operation: str, command: bytes = b"", *, urgent: bool = False) -> _State:
        """Send a command, if any, and read everything back. Errors that the server reports are raised."""
        return await self.run(operation, lambda _: self._exchange(command), self.answer_time + _WRITE, urgent=urgent)

    def _exchange(self, command: bytes) -> _State:
        reader = self._reader
        reader.ask(command + websq.request(websq.LABEL_PROPS, "None"), _WRITE)
        end = self._clock.monotonic() + self.answer_time
        found: dict[str, websq.Message] = {}
        for _ in range(_MESSAGES):
            message = websq.message(reader.until(websq.ETB, end - self._clock.monotonic(), websq.MAX_MESSAGE))
            if message.is_error:
                raise Refused(f"it reports {message.label}: {str(message.value)[:200]}")
            if message.described:  # broadcasts of earlier changes do not count as an answer
                found[message.label] = message
                if found.keys() >= _WANTED:
                    state = _state(found)
                    reader.settled()
                    return state
        raise TimedOut(f"{_MESSAGES} messages came, but not the answer")

    def _newest_line(self, link: ByteLink, timeout: float) -> tuple[float, tuple[int, ...]]:
        """Drop the periods that nobody asked for in time; wait only when there is none."""
        end = self._clock.monotonic() + timeout
        data = self._pending
        while True:
            more = link.read(1 << 16, 0.0 if websq.LF in data else max(0.0, end - self._clock.monotonic()))
            data += more
            if more and len(data) <= websq.MAX_MESSAGE:
                continue
            lines = data.split(websq.LF)
            if len(lines) > 1:
                break
            self._pending = data
            if len(data) > websq.MAX_MESSAGE:
                self._pending = b""
                raise FrameError(f"{len(data)} bytes without the end of a line")
            raise TimedOut("no counts came")
        self._pending = lines[-1]
        return websq.counts_line(lines[-2], self._detectors)


def _state(found: dict[str, websq.Message]) -> _State:
    detectors = found[websq.DETECTORS].value
    if isinstance(detectors, bool) or not isinstance(detectors, int) or not 1 <= detectors <= 256:
        raise Stranger(f"tells {str(detectors)[:40]!r} as its number of detectors")
    enabled = found[websq.ENABLE].value
    if not isinstance(enabled, (bool, int)):
        raise FrameError(f"{websq.ENABLE} is neither true nor false")
    bounds = {}
    for field, label, unit in (("bias_current", websq.BIAS, _MICRO), ("trigger_level", websq.TRIGGER, _MILLI)):
        pair = _pair(found[label].bounds)
        if pair is not None:
            bounds[field] = (pair[0] * unit, pair[1] * unit)
    return _State(
        detectors,
        tuple(v * _MICRO for v in websq.numbers(found[websq.BIAS].value, websq.BIAS, detectors)),
        tuple(v * _MILLI for v in websq.numbers(found[websq.TRIGGER].value, websq.TRIGGER, detectors)),
        websq.number(found[websq.PERIOD].value, websq.PERIOD) * _MILLI,
        bool(enabled),
        bounds,
    )


def _pair(value: Any) -> tuple[float, float] | None:
    """Bounds, if they are two increasing numbers: their form is not documented."""
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, (int, float)) for v in value):
        return None
    low, high = float(value[0]), float(value[1])
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None
