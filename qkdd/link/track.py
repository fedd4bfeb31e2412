"""Tracking: following the coincidence peak through a block, and saying so when it is gone.

The block is cut into pieces. In each piece the differences alice - bob about the prediction are counted in bins of the
tagger; the peak's centre corrects the prediction of the next piece. A peak that chance could make is no peak: the piece is
passed over, and a block with too many of these is refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.link.clockmap import PS, ClockMap
from qkdd.link.coarse import poisson_surprise
from qkdd.link.errors import LockLost

_SEARCH_BINS = 64  # half-width of the search around the prediction, in tagger bins
_WANDER = 2e-8  # relative frequency change a second that a gap between blocks must survive
_WANTED = 400  # coincidences in a piece
_PIECES = (4, 40)
_SURPRISE = 6.0
_MEMORY = 6  # pieces that predict the next one
_GOOD_SHARE = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A followed block. mapped: bob's times on alice's clock, int64 ps. clock: the map for what comes next.
    pairs: coincidences above the level, estimated. found, pieces: how many pieces showed a peak."""

    mapped: NDArray[np.int64]
    clock: ClockMap
    pairs: float
    found: int
    pieces: int


def follow(
    a_times: NDArray[np.int64],
    b_times: NDArray[np.int64],
    start_ps: int,
    stop_ps: int,
    clock: ClockMap,
    bin_ps: int,
    window_ps: int,
    expected_pairs: float,
) -> Track:
    """Follow the peak through bob's block [start, stop). Raises LockLost when it is not there.

    a_times: alice's events of the block and a margin; b_times: bob's; int64 ps, sorted, each on its own clock.
    clock: the map as known before. expected_pairs: from the last block; sets the number of pieces.
    """
    pieces = int(np.clip(expected_pairs / _WANTED, *_PIECES))
    edges = np.linspace(start_ps, stop_ps, pieces + 1)
    half = max(_SEARCH_BINS * bin_ps, 4 * window_ps)
    gap = max(0.0, (start_ps - clock.origin_ps) / PS)
    first_half = half + round(_WANDER * gap * gap / 2 * PS)
    clock = clock.rebased(start_ps)
    mapped = clock.to_alice(b_times)
    middles: list[float] = []
    centres: list[float] = []
    recent: deque[tuple[float, float]] = deque(maxlen=_MEMORY)
    pairs = 0.0
    for index in range(pieces):
        own = slice(*np.searchsorted(b_times, edges[index : index + 2]))
        middle = (edges[index] + edges[index + 1]) / 2
        predicted, slope = _predict(recent, middle)
        reach = half if recent else first_half
        shift = np.rint(predicted + slope * (b_times[own] - middle)).astype(np.int64)
        found = _peak(a_times, mapped[own] + shift, reach, bin_ps, window_ps)
        if found is None:
            continue
        centre, excess = predicted + found[0], found[1]
        recent.append((middle, centre))
        middles.append(middle)
        centres.append(centre)
        pairs += excess
    if len(centres) < max(2, _GOOD_SHARE * pieces):
        raise LockLost(
            f"the coincidence peak stood out in {len(centres)} of {pieces} pieces of the block",
            found=len(centres),
            pieces=pieces,
        )
    offset, slope = _line(middles[-_MEMORY:], centres[-_MEMORY:], float(stop_ps))
    ahead = ClockMap(stop_ps, clock.offset_at(stop_ps) + offset, clock.drift + slope)
    correction = _correct(b_times.astype(np.float64), np.array(middles), np.array(centres))
    return Track(mapped + np.rint(correction).astype(np.int64), ahead, pairs, len(centres), pieces)


def _predict(recent: deque[tuple[float, float]], moment: float) -> tuple[float, float]:
    """Correction (ps) and its slope at `moment`."""
    if not recent:
        return 0.0, 0.0
    return _line([m for m, _ in recent], [c for _, c in recent], moment)


def _line(moments: list[float], centres: list[float], moment: float) -> tuple[float, float]:
    """Value at `moment` and slope of the straight line through the points."""
    if len(moments) < 2:
        return centres[-1], 0.0
    x = np.array(moments) - moment
    slope, value = np.polyfit(x / PS, centres, 1)
    return float(value), float(slope / PS)


def _correct(
    times: NDArray[np.float64], middles: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Straight lines between the centres, continued before the first and after the last."""
    correction = np.interp(times, middles, centres)
    before, after = times < middles[0], times > middles[-1]
    head = (centres[1] - centres[0]) / (middles[1] - middles[0])
    tail = (centres[-1] - centres[-2]) / (middles[-1] - middles[-2])
    correction[before] = centres[0] + head * (times[before] - middles[0])
    correction[after] = centres[-1] + tail * (times[after] - middles[-1])
    return correction


def _peak(
    a_times: NDArray[np.int64], mapped: NDArray[np.int64], half: int, bin_ps: int, window_ps: int
) -> tuple[float, float] | None:
    """Centre of the peak of a - b near zero (ps) and its pairs above the level; None when there is none."""
    if len(mapped) == 0:
        return None
    # bins of half the tagger's, so that its beating with the clocks' difference does not lump the counts
    cell = max(1, bin_ps // 2)
    bins = 2 * half // cell
    near = slice(*np.searchsorted(a_times, (mapped[0] - half, mapped[-1] + half)))
    # the kernel's difference is second minus first: hand it bob first
    counts = kernels.delay_histogram(mapped, a_times[near], -half, cell, bins).astype(np.float64)
    width = max(2, round(window_ps / cell))
    sums = np.convolve(counts, np.ones(width), "valid")
    top = int(np.argmax(sums))
    outside = counts.sum() - counts[max(0, top - width) : top + 2 * width].sum()
    level = outside / max(1, bins - 3 * width)
    if poisson_surprise(float(sums[top]), max(level * width, 0.3), bins) < _SURPRISE:
        return None
    position = -half + (np.arange(bins) + 0.5) * cell
    centre = -half + (top + width / 2) * cell
    excess = 0.0
    for _ in range(3):
        inside = np.abs(position - centre) <= width * cell
        above = counts[inside] - level
        excess = float(above.sum())
        if excess <= 0:
            return None
        centre = float((above * position[inside]).sum() / excess)
    return centre, excess
