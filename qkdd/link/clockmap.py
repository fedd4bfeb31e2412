"""How one node's clock reads on the other's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PS = 1e12


@dataclass(frozen=True, slots=True)
class ClockMap:
    """Bob's clock on alice's: t_a = t_b + offset_ps + drift * (t_b - origin_ps), drift in s/s."""

    origin_ps: int
    offset_ps: float
    drift: float

    def to_alice(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bob's times (ps) on alice's clock. Exact to below 1 ps within hours of the origin."""
        whole = int(np.floor(self.offset_ps))
        elapsed = (times - self.origin_ps).astype(np.float64)
        return times + whole + np.rint(self.drift * elapsed + (self.offset_ps - whole)).astype(np.int64)

    def moment_to_alice(self, time: int) -> int:
        """One of bob's moments (ps) on alice's clock."""
        return int(self.to_alice(np.array([time], np.int64))[0])

    def offset_at(self, time: int) -> float:
        """Alice's reading minus bob's (ps) when bob's clock reads `time`."""
        return self.offset_ps + self.drift * (time - self.origin_ps)

    def rebased(self, origin_ps: int) -> ClockMap:
        """The same map about another origin."""
        return ClockMap(origin_ps, self.offset_at(origin_ps), self.drift)
