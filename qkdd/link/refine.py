"""Fine alignment: from a coarse candidate to picoseconds, with smaller and smaller bins, and a verdict.

All differences alice - bob near the candidate are listed once; offset and frequency are then searched together on a grid
whose bins shrink by about ten each round. The highest cell must be one that chance makes less than once in 10^6 searches.
In the last step the peak of each of the 4x4 detector pairs gives the eight relative delays, and a straight line through
the equalised peak in pieces of the stretch gives offset and frequency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd.link.clockmap import ClockMap
from qkdd.link.coarse import LEVELS, Candidate, coarse_search, poisson_surprise

SURPRISE = 6.0  # decades of false-alarm probability below which a peak is no peak
_PAIRS_LIMIT = 1_500_000
_DELAY_RANGE_PS = 100_000  # relative delays of two detectors up to this are equalised
_FINE_BIN_PS = 20_000
_PIECES = 10
_ROUNDS = 12


@dataclass(frozen=True, slots=True, eq=False)
class OpenClicks:
    """Events of a sacrificed stretch with one detector each. times: int64[n] ps, sorted. detectors: uint8[n]."""

    times: NDArray[np.int64]
    detectors: NDArray[np.uint8]

    def equalised(self, delays_ps: tuple[float, ...]) -> OpenClicks:
        """With the detectors' delays taken off."""
        times = self.times - np.round(delays_ps).astype(np.int64)[self.detectors]
        order = np.argsort(times, kind="stable")
        return OpenClicks(times[order], self.detectors[order])


@dataclass(frozen=True, slots=True)
class Alignment:
    """The outcome: the clock map, what to take off each side's detectors (ps), and how sure it is (decades)."""

    clock: ClockMap
    a_delays_ps: tuple[float, float, float, float]
    b_delays_ps: tuple[float, float, float, float]
    surprise: float
    width_ps: float


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """All pairs near a candidate. elapsed: float64 ps of bob's clock since the origin. differences: float64 ps, a - b
    less the candidate's offset. kinds: uint8, 4 * alice's detector + bob's."""

    elapsed: NDArray[np.float64]
    differences: NDArray[np.float64]
    kinds: NDArray[np.uint8]

    def near(self, centre: float, drift: float, width: float) -> _Pairs:
        keep = np.abs(self.differences - centre - drift * self.elapsed) <= width
        return _Pairs(self.elapsed[keep], self.differences[keep], self.kinds[keep])


def align(
    alice: OpenClicks,
    bob: OpenClicks,
    centre_ps: float,
    range_ps: float,
    clock_error: float,
    bin_ps: int,
    *,
    prior: Candidate | None = None,
    depth: int = len(LEVELS),
) -> Alignment | None:
    """Find bob's clock on alice's, or None when no peak stands out.

    bin_ps: the coarser of the two taggers' resolutions. prior: a candidate to try first (the last known alignment).
    depth: how many of the coarse search's levels are tried.
    """
    if prior is not None:
        found = refine(alice, bob, prior, bin_ps)
        if found is not None:
            return found
    for level in LEVELS[:depth]:
        candidate = coarse_search(alice.times, bob.times, centre_ps, range_ps, clock_error, level)
        found = None if candidate is None else refine(alice, bob, candidate, bin_ps)
        if found is not None:
            return found
    return None


def refine(alice: OpenClicks, bob: OpenClicks, candidate: Candidate, bin_ps: int) -> Alignment | None:
    """Confirm a candidate and bring it to full resolution; None when it was chance."""
    width = candidate.offset_error_ps
    drift_error = candidate.drift_error
    offset, drift = 0.0, candidate.drift
    fine = max(_FINE_BIN_PS, bin_ps)
    duration = float(bob.times[-1] - bob.times[0])
    # as much of the stretch as keeps the list of pairs small: first pass short, last pass all of it
    surprise = 0.0
    for _ in range(_ROUNDS):
        bin_width = max(width / 12, fine)
        rate = len(alice.times) / max(float(alice.times[-1] - alice.times[0]), 1.0)
        span = min(duration, _affordable_span(len(bob.times) / duration, rate, width, drift_error))
        pairs = _list_pairs(alice, bob, candidate, offset, drift, width + drift_error * span / 2, span)
        if len(pairs.differences) < 10:
            return None
        step = min(bin_width / span, drift_error)
        offset, drift, surprise = _best_cell(pairs, offset, drift, width, drift_error, bin_width, step)
        if surprise < SURPRISE:
            return None
        at_end = bin_width <= fine and span >= duration * 0.999
        width, drift_error = 2.5 * bin_width, 1.5 * step
        if at_end:
            break
    else:
        return None
    pairs = _list_pairs(alice, bob, candidate, offset, drift, width + 2.0 * _DELAY_RANGE_PS, duration)
    sharp = 4.0 * bin_ps  # the strongest detector pair alone sharpens the frequency before the delays are known
    offset, drift, _ = _best_cell(pairs, offset, drift, width, drift_error, sharp, sharp / duration)
    return _finish(pairs, candidate, offset, drift, bin_ps, surprise)


def _affordable_span(b_rate: float, a_rate: float, width: float, drift_error: float) -> float:
    """Span (ps) over which the list of pairs stays below the limit: b_rate·a_rate·span·2·(width + drift_error·span/2)."""
    density = 2.0 * b_rate * a_rate
    if density <= 0.0:
        return np.inf
    half = width / max(drift_error, 1e-15)
    return float(-half + np.sqrt(half * half + 2.0 * _PAIRS_LIMIT / (density * max(drift_error, 1e-15))))


def _list_pairs(
    alice: OpenClicks, bob: OpenClicks, candidate: Candidate, offset: float, drift: float, width: float, span: float
) -> _Pairs:
    origin = candidate.origin_ps
    chosen = slice(*np.searchsorted(bob.times, (origin - span / 2, origin + span / 2)))
    times, detectors = bob.times[chosen], bob.detectors[chosen]
    mapped = ClockMap(origin, candidate.offset_ps + offset, drift).to_alice(times)
    first = np.searchsorted(alice.times, mapped - int(width))
    last = np.searchsorted(alice.times, mapped + int(width))
    many = last - first
    owner = np.repeat(np.arange(len(times)), many)
    partner = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
    elapsed = (times[owner] - origin).astype(np.float64)
    differences = (alice.times[partner] - mapped[owner]).astype(np.float64) + offset + drift * elapsed
    return _Pairs(elapsed, differences, alice.detectors[partner] * np.uint8(4) + detectors[owner])


def _best_cell(
    pairs: _Pairs, offset: float, drift: float, width: float, drift_error: float, bin_width: float, step: float
) -> tuple[float, float, float]:
    """Offset and drift of the fullest pair of neighbouring bins over the grid, with its surprise."""
    tries = int(np.ceil(drift_error / step))
    cells = int(np.ceil(2 * width / bin_width)) + 1
    best = (-1.0, offset, drift)
    base = pairs.differences - (offset - width)
    total = 0.0
    for index in range(-tries, tries + 1):
        trial = drift + index * step
        cell = np.floor((base - trial * pairs.elapsed) / bin_width).astype(np.int64)
        counts = np.bincount(cell[(cell >= 0) & (cell < cells)], minlength=cells)
        total = max(total, float(np.median(counts)))
        twin = counts[:-1] + counts[1:]
        peak = int(np.argmax(twin))
        if twin[peak] > best[0]:
            best = (float(twin[peak]), offset - width + (peak + 1) * bin_width, trial)
    surprise = poisson_surprise(best[0], max(2.0 * total, 0.5), cells * (2 * tries + 1))
    return best[1], best[2], surprise


def _peak_of(differences: NDArray[np.float64], low: float, high: float, bin_width: float) -> tuple[float, float, float]:
    """Centre of the fullest three bins between low and high, its counts above the level, and the surprise."""
    cells = max(4, int((high - low) / bin_width))
    counts, _ = np.histogram(differences, cells, (low, high))
    triple = counts[:-2] + counts[1:-1] + counts[2:]
    peak = int(np.argmax(triple))
    level = max(float(np.median(counts)), float(counts.sum() - triple[peak]) / max(cells - 3, 1) * 0.5)
    surprise = poisson_surprise(float(triple[peak]), max(3 * level, 0.3), cells)
    width = (high - low) / cells
    centre = low + (peak + 1.5) * width
    for _ in range(4):  # mean of what lies around the peak; a flat level below pulls it to the middle of the window
        inside = differences[np.abs(differences - centre) <= 2.5 * width]
        if len(inside) == 0:
            break
        flat = level * 5.0
        excess = max(len(inside) - flat, 1.0)
        centre += float(np.sum(inside - centre)) / excess
    return centre, float(triple[peak] - 3 * level), surprise


def _finish(
    pairs: _Pairs, candidate: Candidate, offset: float, drift: float, bin_ps: int, surprise: float
) -> Alignment | None:
    """Delays of the detectors from the 4x4 peaks, then a straight line through the equalised peak."""
    a_delays, b_delays, line = np.zeros(4), np.zeros(4), np.array([offset, drift])
    reach = float(_DELAY_RANGE_PS)
    for _ in range(3):
        equal = pairs.differences - a_delays[pairs.kinds >> 2] + b_delays[pairs.kinds & 3]
        residual = equal - line[0] - line[1] * pairs.elapsed
        a_step, b_step, common = _solve_delays(residual, pairs.kinds, reach, bin_ps)
        a_delays, b_delays = a_delays + a_step, b_delays + b_step
        line[0] += common
        equal = pairs.differences - a_delays[pairs.kinds >> 2] + b_delays[pairs.kinds & 3]
        line = _fit_line(equal, pairs.elapsed, line, bin_ps)
        reach = 6.0 * bin_ps
    residual = equal - line[0] - line[1] * pairs.elapsed
    window = 4.0 * bin_ps
    core = residual[np.abs(residual) <= window]
    outside = np.count_nonzero(np.abs(residual) <= _DELAY_RANGE_PS) - len(core)
    level = outside * window / (_DELAY_RANGE_PS - window)
    final = poisson_surprise(float(len(core)), max(level, 0.5), 1e3)
    if final < SURPRISE:
        return None
    variance = (float(np.sum(core**2)) - level * window**2 / 3.0) / max(len(core) - level, 1.0)
    clock = ClockMap(candidate.origin_ps, candidate.offset_ps + float(line[0]), float(line[1]))
    return Alignment(clock, _four(a_delays), _four(b_delays), max(surprise, final), float(np.sqrt(max(variance, 0.0))))


def _four(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    return float(values[0]), float(values[1]), float(values[2]), float(values[3])


def _solve_delays(
    residual: NDArray[np.float64], kinds: NDArray[np.uint8], reach: float, bin_ps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Delays from the peaks of the 16 detector pairs: peak[i, j] = common + a[i] - b[j], least squares, sums zero."""
    rows, values, weights = [], [], []
    for kind in range(16):
        own = residual[(kinds == kind) & (np.abs(residual) <= reach)]
        if len(own) < 10:
            continue
        centre, excess, surprise = _peak_of(own, -reach, reach, bin_ps)
        if surprise < SURPRISE:
            continue
        row = np.zeros(9)
        row[0], row[1 + (kind >> 2)], row[5 + (kind & 3)] = 1.0, 1.0, -1.0
        rows.append(row)
        values.append(centre)
        weights.append(np.sqrt(max(excess, 1.0)))
    if not rows:
        return np.zeros(4), np.zeros(4), 0.0
    matrix, scale = np.array(rows), np.array(weights)
    # equations that fix the two free sums; a detector without a peak keeps delay 0 by the small ridge
    ties = np.zeros((2, 9))
    ties[0, 1:5] = ties[1, 5:9] = 1.0
    ridge = 1e-6 * np.eye(9)[1:]
    heavy = float(scale.max())
    left = np.vstack((matrix * scale[:, None], ties * heavy, ridge * heavy))
    right = np.concatenate((np.array(values) * scale, np.zeros(2 + len(ridge))))
    solution = np.linalg.lstsq(left, right, rcond=None)[0]
    return solution[1:5], solution[5:9], float(solution[0])


def _fit_line(
    equal: NDArray[np.float64], elapsed: NDArray[np.float64], line: NDArray[np.float64], bin_ps: int
) -> NDArray[np.float64]:
    """Straight line (offset, drift) through the peak, by pieces of the stretch, weighted by their counts."""
    residual = equal - line[0] - line[1] * elapsed
    window = 8.0 * bin_ps
    near = np.abs(residual) <= window
    level = (np.count_nonzero(np.abs(residual) <= 6 * window) - np.count_nonzero(near)) / 5.0
    edges = np.linspace(elapsed.min(), elapsed.max() + 1.0, _PIECES + 1)
    piece = np.digitize(elapsed[near], edges) - 1
    counts = np.bincount(piece, minlength=_PIECES)[:_PIECES].astype(np.float64)
    sums = np.bincount(piece, residual[near], minlength=_PIECES)[:_PIECES]
    excess = counts - max(level, 0.0) / _PIECES
    good = excess > 3.0 * np.sqrt(np.maximum(counts, 1.0))
    if np.count_nonzero(good) < 3:
        return line
    middles = (edges[:-1] + edges[1:]) / 2
    slope, height = np.polyfit(middles[good], sums[good] / excess[good], 1, w=np.sqrt(excess[good]))
    fitted: NDArray[np.float64] = line + np.array([height, slope])
    return fitted
