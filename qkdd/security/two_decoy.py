"""BB84 with three intensities: Lim et al. 2014 (S2) and the variable-length bound of Tupkary et al. 2025 (S4).

Lim et al., PRA 89, 022307. Tupkary, Nahar, Sinha, Luetkenhaus, Quantum 9, 1937. Counts are per intensity, brightest first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qkdd.security.decoy import (
    BoundKind,
    Interval,
    SamplingKind,
    Settings,
    check_counts,
    check_kind,
    check_pulses,
    check_settings,
    choose_leak,
    count_bounds,
    minus_log2,
    rounding_size,
    sampling_width,
)
from qkdd.security.entropy import check_epsilon, check_finite, check_fraction, floor_bits, h2_bound
from qkdd.security.errors import InconsistentCounts

TERMS = 21  # epsilons of equal size in Lim 2014 Eq. B4
DECOY_BOUNDS = 9  # 3 intensities of key counts, test counts, test errors (S4.7)


@dataclass(frozen=True, slots=True)
class DecoyBounds:
    """Bounds of one block: vacuum and single-photon detections from below, single-photon test errors from above."""

    s_key_0: Interval
    s_key_1: Interval
    s_test_0: Interval
    s_test_1: Interval
    v_test_1: Interval


@dataclass(frozen=True, slots=True)
class Lim2014Length:
    """Result of `lim2014_length`. `l` is unfloored and may be negative; no key if phi = 1/2 or an s_1 is 0."""

    tau0: float
    tau1: float
    bounds: DecoyBounds
    phi: float
    leak_ec: float
    const: float
    l: float  # noqa: E741 - the symbol of every paper
    l_bits: int


@dataclass(frozen=True, slots=True)
class VariableLength:
    """Result of `variable_length`; eps_total is the security parameter of the block, correctness included."""

    bounds: DecoyBounds
    phi: float
    l: float  # noqa: E741
    l_bits: int
    eps_total: float


def vacuum_lower(settings: Settings, w: Sequence[Interval], total: float) -> Interval:
    """`tau_0 (mu2 n-_3 - mu3 n+_2)/(mu2 - mu3)`, clipped to 0 … n (Lim 2014 Eq. 2, S2.3)."""
    _, mu2, mu3 = settings.mu
    scale = settings.tau(0) / (mu2 - mu3)
    value = scale * (mu2 * w[2].low - mu3 * w[1].high)
    clipped = min(max(0.0, value), total)
    return Interval(clipped, total, scale * (mu2 * w[2].size + mu3 * w[1].size))


def single_lower(settings: Settings, w: Sequence[Interval], s_0: float, total: float) -> Interval:
    """`tau_1 mu1 [n-_2 - n+_3 - (mu2²-mu3²)/mu1² (n+_1 - s_0/tau_0)] / ((mu2-mu3)(mu1-mu2-mu3))`, clipped to 0 … n
    (Lim 2014 Eq. 3, S2.4)."""
    mu1, mu2, mu3 = settings.mu
    scale = settings.tau(1) * mu1 / ((mu2 - mu3) * (mu1 - mu2 - mu3))
    ratio, vacuum = (mu2 - mu3) * (mu2 + mu3) / (mu1 * mu1), s_0 / settings.tau(0)
    value = scale * (w[1].low - w[2].high - ratio * (w[0].high - vacuum))
    size = scale * (w[1].size + w[2].size + ratio * (w[0].size + vacuum))
    return Interval(min(max(0.0, value), total), total, size)


def single_errors_upper(settings: Settings, w: Sequence[Interval]) -> Interval:
    """`tau_1 (m+_2 - m-_3)/(mu2 - mu3)`, clipped below at 0 (Lim 2014 Eq. 4, S2.5)."""
    _, mu2, mu3 = settings.mu
    scale = settings.tau(1) / (mu2 - mu3)
    return Interval(0.0, max(0.0, scale * (w[1].high - w[2].low)), scale * (w[1].size + w[2].size))


def decoy_bounds(
    settings: Settings,
    n_key: Sequence[float],
    n_test: Sequence[float],
    m_test: Sequence[float],
    log_eps: float,
    *,
    bound: BoundKind = "hoeffding",
    clamp: bool = True,
) -> DecoyBounds:
    """Steps 2.2 to 2.5 on checked settings and counts; log_eps is ln(1/eps) of one count bound."""
    found = []
    for counts in (n_key, n_test):
        total = math.fsum(counts)
        w = count_bounds(counts, settings, log_eps, bound, clamp=clamp)
        s_0 = vacuum_lower(settings, w, total)
        found += [s_0, single_lower(settings, w, s_0.low, total)]
    v = single_errors_upper(settings, count_bounds(m_test, settings, log_eps, bound, clamp=clamp))
    return DecoyBounds(found[0], found[1], found[2], found[3], v)


def lim2014_length(
    mu: Sequence[float],
    p: Sequence[float],
    n_key: Sequence[float],
    n_test: Sequence[float],
    m_test: Sequence[float],
    eps_sec: float,
    eps_cor: float,
    *,
    leak_ec: float | None = None,
    f_ec: float | None = None,
    m_key_total: float | None = None,
    pulses: float | None = None,
    bound: BoundKind = "hoeffding",
    sampling: SamplingKind = "fung",
    clamp: bool = True,
    whole: bool = True,
) -> Lim2014Length:
    """`l = floor( s_K0 + s_K1 (1 - h(phi)) - leak - 6 log2(21/eps_sec) - log2(2/eps_cor) )` (Lim 2014 Eq. 1, S2.1-S2.8).

    As printed (sampling="fung") it is not a strict bound (E3) and, taken on observed counts, not what the theorem covers
    (E10). leak_ec: bits disclosed; or f_ec with m_key_total for a simulation. whole=False admits expected counts.
    Raises ProofInputError and its subclasses.
    """
    settings = check_settings(mu, p, 3)
    n_k = check_counts("key", n_key, None, 3, whole=whole)
    n_t = check_counts("test", n_test, m_test, 3, whole=whole)
    check_pulses(pulses, n_k, n_t)
    check_kind("bound", bound, BoundKind)
    check_kind("sampling", sampling, SamplingKind)
    const = 6.0 * (math.log2(TERMS) + minus_log2("eps_sec", eps_sec)) + 1.0 + minus_log2("eps_cor", eps_cor)
    total = math.fsum(n_k)
    if m_key_total is not None and not 0.0 <= m_key_total <= total:
        raise InconsistentCounts(f"{m_key_total} errors among {total} key-basis detections", name="m_key_total")
    leak = choose_leak(leak_ec, f_ec, total, m_key_total)
    b = decoy_bounds(settings, n_k, n_t, m_test, math.log(TERMS / eps_sec), bound=bound, clamp=clamp)
    s_k, s_t, phi, width = b.s_key_1.low, b.s_test_1.low, 0.5, 0.0
    if s_k > 0.0 and s_t > 0.0:
        rate = b.v_test_1.high / s_t
        if rate < 0.5:
            width = sampling_width(sampling, eps_sec / TERMS, rate, s_t, s_k)
            phi = min(0.5, rate + width)
    length = b.s_key_0.low + s_k * (1.0 - h2_bound(phi)) - leak - const
    bits = 0
    if phi < 0.5:
        size = rounding_size(b.s_key_1, b.s_test_1, b.v_test_1, phi, width, b.s_key_0.size, leak, const)
        bits = floor_bits(length, size)
    return Lim2014Length(settings.tau(0), settings.tau(1), b, phi, leak, const, length, bits)


def variable_length(
    mu: Sequence[float],
    p: Sequence[float],
    n_key: Sequence[float],
    n_test: Sequence[float],
    m_test: Sequence[float],
    *,
    eps_d: float,
    eps_ata: float,
    eps_pa: float,
    eps_ev: float,
    leak_ec: float,
    delta1: float = 0.0,
    delta2: float = 0.0,
    eps_atb: float | None = None,
    eps_atc: float | None = None,
    pulses: float | None = None,
    bound: BoundKind = "hoeffding",
    sampling: SamplingKind = "serfling",
    clamp: bool = True,
    whole: bool = True,
) -> VariableLength:
    """`l = floor( K1 (1 - h(phi)) - leak - 2 log2(1/(2 eps_PA)) - log2(2/eps_EV) )`, a length that may depend on the observed
    counts (Tupkary et al. 2025, S4.1-S4.7).

    delta1, delta2: cost of unequal detectors (`mismatch.mismatch_deltas`); eps_atb, eps_atc: failures of their binomial
    widths, eps_ata if None, spent only when their delta is not 0. Asymptotic kinds serve curves only. Raises ProofInputError.
    """
    settings = check_settings(mu, p, 3)
    n_k = check_counts("key", n_key, None, 3, whole=whole)
    n_t = check_counts("test", n_test, m_test, 3, whole=whole)
    check_pulses(pulses, n_k, n_t)
    check_kind("bound", bound, BoundKind)
    check_kind("sampling", sampling, SamplingKind)
    eps_b = check_epsilon("eps_atb", eps_ata if eps_atb is None else eps_atb)
    eps_c = check_epsilon("eps_atc", eps_ata if eps_atc is None else eps_atc)
    check_fraction("delta1", delta1, high=math.inf)
    check_fraction("delta2", delta2)
    spent = [math.sqrt(DECOY_BOUNDS) * check_epsilon("eps_d", eps_d), check_epsilon("eps_ata", eps_ata)]
    spent += [eps_b] if delta1 > 0.0 else []
    spent += [eps_c] if delta2 > 0.0 else []
    cost = 2.0 * (minus_log2("eps_pa", eps_pa) - 1.0) + 1.0 + minus_log2("eps_ev", eps_ev)
    eps_total = min(1.0, 2.0 * math.hypot(*spent) + eps_pa + eps_ev)
    leak = check_finite("leak_ec", leak_ec, low=0.0)
    log_eps = math.log(2.0) - 2.0 * math.log(eps_d)
    b = decoy_bounds(settings, n_k, n_t, m_test, log_eps, bound=bound, clamp=clamp)
    k_1, t_1 = b.s_key_1.low, b.s_test_1.low
    if k_1 <= 0.0 or t_1 <= 0.0:
        return VariableLength(b, 0.5, 0.0, 0, eps_total)
    rate = min(1.0, b.v_test_1.high / t_1)
    width = sampling_width(sampling, eps_ata, rate, t_1, k_1)
    g_1 = math.sqrt(-math.log(eps_b) / k_1) if delta1 > 0.0 else 0.0
    g_2 = math.sqrt(-math.log(eps_c) / k_1) if delta2 > 0.0 else 0.0
    kept = 1.0 - delta2 - g_2
    top = rate + width + delta1 + g_1
    phi = 0.5 if kept <= 0.0 else min(0.5, top / kept)
    length = k_1 * (1.0 - h2_bound(phi)) - leak - cost
    bits = 0
    if phi < 0.5:
        widened = (width + delta1 + g_1 + g_2) / kept**2  # errors of phi grow by the division
        size = rounding_size(b.s_key_1, b.s_test_1, b.v_test_1, phi, widened, leak, cost) / kept
        bits = floor_bits(length, size)
    return VariableLength(b, phi, length, bits, eps_total)
