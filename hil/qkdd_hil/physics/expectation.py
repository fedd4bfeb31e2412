"""Closed forms for the means of the bench, in the field's usual symbols.

Per detector r = B eta + dark + background and S = r (1 + p_ap) / (1 + r tau); true coincidences
C = B eta_A eta_B w(T) times both live fractions; accidentals A = S_A S_B T; QBER = (e C + A/2) / (C + A).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qkdd_hil.physics.parameters import DetectorParameters, LineParameters, SideParameters
from qkdd_hil.physics.polarization import Matrix


def _integral(x: float) -> float:
    """Second antiderivative of the standard normal density's cumulative function."""
    cumulative = 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))
    density = math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return 0.5 * ((x * x + 1.0) * cumulative + x * density)


def window_fraction(window: float, sigma: float, bin_a: float, bin_b: float | None = None) -> float:
    """w(T): share of true pairs whose tags differ by at most T/2 when the delays are known exactly.

    window: full width T in s. sigma: standard deviation of the difference of the two detectors' jitters in s. bin_*:
    tagger bins in s (equal bins when only one is given). The difference of the two quantisation errors is a convolution
    of two uniform distributions (the clocks run freely, so the bins' phases sweep), the jitter a normal one.
    """
    bin_b = bin_a if bin_b is None else bin_b
    sigma = max(sigma, 1e-3 * max(bin_a, bin_b), 1e-15)
    first, second = max(bin_a, sigma * 1e-2), max(bin_b, sigma * 1e-2)
    half = window / 2.0

    def below(y: float) -> float:
        p, q = (first + second) / 2.0, (first - second) / 2.0
        corner = _integral((y + p) / sigma) - _integral((y + q) / sigma)
        corner += _integral((y - p) / sigma) - _integral((y - q) / sigma)
        return corner * sigma * sigma / (first * second)

    return min(1.0, max(0.0, below(half) - below(-half)))


@dataclass(frozen=True, slots=True)
class Expected:
    """Rates in 1/s. singles_*: float64[4]; coincidences, float64[4, 4]: true ones per pair of detectors inside the
    window, accidentals likewise; qber and chsh_s as a link would report them (matched bases, inferred)."""

    singles_a: Matrix
    singles_b: Matrix
    coincidences: Matrix
    accidentals: Matrix
    qber: float
    chsh_s: float

    @property
    def sifted_rate(self) -> float:
        """Coincidences in equal bases, 1/s."""
        both = self.coincidences + self.accidentals
        return float(both[:2, :2].sum() + both[2:, 2:].sum())


def singles(detectors: tuple[DetectorParameters, ...], primary: Matrix) -> Matrix:
    """float64[4]: recorded clicks/s for primary rates r."""
    afterpulse = np.array([d.afterpulse for d in detectors])
    dead_time = np.array([d.dead_time for d in detectors])
    recorded: Matrix = primary * (1.0 + afterpulse) / (1.0 + primary * dead_time)
    return recorded


def correlations(counts: Matrix) -> Matrix:
    """float64[2, 2]: E(basis of Alice, basis of Bob) from a 4 x 4 table of coincidences."""
    table = counts.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3)  # [basis a, basis b, bit a, bit b]
    signed = table[..., 0, 0] + table[..., 1, 1] - table[..., 0, 1] - table[..., 1, 0]
    total = table.sum(axis=(2, 3))
    values: Matrix = np.divide(signed, total, out=np.zeros_like(signed), where=total > 0)
    return values


def inferred_chsh(counts: Matrix) -> float:
    """2 sqrt(t1^2 + t2^2), t the singular values of the measured 2 x 2 matrix of correlations (Horodecki 1995, in the
    measured plane). Inferred, no Bell test."""
    return float(2.0 * np.sqrt((np.linalg.svd(correlations(counts), compute_uv=False) ** 2).sum()))


def error_rate(counts: Matrix) -> float:
    """Share of unequal bits among coincidences in equal bases."""
    wrong = counts[0, 1] + counts[1, 0] + counts[2, 3] + counts[3, 2]
    total = counts[:2, :2].sum() + counts[2:, 2:].sum()
    return float(wrong / total) if total > 0 else 0.0


def expected(
    line: LineParameters, pair_rate: float, joint: Matrix, noise_a: Matrix, noise_b: Matrix, window: float
) -> Expected:
    """Means for pairs at `pair_rate` (1/s) with detection probabilities `joint` (see pairs.detection_probabilities),
    dark and stray clicks noise_* (float64[4], 1/s) and a coincidence window of full width `window` (s)."""
    rate_a = pair_rate * joint[:4].sum(axis=1) + noise_a
    rate_b = pair_rate * joint[:, :4].sum(axis=0) + noise_b
    singles_a, singles_b = singles(line.alice.detectors, rate_a), singles(line.bob.detectors, rate_b)
    live = np.outer(_live(line.alice, rate_a), _live(line.bob, rate_b))
    fraction = np.array(
        [
            [
                window_fraction(window, math.hypot(a.jitter, b.jitter), line.alice.resolution, line.bob.resolution)
                for b in line.bob.detectors
            ]
            for a in line.alice.detectors
        ]
    )
    coincidences = pair_rate * joint[:4, :4] * fraction * live
    accidentals = np.outer(singles_a, singles_b) * window
    both = coincidences + accidentals
    return Expected(singles_a, singles_b, coincidences, accidentals, error_rate(both), inferred_chsh(both))


def _live(side: SideParameters, primary: Matrix) -> Matrix:
    values: Matrix = 1.0 / (1.0 + primary * np.array([d.dead_time for d in side.detectors]))
    return values
