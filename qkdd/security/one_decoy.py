"""BB84 with two intensities: Rusca et al. 2018 (S3a) and Wiesemann et al. 2026 (S3b).

Rusca, Boaron, Gruenenfelder, Martin, Zbinden, APL 112, 171104. Wiesemann, Krause, Tupkary, Rusca, Walenta, Luetkenhaus,
Quantum 10, 2037. Both need the key basis's errors per intensity, known only after error correction (E9).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
from qkdd.security.entropy import floor_bits, h2_bound
from qkdd.security.errors import ProofInputError

Variant = Literal["rusca", "wiesemann"]
VacuumRule = Literal["decoy", "signal", "min"]
TERMS: dict[str, int] = {"rusca": 19, "wiesemann": 15}  # epsilons of equal size in one eps_sec
_SAMPLING: dict[str, SamplingKind] = {"rusca": "fung", "wiesemann": "serfling"}


@dataclass(frozen=True, slots=True)
class OneDecoyLength:
    """Result of `one_decoy_length`: vacuum within s_key_0, single photons from below, their errors from above.

    `l` is unfloored and may be negative; no key if phi = 1/2 or an s_1 is 0.
    """

    tau0: float
    tau1: float
    s_key_0: Interval
    s_key_1: Interval
    s_test_0: Interval
    s_test_1: Interval
    v_test_1: Interval
    phi: float
    leak_ec: float
    const: float
    l: float  # noqa: E741 - the symbol of every paper
    l_bits: int


def vacuum_upper(
    settings: Settings, w_errors: Sequence[Interval], total: float, log_eps: float, kind: BoundKind, rule: VacuumRule
) -> Interval:
    """`2 [ tau_0 m+_k + delta(n, eps) ]`, clipped to 0 … n: vacuum clicks err half of the time (Rusca A16, S3.3).

    rule: which intensity's errors are taken; each is valid (E8).
    """
    tau_0 = settings.tau(0)
    delta = 0.0 if kind == "asymptotic" else math.sqrt(total / 2.0 * log_eps)
    chosen = {"decoy": [w_errors[1]], "signal": [w_errors[0]], "min": list(w_errors)}[rule]
    best = min(chosen, key=lambda w: w.high)
    value = 2.0 * (tau_0 * best.high + delta)
    return Interval(0.0, min(max(0.0, value), total), 2.0 * (tau_0 * best.size + delta))


def vacuum_lower(settings: Settings, w: Sequence[Interval], total: float) -> Interval:
    """`tau_0/(mu1-mu2) (mu1 n-_2 - mu2 n+_1)`, clipped to 0 … n (Rusca A19, S3.4)."""
    mu1, mu2 = settings.mu
    scale = settings.tau(0) / (mu1 - mu2)
    value = scale * (mu1 * w[1].low - mu2 * w[0].high)
    return Interval(min(max(0.0, value), total), total, scale * (mu1 * w[1].size + mu2 * w[0].size))


def single_lower(settings: Settings, w: Sequence[Interval], s_0: float, total: float) -> Interval:
    """`tau_1 mu1/(mu2(mu1-mu2)) [ n-_2 - (mu2/mu1)² n+_1 - (mu1²-mu2²)/mu1² s_0/tau_0 ]`, clipped to 0 … n (Rusca A17, S3.5)."""
    mu1, mu2 = settings.mu
    scale = settings.tau(1) * mu1 / (mu2 * (mu1 - mu2))
    square, vacuum = (mu2 / mu1) ** 2, (mu1 - mu2) * (mu1 + mu2) / (mu1 * mu1) * s_0 / settings.tau(0)
    value = scale * (w[1].low - square * w[0].high - vacuum)
    return Interval(min(max(0.0, value), total), total, scale * (w[1].size + square * w[0].size + vacuum))


def single_errors_upper(settings: Settings, w: Sequence[Interval], total: float) -> Interval:
    """`tau_1/(mu1-mu2) (m+_1 - m-_2)`, clipped to 0 … n (Rusca A22, S3.6)."""
    mu1, mu2 = settings.mu
    scale = settings.tau(1) / (mu1 - mu2)
    value = scale * (w[0].high - w[1].low)
    return Interval(0.0, min(max(0.0, value), total), scale * (w[0].size + w[1].size))


def one_decoy_length(
    mu: Sequence[float],
    p: Sequence[float],
    n_key: Sequence[float],
    m_key: Sequence[float],
    n_test: Sequence[float],
    m_test: Sequence[float],
    eps_sec: float,
    eps_cor: float,
    *,
    leak_ec: float | None = None,
    f_ec: float | None = None,
    variant: Variant = "wiesemann",
    vac_rule: VacuumRule = "min",
    clamp: bool = True,
    with_vacuum: bool = False,
    bound: BoundKind = "hoeffding",
    sampling: SamplingKind | None = None,
    pulses: float | None = None,
    whole: bool = True,
) -> OneDecoyLength:
    """Length of one block, S3.1-S3.8 (variant "rusca", `- 6 log2(19/eps_sec)`) or S3b (variant "wiesemann",
    `- 4 log2(15/(2^(1/4) eps_sec))`), each less leak and `log2(2/eps_cor)`.

    with_vacuum: credit the vacuum detections (Rusca does). sampling: None takes the variant's own (Fung, Serfling); "rusca"
    as printed is not a strict bound (E3, E10). leak_ec: bits disclosed; or f_ec for a simulation. whole=False admits
    expected counts. Raises ProofInputError and its subclasses.
    """
    settings = check_settings(mu, p, 2)
    n_k = check_counts("key", n_key, m_key, 2, whole=whole)
    n_t = check_counts("test", n_test, m_test, 2, whole=whole)
    check_pulses(pulses, n_k, n_t)
    check_kind("variant", variant, Variant)
    check_kind("vac_rule", vac_rule, VacuumRule)
    check_kind("bound", bound, BoundKind)
    width_kind = _SAMPLING[variant] if sampling is None else sampling
    check_kind("sampling", width_kind, SamplingKind)
    terms = TERMS[variant]
    each = math.log2(terms) + minus_log2("eps_sec", eps_sec)
    const = 1.0 + minus_log2("eps_cor", eps_cor) + (6.0 * each if variant == "rusca" else 4.0 * each - 1.0)
    total, total_test = math.fsum(n_k), math.fsum(n_t)
    leak = choose_leak(leak_ec, f_ec, total, math.fsum(m_key))
    log_eps = math.log(terms / eps_sec)

    def weighted(counts: Sequence[float]) -> tuple[Interval, ...]:
        return count_bounds(counts, settings, log_eps, bound, clamp=clamp)

    w_key, w_test, w_errors = weighted(n_k), weighted(n_t), weighted(m_test)
    up_key = vacuum_upper(settings, weighted(m_key), total, log_eps, bound, vac_rule)
    up_test = vacuum_upper(settings, w_errors, total_test, log_eps, bound, vac_rule)
    low_key = vacuum_lower(settings, w_key, total)
    s_key = single_lower(settings, w_key, up_key.high, total)
    s_test = single_lower(settings, w_test, up_test.high, total_test)
    v = single_errors_upper(settings, w_errors, total_test)
    phi, width = 0.5, 0.0
    if s_key.low > 0.0 and s_test.low > 0.0:
        rate = v.high / s_test.low
        if rate < 0.5:
            width = sampling_width(width_kind, eps_sec / terms, rate, s_test.low, s_key.low)
            phi = min(0.5, rate + width)
    credited = low_key.low if with_vacuum else 0.0
    length = credited + s_key.low * (1.0 - h2_bound(phi)) - leak - const
    bits = 0
    if phi < 0.5:
        bits = floor_bits(length, rounding_size(s_key, s_test, v, phi, width, low_key.size, leak, const))
    vacuum = Interval(low_key.low, up_key.high, max(low_key.size, up_key.size))
    return OneDecoyLength(
        settings.tau(0), settings.tau(1), vacuum, s_key, up_test, s_test, v, phi, leak, const, length, bits
    )


@dataclass(frozen=True, slots=True)
class AcceptancePlan:
    """What a fixed-length block (S3b) promises before it starts. Afterwards it is accepted with `l_bits`, or aborted.

    n_key: key-basis detections that enter the key, neither more nor fewer (a surplus is dropped at random before any
    announcement of intensities). leak_max in bits.
    """

    n_key: int
    s_key_1_min: float
    phi_max: float
    leak_max: float
    l_bits: int


def plan_acceptance(
    n_key: int, s_key_1_min: float, phi_max: float, leak_max: float, eps_sec: float, eps_cor: float
) -> AcceptancePlan:
    """Length of a fixed-length block from its thresholds: `floor( S (1 - h(Phi)) - leak_max - log2(2/eps_cor) -
    4 log2(15/(2^(1/4) eps_sec)) )` (S3b). Raises ProofInputError on thresholds outside their meaning."""
    if not 0.0 <= s_key_1_min <= n_key:
        raise ProofInputError(f"s_key_1_min = {s_key_1_min} lies outside 0 to {n_key}", name="s_key_1_min")
    if not 0.0 <= phi_max <= 0.5:
        raise ProofInputError(f"phi_max = {phi_max} lies outside 0 to 1/2", name="phi_max")
    if not 0.0 <= leak_max < math.inf:
        raise ProofInputError(f"leak_max = {leak_max} is no number of bits", name="leak_max")
    const = 4.0 * (math.log2(TERMS["wiesemann"]) + minus_log2("eps_sec", eps_sec)) - 1.0
    const += 1.0 + minus_log2("eps_cor", eps_cor)
    length = s_key_1_min * (1.0 - h2_bound(phi_max)) - leak_max - const
    bits = floor_bits(length, s_key_1_min, leak_max, const) if phi_max < 0.5 else 0
    return AcceptancePlan(n_key, s_key_1_min, phi_max, leak_max, bits)


def accepts(plan: AcceptancePlan, found: OneDecoyLength, n_key: int) -> bool:
    """True if the block keeps every promise of `plan`; else it is aborted. n_key: its key-basis detections."""
    return (
        plan.l_bits > 0
        and n_key == plan.n_key
        and found.s_key_1.low >= plan.s_key_1_min
        and found.phi <= plan.phi_max
        and found.leak_ec <= plan.leak_max
    )
