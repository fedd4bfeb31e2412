"""One side's detection: the acquisition, the equalised delays, and events of any stretch of its clock."""

from __future__ import annotations

from qkdd import kernels
from qkdd.link.acquisition import Acquisition
from qkdd.link.config import DETECTORS, LinkConfig
from qkdd.link.errors import LinkConfigError
from qkdd.link.events import MULTI, Events, detect, reach
from qkdd.link.refine import OpenClicks

_SLACK = 10.0  # seconds that a tag stream may lag before a block is given up


class Receiver:
    """What a node's detectors saw. delays_ps: taken off each detector's clicks, H V D A."""

    def __init__(self, config: LinkConfig, acquisition: Acquisition, resolution_ps: int) -> None:
        shared = config.shared
        if shared.window_ps < 2 * resolution_ps:
            raise LinkConfigError(
                f"link {config.name}: shared.window is {shared.window}, less than two bins of {resolution_ps} ps of the tagger",
                key="link.shared.window",
            )
        self.acquisition, self.resolution_ps = acquisition, resolution_ps
        self._dead_ps, self._group_ps = shared.dead_ps, shared.window_ps
        self.delays_ps = tuple(float(config.delays.get(name, 0.0)) * 1e12 for name in DETECTORS)

    @property
    def _reach(self) -> int:
        return reach(self.delays_ps, dead_ps=self._dead_ps, group_ps=self._group_ps)

    async def registered(self, stop_ps: int) -> None:
        """Wait until every click up to `stop_ps` is in memory. Raises RegisterTimeout or what the tagger raised."""
        behind = max(0.0, (stop_ps - self.acquisition.position()) * 1e-12)
        await self.acquisition.wait_until(stop_ps + self._reach, behind + _SLACK)

    async def events(self, start_ps: int, stop_ps: int) -> Events:
        """Events that begin in [start, stop); all of it must be registered. Raises TagsLost."""
        edge = self._reach
        first = max(start_ps - edge, 0)
        clicks = self.acquisition.take(first, stop_ps + edge)
        return await kernels.run(
            detect, clicks, self.delays_ps, first + edge, stop_ps, dead_ps=self._dead_ps, group_ps=self._group_ps
        )

    async def open_clicks(self, start_ps: int, stop_ps: int) -> OpenClicks:
        """Single-detector events of a stretch that is given up; what is no longer remembered is left out."""
        events = await self.events(max(start_ps, self.acquisition.kept_from + self._reach), stop_ps)
        single = events.detectors != MULTI
        return OpenClicks(events.times[single], events.detectors[single])

    def equalise(self, delays_ps: tuple[float, ...]) -> None:
        """Take off these further delays from now on."""
        self.delays_ps = tuple(own + more for own, more in zip(self.delays_ps, delays_ps, strict=True))
