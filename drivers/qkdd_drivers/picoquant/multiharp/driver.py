"""PicoQuant MultiHarp 150 and 160."""

from __future__ import annotations

from qkdd.core.units import Seconds
from qkdd.device import errors
from qkdd.device.fields import Category, Field, Values
from qkdd_drivers.picoquant.driver import EdgeTriggered
from qkdd_drivers.picoquant.models import MULTIHARP

_SHORTEST = 800e-12  # seconds; zero switches the longer dead time off


class MultiHarp(EdgeTriggered):
    """Role TimeTagger."""

    model = MULTIHARP

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
        if any(0 < seconds < _SHORTEST for seconds in wanted):
            raise self.error(errors.CommandRefused, "set dead_time", "between 0 and 0.8 ns there is none")
        for channel, seconds in enumerate(wanted):
            await self.call("dead_time", operation="set dead_time", channel=channel - 1, ps=round(seconds * 1e12))
            self._dead[channel] = seconds
        return tuple(self._dead)
