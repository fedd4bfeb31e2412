"""Coarse alignment: where two unsynchronised tag streams coincide, from binned counts and FFTs.

Bob's clicks of a short span are counted in bins and correlated with alice's bins over every lag of the range. A pair
source puts C coincidences a second on top of an accidental level of Sa·Sb·T·bin in each lag, so the peak stands
C/sqrt(Sa·Sb)·sqrt(T/bin) standard deviations high. T/bin can be made large only if the clocks agree to bin/T over the
span; beyond that a few frequency hypotheses are tried, each with bob's times stretched. The scheme is the field's own
(Ho, Lamas-Linares, Kurtsiefer, "Clock synchronization by remote detection of correlated photon pairs",
arXiv:0901.3203; title and idea remembered, not opened here). What is found is only a candidate: `refine` confirms it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

from qkdd.link.clockmap import PS


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible alignment. Offsets in ps at bob's `origin_ps`, errors are half-widths. score: standard deviations."""

    origin_ps: int
    offset_ps: float
    offset_error_ps: float
    drift: float
    drift_error: float
    score: float


@dataclass(frozen=True, slots=True)
class Level:
    """One depth of search: bob's span (s), bin (s). Deeper levels cost more and find weaker links."""

    span: float
    bin: float


# score = rho·sqrt(2·span/bin)/2 or so, rho = C/sqrt(Sa·Sb): strong links at once, down to rho = 0.005 at the last level.
LEVELS = (Level(0.2, 2e-6), Level(0.5, 1e-6), Level(2.0, 0.5e-6))
COMMON_DEPTH = 2  # levels of a first try; the last costs half a minute of one core and is for weak links
_CANDIDATES = 4


def coarse_search(
    a_times: NDArray[np.int64],
    b_times: NDArray[np.int64],
    centre_ps: float,
    range_ps: float,
    clock_error: float,
    level: Level,
) -> list[Candidate]:
    """The best candidates of one level, best first.

    a_times, b_times: int64 ps, sorted. The offset alice - bob is searched in centre ± range, the relative frequency in
    ± clock_error. Needs alice's clicks `range` beyond bob's span on both sides.
    """
    if len(a_times) < 2 or len(b_times) < 2:
        return []
    bin_ps = level.bin * PS
    middle = int(b_times[0]) // 2 + int(b_times[-1]) // 2
    span_ps = min(level.span * PS, float(b_times[-1] - b_times[0]))
    b = b_times[slice(*np.searchsorted(b_times, (middle - span_ps / 2, middle + span_ps / 2)))]
    if len(b) < 2:
        return []
    b_bins = int(span_ps / bin_ps * (1 + 2 * clock_error)) + 2
    lags = int(2 * range_ps / bin_ps) + 2
    size = fft.next_fast_len(b_bins + lags, real=True)
    a_start = middle - span_ps / 2 + centre_ps - range_ps
    first, last = np.searchsorted(a_times, (a_start, a_start + size * bin_ps))
    a_counts = _counts((a_times[first:last] - int(a_start)).astype(np.float64), bin_ps, size)
    # expected accidentals at each lag follow alice's local rate, not her mean
    sums = np.concatenate(([0.0], np.cumsum(a_counts, dtype=np.float64)))
    expected = (sums[b_bins : b_bins + lags] - sums[:lags]) * (len(b) / b_bins)
    a_spectrum = fft.rfft(a_counts - np.float32(a_counts.mean()))
    step = 2 * level.bin / level.span
    count = max(1, int(np.ceil(2 * clock_error / step)))
    best: list[Candidate] = []
    for drift in (np.arange(count) - (count - 1) / 2) * (2 * clock_error / count):
        elapsed = (b - middle).astype(np.float64) * (1 + drift) + span_ps / 2 * (1 + clock_error)
        b_counts = _counts(elapsed, bin_ps, size)
        mean = float(b_counts[:b_bins].mean())
        b_counts[:b_bins] -= np.float32(mean)
        spectrum = fft.rfft(b_counts)
        np.multiply(a_spectrum, np.conj(spectrum), out=spectrum)
        correlation = fft.irfft(spectrum, size)[:lags]
        for lag, score in _peaks(correlation, expected):
            # bob's middle stands at span/2·(1 + clock_error) of his count, alice's at span/2 of hers without range
            offset = centre_ps - range_ps + (lag + 0.5) * bin_ps + span_ps / 2 * clock_error
            best.append(
                Candidate(
                    middle,
                    offset,
                    2 * bin_ps + step * span_ps / 4,
                    float(drift),
                    clock_error / count + step / 4,
                    score,
                )
            )
    best.sort(key=lambda candidate: -candidate.score)
    return _distinct(best)[:_CANDIDATES]


def _counts(elapsed: NDArray[np.float64], bin_ps: float, size: int) -> NDArray[np.float32]:
    cells = np.floor(elapsed / bin_ps).astype(np.int64)
    cells = cells[(cells >= 0) & (cells < size)]
    return np.bincount(cells, minlength=size).astype(np.float32)


def _peaks(correlation: NDArray[np.float32], expected: NDArray[np.float64]) -> list[tuple[int, float]]:
    """Lags (of the lower bin of a pair of bins) with the highest excess, in standard deviations."""
    # a true offset spreads over two neighbouring bins: judge pairs of bins
    excess = correlation[:-1] + correlation[1:]
    level = np.maximum(expected[:-1] + expected[1:], 1.0)
    scores = excess / np.sqrt(level)
    top = np.argpartition(scores, -_CANDIDATES)[-_CANDIDATES:] if len(scores) > _CANDIDATES else np.arange(len(scores))
    return [(int(lag), float(scores[lag])) for lag in top]


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    kept: list[Candidate] = []
    for candidate in candidates:
        if all(
            abs(candidate.offset_ps - other.offset_ps) > candidate.offset_error_ps
            or abs(candidate.drift - other.drift) > candidate.drift_error * 2
            for other in kept
        ):
            kept.append(candidate)
    return kept


def poisson_surprise(count: float, expected: float, trials: float) -> float:
    """-log10 of the probability that the highest of `trials` cells with Poisson mean `expected` reaches `count`."""
    if count <= expected:
        return 0.0
    tail = float(special.gammainc(count, max(expected, 1e-12)))  # P(N >= count)
    if tail <= 0.0:
        # Chernoff's bound where the tail underflows: P <= exp(count - expected) (expected / count)^count
        logarithm = (count - expected + count * np.log(max(expected, 1e-12) / count)) / np.log(10.0)
    else:
        logarithm = np.log10(tail)
    return max(0.0, float(-logarithm - np.log10(max(trials, 1.0))))
