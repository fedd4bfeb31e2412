"""Coarse alignment: where two unsynchronised tag streams coincide, by the kernels' search of a clock.

What is found stands far above chance, but with a resolution that leaves room for the detectors' relative delays; `refine`
confirms it and brings it to picoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.kernels import poisson_surprise

__all__ = ["COMMON_DEPTH", "LEVELS", "Candidate", "coarse_search", "poisson_surprise"]

LEVELS = kernels.CLOCK_LEVELS
COMMON_DEPTH = 3  # levels of a first try; the last takes some seconds of one core and is for weak links
# Before the detectors' delays are known the peaks of their 16 pairs lie some 10 ns apart, and up to 100 ns.
_PEAK_WIDTH_PS = 20_000.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible alignment. Offsets in ps at bob's `origin_ps`, errors are half-widths. score: decades of surprise."""

    origin_ps: int
    offset_ps: float
    offset_error_ps: float
    drift: float
    drift_error: float
    score: float


def coarse_search(
    a_times: NDArray[np.int64],
    b_times: NDArray[np.int64],
    centre_ps: float,
    range_ps: float,
    clock_error: float,
    level: kernels.ClockLevel,
) -> Candidate | None:
    """What one level of the search finds, or None.

    a_times, b_times: int64 ps, sorted. The offset alice - bob is searched in centre ± range, the relative frequency in
    ± clock_error. Weak links need alice's clicks `range` beyond bob's span on both sides.
    """
    found = kernels.clock_search(a_times, b_times, centre_ps, range_ps, clock_error, _PEAK_WIDTH_PS, (level,))
    if found is None:
        return None
    return Candidate(
        found.origin_ps,
        found.offset_ps,
        2 * found.offset_error_ps,
        found.drift,
        2 * found.drift_error,
        found.surprise,
    )
