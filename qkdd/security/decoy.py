"""What every decoy-state bound shares: settings, checked counts, count intervals, sampling widths (S1).

Key basis and test basis are named; setting 0 is the brightest. Counts are of one block: n detections, m bit errors, both
parties in the basis. `math` on plain floats throughout: one evaluation takes some ten microseconds, so that optimisers can
use the very functions that make key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from qkdd.security.entropy import check_count, check_epsilon, check_finite, gamma_fung, gamma_serfling, h2
from qkdd.security.errors import InconsistentCounts, IntensityRefused, ProofInputError

BoundKind = Literal["hoeffding", "chernoff", "asymptotic"]
SamplingKind = Literal["serfling", "fung", "asymptotic"]
MU_HIGHEST = 10.0  # photons a pulse; nobody calls more than this a weak pulse
_P_SUM_TOLERANCE = 1e-9


class Interval(NamedTuple):
    """A quantity lies between `low` and `high`; `size` is the largest number met while computing them."""

    low: float
    high: float
    size: float


@dataclass(frozen=True, slots=True)
class Settings:
    """Mean photon numbers at Alice's exit, brightest first, and the probability of each within one basis (S1.6)."""

    mu: tuple[float, ...]
    p: tuple[float, ...]

    def tau(self, photons: int) -> float:
        """Probability that Alice emits that many photons: `sum_k p_k e^-mu_k mu_k^n / n!` (Lim 2014 before Eq. 2, S1.2)."""
        weights = (p * math.exp(-mu) * mu**photons for mu, p in zip(self.mu, self.p, strict=True))
        return math.fsum(weights) / math.factorial(photons)


def check_mu(mu: Sequence[float], count: int) -> tuple[float, ...]:
    """`mu` if it meets the proofs' order: two settings mu1 > mu2 > 0, three mu1 > mu2 + mu3 and mu2 > mu3 >= 0 (S2, S3).

    Raises IntensityRefused.
    """
    if len(mu) != count:
        raise IntensityRefused(f"{len(mu)} intensities where the proof has {count}", name="mu")
    if not all(math.isfinite(value) and 0.0 <= value <= MU_HIGHEST for value in mu):
        raise IntensityRefused(f"intensities {list(mu)} are not all between 0 and {MU_HIGHEST}", name="mu")
    if count == 2 and not mu[0] > mu[1] > 0.0:
        raise IntensityRefused(f"intensities {list(mu)} break mu1 > mu2 > 0", name="mu")
    if count == 3 and not (mu[0] > mu[1] + mu[2] and mu[1] > mu[2]):
        raise IntensityRefused(f"intensities {list(mu)} break mu1 > mu2 + mu3, mu2 > mu3 >= 0", name="mu")
    return tuple(float(value) for value in mu)


def check_p(p: Sequence[float], count: int) -> tuple[float, ...]:
    """`p` if it holds `count` probabilities above 0 that sum to 1. Raises IntensityRefused."""
    if len(p) != count:
        raise IntensityRefused(f"{len(p)} probabilities for {count} intensities", name="p")
    if not all(math.isfinite(value) and 0.0 < value < 1.0 for value in p):
        raise IntensityRefused(f"probabilities {list(p)} are not all between 0 and 1", name="p")
    if abs(math.fsum(p) - 1.0) > _P_SUM_TOLERANCE:
        raise IntensityRefused(f"probabilities {list(p)} sum to {math.fsum(p)}", name="p")
    return tuple(float(value) for value in p)


def check_within(mu: Sequence[float], intervals: Sequence[tuple[float, float]]) -> None:
    """Raise IntensityRefused if a measured intensity left its characterised interval (abort rule of S4.10)."""
    if len(mu) != len(intervals):
        raise IntensityRefused(f"{len(intervals)} intervals for {len(mu)} intensities", name="intervals")
    for number, (value, (low, high)) in enumerate(zip(mu, intervals, strict=True), start=1):
        if not low <= value <= high:
            raise IntensityRefused(f"mu{number} = {value} left its interval {low} to {high}", name=f"mu{number}")


def check_settings(mu: Sequence[float], p: Sequence[float], count: int) -> Settings:
    """Checked settings of a proof with `count` intensities. Raises IntensityRefused."""
    return Settings(check_mu(mu, count), check_p(p, count))


def check_counts(
    name: str, n: Sequence[float], errors: Sequence[float] | None, count: int, *, whole: bool = True
) -> tuple[float, ...]:
    """`n` as floats if it holds `count` detection counts, with `errors` (if given) none above its detections.

    whole=False admits the real-valued expectations of a channel model. Raises InconsistentCounts.
    """
    for label, values in ((f"n_{name}", n), (f"m_{name}", errors)):
        if values is None:
            continue
        if len(values) != count:
            raise InconsistentCounts(f"{label} has {len(values)} counts for {count} intensities", name=label)
        for value in values:
            try:
                if whole:
                    check_count(label, value)
                else:
                    check_finite(label, value, low=0.0)
            except ProofInputError as error:
                raise InconsistentCounts(error.message, name=label) from None
    if errors is not None and any(m > d for m, d in zip(errors, n, strict=True)):
        raise InconsistentCounts(f"m_{name} = {list(errors)} exceeds n_{name} = {list(n)}", name=f"m_{name}")
    return tuple(float(value) for value in n)


def check_pulses(pulses: float | None, *counts: Sequence[float]) -> None:
    """Raise InconsistentCounts if the detections together exceed the pulses of the block (None: not known)."""
    if pulses is not None and math.fsum(value for group in counts for value in group) > check_count("pulses", pulses):
        raise InconsistentCounts(f"more detections than the block's {pulses} pulses", name="pulses")


def check_kind(name: str, value: str, kinds: object) -> None:
    """Raise ProofInputError if `value` is not one of the Literal type's words."""
    if value not in get_args(kinds):
        raise ProofInputError(f"{name} = {value!r} is none of {', '.join(get_args(kinds))}", name=name)


def count_bounds(
    counts: Sequence[float], settings: Settings, log_eps: float, kind: BoundKind, *, clamp: bool
) -> tuple[Interval, ...]:
    """Weighted bounds `e^mu_k/p_k n±_k` of the expected counts of one basis (S1.3, S1.4, S1.7).

    log_eps: ln(1/eps) of one bound. Hoeffding's width takes the basis total, Chernoff's the setting's own count;
    `asymptotic` has width 0 and says nothing about a finite block. clamp restricts the bare bound to 0 … total.
    """
    total = math.fsum(counts)
    width = math.sqrt(total / 2.0 * log_eps) if kind == "hoeffding" else 0.0
    bounds = []
    for x, mu, p in zip(counts, settings.mu, settings.p, strict=True):
        if kind == "chernoff":
            low = max(0.0, x - log_eps / 2.0 - math.sqrt(2.0 * log_eps * x + log_eps * log_eps / 4.0))
            high = x + log_eps + math.sqrt(2.0 * log_eps * x + log_eps * log_eps)
        else:
            low, high = x - width, x + width
        size = max(abs(low), abs(high), x)
        if clamp:
            low, high = max(0.0, low), min(total, high)
        weight = math.exp(mu) / p
        bounds.append(Interval(weight * low, weight * high, weight * size))
    return tuple(bounds)


def sampling_width(kind: SamplingKind, eps: float, rate: float, test: float, key: float) -> float:
    """How far the key's phase-error rate can lie above the test's error rate `rate`, sizes `test` and `key` (S1.5).

    Fung's approximation vanishes at zero errors: `rate` is floored at one error there (E4).
    """
    if kind == "serfling":
        return gamma_serfling(eps, key, test)
    if kind == "fung":
        return gamma_fung(eps, min(0.5, max(rate, 1.0 / test)), test, key)
    return 0.0


def leak_of(n_key: float, errors: float, f_ec: float) -> float:
    """`f n h(Q)`: what error correction is expected to disclose. For simulations only; a link counts bits (S7.1)."""
    if n_key == 0.0:
        return 0.0
    return check_finite("f_ec", f_ec, low=1.0) * n_key * h2(errors / n_key)


def choose_leak(leak_ec: float | None, f_ec: float | None, n_key: float, errors: float | None) -> float:
    """The counted leak if there is one, else `leak_of`. Raises ProofInputError if neither can be had."""
    if leak_ec is not None:
        return check_finite("leak_ec", leak_ec, low=0.0)
    if f_ec is None or errors is None:
        raise ProofInputError("neither leak_ec nor f_ec with the key basis's errors is given", name="leak_ec")
    return leak_of(n_key, errors, f_ec)


def rounding_size(s_key: Interval, s_test: Interval, v: Interval, phi: float, width: float, *terms: float) -> float:
    """Size for `floor_bits`: what the rounding of every intermediate, carried to the length, amounts to in units of its ulp.

    First-order error propagation through `s_key (1 - h(phi))`, `phi = v/s_test + width`; the intermediates' own sizes, not
    their differences, bound their errors. 0.0 <= phi < 1/2 and both s above 0.
    """
    slope = abs(math.log2((1.0 - phi) / phi)) if phi > 0.0 else 0.0
    relative = s_key.size / s_key.low + 2.0 * s_test.size / s_test.low
    d_phi = v.size / s_test.low + v.high * s_test.size / s_test.low**2 + width * relative + phi
    return s_key.size + s_key.low * slope * d_phi + math.fsum(abs(term) for term in terms)


def minus_log2(name: str, eps: float) -> float:
    """log2(1/eps) of a checked failure probability, from the logarithm, so that eps down to 1e-300 loses nothing (S7.6)."""
    return -math.log2(check_epsilon(name, eps))
