"""qutools quTAG (and its relatives with the tdcbase library): over the vendor's library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from qkdd_drivers.worker_tagger import Clicks, WorkerTagger

INPUTS = 4
"""Stop inputs. START would set the clock back, and stays off."""

_RECORD = np.dtype([("time", "<i8"), ("channel", "<i4"), ("kind", "<i4")])
_STEP_V = 1.47e-3
OPTIONS: dict[str, Any] = {"device_index": -1, "device_types": [], "first_channel": 0}


class QuTag(WorkerTagger):
    """Role TimeTagger. Channel n is the input labelled n; there is no channel 0."""

    silence = None  # the library is silent when nothing clicks

    threshold = Field(
        doc="Set trigger level of each input; the instrument has steps of 1.47 mV",
        unit=Volts,
        range=(-2.0, 3.0),
        size=INPUTS,
        settable=True,
        category=Category.SETTING,
    )
    edge = Field(
        doc="Set edge of the pulses that is taken, for each input",
        kind=str,
        choices=("falling", "rising"),
        size=INPUTS,
        settable=True,
        category=Category.SETTING,
    )
    input_delay = Field(
        doc="Set delay of each input",
        unit=Seconds,
        range=(-100e-9, 100e-9),
        size=INPUTS,
        settable=True,
        category=Category.SETTING,
    )

    dead_time = Field(
        doc="Set dead time of each input",
        unit=Seconds,
        range=(0.0, 1e-3),
        size=INPUTS,
        settable=True,
        category=Category.SETTING,
    )
    external_clock = Field(doc="Get whether it runs on an external clock", kind=bool, category=Category.DIAGNOSTIC)

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._options = read_options(name, config.options, OPTIONS)
        self._base_ps = 1.0
        self._delays = [0.0] * INPUTS  # the library cannot be asked for them

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        if not config.library:
            raise errors.DeviceConfigError(f"driver {config.driver!r} needs `library`, the path of libtdcbase.so")
        return (WorkerLink(place_key(config), Path(__file__).with_name("library.py")),)

    # Role TimeTagger

    @property
    def resolution_ps(self) -> int:
        return max(1, round(self._base_ps))

    @property
    def inputs(self) -> int:
        return INPUTS + 1

    # Hooks

    def _arguments(self) -> dict[str, Any]:
        return {
            "library": self.config.library,
            "device_id": self._options["device_index"],
            "device_types": self._options["device_types"],
            "first_channel": self._options["first_channel"],
        }

    def _identified(self, told: dict[str, Any]) -> Identity:
        base = float(told["timebase_ps"])
        if not 0 < base <= 1e6:
            raise self.error(errors.ProtocolError, "identify", f"a time base of {base:g} ps")
        self._base_ps = base
        return Identity("qutools", "quTAG", "", "")

    def _began(self, told: Any) -> None:
        """Records stand alone."""

    def _decode(self, records: NDArray[np.uint8]) -> Clicks:
        rows = records.view(_RECORD)
        times = rows["time"] if self._base_ps == 1 else np.rint(rows["time"] * self._base_ps)
        stamps = times.astype(np.int64)
        return stamps, rows["channel"].astype(np.uint8), max(self._until, int(stamps[-1]))

    async def _start(self) -> None:
        """Inputs are off until a stream begins; delays as they are known here."""
        await self.call("delays", operation="set input_delay", ps=_delays(self._delays))

    # Fields

    async def _conditions(self, operation: str) -> list[tuple[bool, float]]:
        found = [
            await self.call("conditioned", operation=operation, channel=channel) for channel in range(1, INPUTS + 1)
        ]
        return [(bool(edge), float(level)) for edge, level in found]

    async def _condition(self, operation: str, wanted: list[tuple[bool, float]]) -> None:
        for channel, (rising, volts) in enumerate(wanted, start=1):
            edge, level = await self.call("condition", operation=operation, channel=channel, rising=rising, volts=volts)
            if bool(edge) != rising or abs(level - volts) > _STEP_V:
                raise self.error(errors.CommandRefused, operation, f"input {channel} stays at {level:g} V")

    async def _get_threshold(self) -> Values:
        return tuple(level for _, level in await self._conditions("get threshold"))

    async def _set_threshold(self, values: Values) -> Values:
        now = await self._conditions("set threshold")
        await self._condition("set threshold", [(e, float(v)) for (e, _), v in zip(now, values, strict=True)])
        return await self._get_threshold()

    async def _get_edge(self) -> Values:
        return tuple("rising" if edge else "falling" for edge, _ in await self._conditions("get edge"))

    async def _set_edge(self, values: Values) -> Values:
        now = await self._conditions("set edge")
        await self._condition("set edge", [(v == "rising", level) for (_, level), v in zip(now, values, strict=True)])
        return await self._get_edge()

    async def _get_input_delay(self) -> Values:
        return tuple(self._delays)

    async def _set_input_delay(self, values: Values) -> Values:
        wanted = [float(value) for value in values]
        await self.call("delays", operation="set input_delay", ps=_delays(wanted))
        self._delays = wanted
        return tuple(self._delays)

    async def _get_dead_time(self) -> Values:
        numbers = range(1, INPUTS + 1)
        return tuple([await self.call("dead_time", operation="get dead_time", channel=n) * 1e-12 for n in numbers])

    async def _set_dead_time(self, values: Values) -> Values:
        for channel, value in enumerate(values, start=1):
            ps = round(float(value) * 1e12)
            await self.call("set_dead_time", operation="set dead_time", channel=channel, ps=ps)
        return await self._get_dead_time()

    async def _get_external_clock(self) -> Values:
        return (bool(await self.call("clock", operation="get external_clock")),)


def _delays(seconds: list[float]) -> list[int]:
    """What the library takes: START, then the inputs, in ps; eight, as older versions read so many."""
    return [0, *(round(s * 1e12) for s in seconds), 0, 0, 0]
