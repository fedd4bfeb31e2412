"""Search of a clock: offset and frequency of one tag stream on another, from the tags alone.

Both streams are counted in n cells and correlated (`Correlation`). With C pairs a second in clicks of Sa
and Sb a second the true lag stands rho·sqrt(n·overlap) standard deviations above the others, rho = C/sqrt(Sa·Sb), whatever the
rates and the stretch are: so the cost of a level depends on the wanted rho and little else. A clock off by 5 ppm smears the peak
over more than a cell only from n = 10^5 on; beyond, frequencies are tried, bob's counts stretched. The highest lags of all of
them, true or chance, are then judged one by one at a resolution of nanoseconds, which costs less than a transform:
the pairs near a lag in 2^k pieces of a short stretch, summed along all slopes at once (`qkdd_clock_peak`). There the true one
stands out by its Poisson surprise.

Cross-correlation of folded tags: Ho, Lamas-Linares, Kurtsiefer, New J. Phys. 11 (2009) 045011 (arXiv:0901.3203; remembered, not
opened here). Sums over slopes: Taylor, Astron. Astrophys. Suppl. 15 (1974) 367.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from qkdd_native._kernels import ffi, lib
from qkdd_native.arrays import Workspaces, pointer, vector
from qkdd_native.correlation import LEAST_ORDER, MOST_ORDER, Correlation, highest_lags
from qkdd_native.status import Status, StatusError, check
from qkdd_native.tags import Times

_SURE = 5.0  # standard deviations from which a lag is judged before further frequencies are tried; chance makes a few of them
SURPRISE = 7.0  # decades of the probability that chance makes a lag look like this, below which a lag is confirmed
# Pairs that a judgement looks at: first as few as tell a lag that the transform can find, then more where it is promising.
# Of dense streams these cover too little time. A lag that chance cannot make in the transform is looked at for longer there: else
# the deeper levels count all clicks again and again.
_FEW, _MANY = 4_000, 200_000
_PLAIN, _MORE_PAIRS = 8.0, (1_000_000, 5_000_000)
_PROMISING = 0.3  # decades below which more pairs are not looked at
_MOST_PAIRS = 100 * _MANY  # in bursts; a stretch that is denser than this says nothing
_LEAST_ORDER = 2  # 4 slopes
_SLOPES = 6, 1 << 15  # most slopes (2^6) and bins of a judgement
_ALL_SLOPES = 9, 1 << 12  # of one over all frequencies
_workspaces = Workspaces(most=1 << 20)


@dataclass(frozen=True, slots=True)
class ClockLevel:
    """One depth of search. cells: length of the correlation, 2^9 to 2^24; span_s: bob's stretch; tries: lags that are judged."""

    cells: int
    span_s: float
    tries: int


# finds rho of about 0.009, 0.006, 0.004, 0.003, 0.002
CLOCK_LEVELS = (
    ClockLevel(1 << 19, 2.0, 24),
    ClockLevel(1 << 20, 2.0, 32),
    ClockLevel(1 << 21, 2.0, 48),
    ClockLevel(1 << 22, 2.0, 96),
    ClockLevel(1 << 23, 2.0, 256),
)


@dataclass(frozen=True, slots=True)
class ClockFound:
    """t_a = t_b + offset_ps + drift·(t_b - origin_ps) with half-widths offset_error_ps and drift_error.

    surprise: decades of the probability that chance made it. level: index of the level that found it.
    """

    origin_ps: int
    offset_ps: float
    offset_error_ps: float
    drift: float
    drift_error: float
    surprise: float
    level: int


@dataclass(frozen=True, slots=True)
class _Lag:
    """A lag to judge: offset at the middle of the stretch, known to ± half a width; score in standard deviations."""

    offset_ps: float
    width_ps: float
    drift: float
    score: float


def poisson_surprise(count: float, expected: float, trials: float) -> float:
    """-log10 of the probability that the highest of `trials` cells with Poisson mean `expected` reaches `count`."""
    if count <= expected:
        return 0.0
    tail = float(special.gammainc(count, max(expected, 1e-12)))  # P(N >= count)
    if tail <= 0.0:
        # Chernoff's bound where the tail underflows: P <= exp(count - expected) (expected / count)^count
        logarithm = (count - expected + count * math.log(max(expected, 1e-12) / count)) / math.log(10.0)
    else:
        logarithm = math.log10(tail)
    return max(0.0, -logarithm - math.log10(max(trials, 1.0)))


def clock_search(
    a_times: Times,
    b_times: Times,
    centre_ps: float,
    range_ps: float,
    clock_error: float,
    resolution_ps: float,
    levels: Sequence[ClockLevel] = CLOCK_LEVELS,
) -> ClockFound | None:
    """Where bob's clock stands on alice's, or None when no lag stands out.

    a_times, b_times: sorted int64 ps. The offset alice - bob is searched in centre_ps ± range_ps, the relative frequency
    in ± clock_error (at most 1e-3). resolution_ps: width of the true peak (jitter of both taggers). Alice's clicks further than
    range_ps from bob's stretch are not looked at; where hers do not cover it on both sides weaker links are missed. Memory:
    26 bytes a cell of the deepest level that is reached, and up to 9 MB beside; 40 MB of it are kept. Not constant-time: its
    inputs are public.
    """
    a_times, b_times = vector(a_times, np.int64, "a_times"), vector(b_times, np.int64, "b_times")
    if not (range_ps > 0 and 0 <= clock_error <= 1e-3 and 1 <= resolution_ps <= 1e6 and abs(centre_ps) < 2.0**60):
        raise StatusError(
            Status.BAD_ARGUMENT, "clock_search: range, clock error, resolution or centre out of its domain"
        )
    orders = range(LEAST_ORDER, MOST_ORDER + 1)
    if any(level.cells not in [1 << order for order in orders] for level in levels):
        raise StatusError(Status.BAD_ARGUMENT, f"clock_search: cells must be 2^{orders[0]} to 2^{orders[-1]}")
    for number, level in enumerate(levels):
        found = _search(a_times, b_times, centre_ps, range_ps, clock_error, resolution_ps, level, number)
        if found is not None:
            return found
    return None


def _search(
    a_times: Times,
    b_times: Times,
    centre_ps: float,
    range_ps: float,
    clock_error: float,
    resolution_ps: float,
    level: ClockLevel,
    number: int,
) -> ClockFound | None:
    if len(a_times) < 2 or len(b_times) < 2:
        return None
    # the stretch of bob's that alice's clicks cover best
    low = max(float(b_times[0]), float(a_times[0]) - centre_ps - range_ps)
    high = min(float(b_times[-1]) + 1, float(a_times[-1]) - centre_ps + range_ps)
    middle = int((low + high) / 2)
    span = int(min(level.span_s * 1e12, high - low))
    if span < 1000:
        return None
    b = _between(b_times, middle - span // 2, middle + span // 2)
    start = middle - span // 2 + int(centre_ps)
    a = _between(a_times, start - int(range_ps), start + span + int(range_ps))
    if len(a) < 2 or len(b) < 2:
        return None
    begin = int(b[0])
    period = float(max(a[-1] - a[0], b[-1] - b[0]) + 1)
    cell = max(period / level.cells, 2.0)
    hypotheses = max(1, math.ceil(2 * clock_error * span / cell * 0.75))
    half_step = clock_error / hypotheses
    drifts = [half_step * (2 * index - hypotheses + 1) for index in range(hypotheses)]
    drifts.sort(key=abs)
    zero = float(a[0] - begin)  # offset of lag 0
    low_lag, high_lag = (zero - centre_ps - range_ps) / cell, (zero - centre_ps + range_ps) / cell
    waiting: list[_Lag] = []
    with Correlation(level.cells.bit_length() - 1, cell, a, int(a[0]), b, begin) as correlation:
        for index, drift in enumerate(drifts):
            lags, deviation = correlation.lags(drift, (middle - begin) / cell)
            for lag, score in highest_lags(lags, deviation, low_lag, high_lag, level.tries):
                waiting.append(_Lag(zero - lag * cell, 2 * cell, drift, score))
            waiting.sort(key=lambda lag: -lag.score)
            del waiting[level.tries :]
            while waiting and (index == hypotheses - 1 or waiting[0].score > _SURE):
                candidate, rivals = waiting.pop(0), level.tries * (index + 1)
                found = _judge(a, b, middle, candidate, half_step, resolution_ps, rivals, number)
                if found is not None:
                    lines = (
                        [found]
                        if hypotheses == 1
                        else _widened(a, b, found, candidate, clock_error, resolution_ps, rivals)
                    )
                    sharp = [_sharpened(a, b, line, clock_error, resolution_ps) for line in lines]
                    return max(sharp, key=lambda line: line.surprise)
    return None


def _widened(
    a: Times, b: Times, found: ClockFound, lag: _Lag, clock_error: float, resolution_ps: float, rivals: int
) -> list[ClockFound]:
    """A strong link shows at a wrong frequency too, by the part of its line that crosses the right ones: with the line of all
    frequencies, if that is another one. Their stretches differ, so which is right shows when they are sharpened."""
    lag = replace(lag, offset_ps=found.offset_ps, drift=0.0)
    wide = _judge(a, b, found.origin_ps, lag, clock_error, resolution_ps, rivals, found.level, _ALL_SLOPES)
    if wide is None:
        return [found]
    apart = wide.offset_ps - found.offset_ps - found.drift * (wide.origin_ps - found.origin_ps)
    if (
        abs(wide.drift - found.drift) <= wide.drift_error + found.drift_error
        and abs(apart) <= wide.offset_error_ps + found.offset_error_ps
    ):
        return [max(found, wide, key=lambda line: line.surprise)]
    return [found, wide]


def _sharpened(a: Times, b: Times, found: ClockFound, clock_error: float, resolution_ps: float) -> ClockFound:
    """The better the frequency is known, the longer a stretch can be summed without wider bins, and the better it gets."""
    if found.drift_error > clock_error:  # what was agreed is better than what was seen
        drift = min(max(found.drift, -clock_error), clock_error)
        found = replace(found, drift=drift, drift_error=min(found.drift_error, 2 * clock_error))
    wanted = max(0.01 * clock_error, 1e-8)
    for _ in range(4):
        if found.offset_error_ps <= 10 * resolution_ps and found.drift_error <= wanted:
            break
        lag = _Lag(found.offset_ps, 4 * found.offset_error_ps, found.drift, 0.0)
        error = max(min(2 * found.drift_error, 2 * clock_error), 1e-12)
        longest = 20 * found.offset_error_ps / error  # keeps 64 slopes within bins of the same width
        longest = min(longest, (_MANY + 1) / (_density(a, b) * lag.width_ps))
        # with bins of twice the resolution; to read on would cost more than finding did
        enough = 7 * resolution_ps / wanted
        closer = None
        for stretch in (min(longest, enough), longest):
            closer = _closer(a, b, found.origin_ps, lag, error, resolution_ps, 1, found.level, stretch)
            if closer is not None and closer.surprise >= SURPRISE:
                break
        if closer is None or closer.surprise < SURPRISE or closer.drift_error > 0.8 * found.drift_error:
            break
        found = closer
    return found


def _density(a: Times, b: Times) -> float:
    """Chance pairs in a ps of time and a ps of difference."""
    return len(b) / float(b[-1] - b[0]) * len(a) / max(float(a[-1] - a[0]), 1.0)


def _between(times: Times, low: int, high: int) -> Times:
    first, last = np.searchsorted(times, (low, high))
    return times[first:last]


def _judge(
    a: Times,
    b: Times,
    middle: int,
    lag: _Lag,
    drift_error: float,
    resolution_ps: float,
    rivals: int,
    number: int,
    slopes: tuple[int, int] = _SLOPES,
) -> ClockFound | None:
    """The lag at full resolution over a short stretch about the middle; None if it can be chance."""
    found = None
    plain = lag.score > _PLAIN
    # In a transform of n cells a lag can be found from rho = sqrt(20 / n) on. Of the pairs in two of its cells it then stands
    # nine deviations above chance if there are 8 for each per bin; the second term brings a dozen of its own.
    span_a, cells = float(a[-1] - a[0]), 2 * float(a[-1] - a[0]) / lag.width_ps
    few = 16 * resolution_ps * len(a) * len(b) / span_a + 6 * math.sqrt(len(a) * len(b) / cells)
    few = min(max(int(few), _FEW), _MANY)
    for pairs in (few, min(5 * few, _MANY), _MANY, *_MORE_PAIRS) if plain else (few, min(5 * few, _MANY), _MANY):
        stretch = pairs / (_density(a, b) * lag.width_ps)
        found = _closer(a, b, middle, lag, drift_error, resolution_ps, rivals, number, stretch, slopes)
        if found is None or found.surprise >= SURPRISE or (found.surprise < _PROMISING and not plain):
            break
    return found if found is not None and found.surprise >= SURPRISE else None


def _closer(
    a: Times,
    b: Times,
    middle: int,
    lag: _Lag,
    drift_error: float,
    resolution_ps: float,
    rivals: int,
    number: int,
    stretch_ps: float,
    slopes: tuple[int, int] = _SLOPES,
) -> ClockFound | None:
    """The fullest line among the pairs near the lag in a stretch in the middle of what both sides saw."""
    low = max(float(b[0]), float(a[0]) - lag.offset_ps)
    high = min(float(b[-1]), float(a[-1]) - lag.offset_ps)
    if high - low < 1000:
        return None
    centre = int((low + high) / 2)
    offset = lag.offset_ps + lag.drift * (centre - middle)
    middle = centre
    span = min(high - low, stretch_ps)
    order, most_bins = slopes
    fine = max(2 * resolution_ps, 2 * drift_error * span / ((1 << order) - 1), lag.width_ps / most_bins)
    while order > _LEAST_ORDER and 2 * drift_error * span < fine * ((1 << (order - 1)) - 1):
        order -= 1
    segments = 1 << order
    rise = (segments - 1) * fine  # of the steepest line over the piece
    bins = max(2, math.ceil((lag.width_ps + rise / 2) / fine))
    piece = _between(b, int(middle - span / 2), int(middle + span / 2))
    if len(piece) < 2:
        return None
    start, length = int(piece[0]), float(piece[-1] - piece[0]) + 1
    # slopes rise from the lowest frequency on; where the lines begin depends on their slope, since they meet at the middle
    lowest = lag.drift - rise / 2 / length
    delay = offset - lowest * (middle - start) - rise / 4
    reach = lag.width_ps + 2 * rise + abs(lowest) * length
    near = _between(a, start + int(offset - reach), int(piece[-1]) + int(offset + reach))
    words = lib.qkdd_clock_peak_workspace(bins, order)
    memory = _workspaces.take(words // 2 + 1)
    workspace = memory.view(np.uint32)
    found = ffi.new("qkdd_clock_peak_found *")
    code = lib.qkdd_clock_peak(
        pointer(near),
        len(near),
        pointer(piece),
        len(piece),
        delay,
        lowest,
        start,
        fine,
        bins,
        order,
        _MOST_PAIRS,
        pointer(workspace),
        len(workspace),
        found,
    )
    _workspaces.keep(memory)
    if code == int(Status.OUT_OF_RANGE):
        return None  # a burst
    check(code, "clock_search")
    expected = max(2 * found.pairs / (bins + segments), 0.1)
    surprise = poisson_surprise(found.count, expected, float(bins) * segments * rivals)
    slope = found.slope * fine / (length * (segments - 1) / segments)
    at_first = delay + (found.place + 1 - bins / 2) * fine  # at the first segment's middle, lowest frequency taken off
    offset = at_first + lowest * (middle - start) + slope * (middle - start - length / (2 * segments))
    return ClockFound(middle, offset, 3 * fine, lowest + slope, 3 * fine / length, surprise, number)
