"""PicoQuant's time taggers in T2 mode, over the vendor's library: what all models share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Seconds, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig, place_key
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.transport import ByteLink
from qkdd.device.worker_link import WorkerLink
from qkdd_drivers.options import read_options
from qkdd_drivers.picoquant.models import Model
from qkdd_drivers.worker_tagger import Clicks, WorkerTagger

_OFFSET_S = 99.999e-9
_SHORTEST_S = 800e-12  # of the longer dead times; zero switches them off
OPTIONS = {"device_index": -1, "reference": "internal", "prefix": ""}


class PicoQuantTagger(WorkerTagger):
    """Role TimeTagger. Channel 0 is the sync input, channel n the input labelled n."""

    model: ClassVar[Model]

    input_offset = Field(
        doc="Set delay of each input, sync first",
        unit=Seconds,
        range=(-_OFFSET_S, _OFFSET_S),
        size=None,
        settable=True,
        category=Category.SETTING,
    )
    count_rate = Field(doc="Measure clicks a second of each input, sync first", kind=int, size=None)
    warnings = Field(
        doc="Get the library's warning bits; its manual names them", kind=int, category=Category.DIAGNOSTIC
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._options = read_options(name, config.options, OPTIONS)
        if self._options["reference"] not in self.model.references:
            raise errors.DeviceConfigError(
                f"devices.{name}.options.reference: {self._options['reference']!r} is none of {', '.join(self.model.references)}"
            )
        self._inputs = self.model.inputs
        self._unit_ps = round(self.model.resolution_ps)
        self._state = self._fresh_state()
        # the library cannot be asked for what was set: kept here, sync first
        self._offsets = [0.0] * (self._inputs + 1)

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        if not config.library:
            raise errors.DeviceConfigError(
                f"driver {config.driver!r} needs `library`, the path of {cls.model.library} of the vendor's package"
            )
        return (WorkerLink(place_key(config), Path(__file__).with_name("library.py")),)

    # Role TimeTagger

    @property
    def resolution_ps(self) -> int:
        return self._unit_ps

    @property
    def inputs(self) -> int:
        return self._inputs + 1

    # Hooks

    def _arguments(self) -> dict[str, Any]:
        return {
            "library": self.config.library,
            "prefix": self._options["prefix"] or self.model.prefix,
            "serial": self.config.serial_number,
            "device_index": self._options["device_index"],
            "reference": self.model.references[self._options["reference"]],
            "model": self.model.options(),
        }

    def _identified(self, told: dict[str, Any]) -> Identity:
        resolution = float(told["resolution"])
        if resolution < 1 or resolution != round(resolution):
            raise self.error(
                errors.ProtocolError, "identify", f"a base resolution of {resolution:g} ps is no whole number of ps"
            )
        self._unit_ps = round(resolution)
        if told["inputs"] != self._inputs:
            self._inputs = int(told["inputs"])
            self._resized(self._inputs + 1)
        return Identity("PicoQuant", str(told["model"]), str(told["serial"]), str(told["version"]))

    def _resized(self, count: int) -> None:
        """The instrument has another number of inputs than the model usually has; `count` includes sync."""
        self._offsets = [0.0] * count

    def _fresh_state(self) -> kernels.T2State:
        return kernels.T2State(self.model.layout, self._unit_ps)

    def _began(self, told: Any) -> None:
        self._state = self._fresh_state()

    def _decode(self, records: NDArray[np.uint8]) -> Clicks:
        times, channels = kernels.decode_t2(records.view(np.uint32), self._state)
        reached = self._state.overflow * self._unit_ps
        return times, channels, max(reached, int(times[-1])) if len(times) else max(reached, self._until)

    async def _start(self) -> None:
        """The library keeps no settings from an earlier program: set what is known here, so that both agree."""
        for channel, seconds in enumerate(self._offsets):
            await self.call("offset", operation="set offset", channel=channel - 1, ps=round(seconds * 1e12))

    # Fields

    def each(self, field: str, values: Values) -> list[Any]:
        """One value for every input, sync first; a single one is for all. Raises ValueError."""
        count = self._inputs + 1
        if len(values) not in (1, count):
            raise ValueError(f"{field} has {count} elements (sync first), not {len(values)}")
        return list(values) * (count if len(values) == 1 else 1)

    async def _get_input_offset(self) -> Values:
        return tuple(self._offsets)

    async def _set_input_offset(self, values: Values) -> Values:
        for channel, seconds in enumerate(self.each("input_offset", values)):
            await self.call("offset", operation="set input_offset", channel=channel - 1, ps=round(seconds * 1e12))
            self._offsets[channel] = seconds
        return tuple(self._offsets)

    async def _get_count_rate(self) -> Values:
        return tuple(await self.call("rates", operation="get count_rate", inputs=self._inputs))

    async def _get_warnings(self) -> Values:
        return (int(await self.call("warnings", operation="get warnings")),)


class EdgeTriggered(PicoQuantTagger):
    """Inputs with a trigger level and an edge (MultiHarp, PicoHarp 330)."""

    threshold = Field(
        doc="Set trigger level of each input, sync first",
        unit=Volts,
        range=(-1.2, 1.2),
        size=None,
        settable=True,
        category=Category.SETTING,
    )
    edge = Field(
        doc="Set edge of the pulses that is taken, for each input, sync first",
        kind=str,
        choices=("falling", "rising"),  # in the order of the library's numbers
        size=None,
        settable=True,
        category=Category.SETTING,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._resized(self._inputs + 1)

    def _resized(self, count: int) -> None:
        super()._resized(count)
        self._levels, self._edges = [-0.1] * count, ["falling"] * count

    async def _start(self) -> None:
        await super()._start()
        for channel in range(self._inputs + 1):
            await self._trigger(channel, self._levels[channel], self._edges[channel])

    async def _trigger(self, channel: int, volts: float, edge: str) -> None:
        number = self.fields["edge"].choices.index(edge)
        await self.call(
            "trigger", operation="set trigger", channel=channel - 1, level=round(volts * 1e3), second=number
        )

    async def _get_threshold(self) -> Values:
        return tuple(self._levels)

    async def _set_threshold(self, values: Values) -> Values:
        for channel, value in enumerate(self.each("threshold", values)):
            await self._trigger(channel, value, self._edges[channel])
            self._levels[channel] = value
        return tuple(self._levels)

    async def _get_edge(self) -> Values:
        return tuple(self._edges)

    async def _set_edge(self, values: Values) -> Values:
        for channel, value in enumerate(self.each("edge", values)):
            await self._trigger(channel, self._levels[channel], value)
            self._edges[channel] = value
        return tuple(self._edges)


class WithDeadTime(EdgeTriggered):
    """Inputs that can be made blind for longer after a click (MultiHarp, PicoHarp 330)."""

    dead_time = Field(
        doc="Set dead time of each input, sync first; 0 leaves the instrument's own, else 0.8 ns or more",
        unit=Seconds,
        range=(0.0, 160e-9),
        size=None,
        settable=True,
        category=Category.SETTING,
    )

    def _resized(self, count: int) -> None:
        super()._resized(count)
        self._dead = [0.0] * count

    async def _start(self) -> None:
        await super()._start()
        for channel, seconds in enumerate(self._dead):
            await self.call("dead_time", operation="set dead_time", channel=channel - 1, ps=round(seconds * 1e12))

    async def _get_dead_time(self) -> Values:
        return tuple(self._dead)

    async def _set_dead_time(self, values: Values) -> Values:
        wanted = self.each("dead_time", values)
        if any(0 < seconds < _SHORTEST_S for seconds in wanted):
            raise self.error(errors.CommandRefused, "set dead_time", "between 0 and 0.8 ns there is none")
        for channel, seconds in enumerate(wanted):
            await self.call("dead_time", operation="set dead_time", channel=channel - 1, ps=round(seconds * 1e12))
            self._dead[channel] = seconds
        return tuple(self._dead)


class Discriminated(PicoQuantTagger):
    """Inputs with a constant-fraction discriminator for negative pulses (HydraHarp)."""

    threshold = Field(
        doc="Set discriminator level of each input, sync first; pulses are negative",
        unit=Volts,
        range=(-1.0, 0.0),
        size=None,
        settable=True,
        category=Category.SETTING,
    )
    zero_cross = Field(
        doc="Set zero crossing level of each input's discriminator, sync first",
        unit=Volts,
        range=(0.0, 0.040),
        size=None,
        settable=True,
        category=Category.SETTING,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._resized(self._inputs + 1)

    def _resized(self, count: int) -> None:
        super()._resized(count)
        self._levels, self._crossings = [-0.1] * count, [0.010] * count

    async def _start(self) -> None:
        await super()._start()
        for channel in range(self._inputs + 1):
            await self._discriminate(channel, self._levels[channel], self._crossings[channel])

    async def _discriminate(self, channel: int, volts: float, crossing: float) -> None:
        level, second = round(-volts * 1e3), round(crossing * 1e3)  # the library takes the size of both, in millivolts
        await self.call("trigger", operation="set discriminator", channel=channel - 1, level=level, second=second)

    async def _get_threshold(self) -> Values:
        return tuple(self._levels)

    async def _set_threshold(self, values: Values) -> Values:
        for channel, value in enumerate(self.each("threshold", values)):
            await self._discriminate(channel, value, self._crossings[channel])
            self._levels[channel] = value
        return tuple(self._levels)

    async def _get_zero_cross(self) -> Values:
        return tuple(self._crossings)

    async def _set_zero_cross(self, values: Values) -> Values:
        for channel, value in enumerate(self.each("zero_cross", values)):
            await self._discriminate(channel, self._levels[channel], value)
            self._crossings[channel] = value
        return tuple(self._crossings)
