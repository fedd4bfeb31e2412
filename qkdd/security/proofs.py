"""One door to the decoy-state proofs: the length of a block under a mode of the registry, within one security budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qkdd.security import modes
from qkdd.security.accounting import compose
from qkdd.security.channel import BlockCounts
from qkdd.security.decoy import BoundKind, SamplingKind, check_pulses, check_within
from qkdd.security.entropy import check_count, check_epsilon
from qkdd.security.errors import ProofInputError
from qkdd.security.one_decoy import AcceptancePlan, OneDecoyLength, accepts, one_decoy_length, plan_acceptance
from qkdd.security.two_decoy import DECOY_BOUNDS, lim2014_length, variable_length

_PA_SHARE = 0.125  # of eps_sec for privacy amplification: costs 2 bits a halving, the widths cost far more


@dataclass(frozen=True, slots=True)
class Receiver:
    """Characterised inequality of the detectors, as `mismatch.mismatch_deltas` gives it; both 0 only if there is none."""

    delta1: float = 0.0
    delta2: float = 0.0


EQUAL_DETECTORS = Receiver()


@dataclass(frozen=True, slots=True)
class DecoyLength:
    """What a block may yield. label: to be shown with l_bits wherever that is shown. reason: why l_bits is 0, else empty.

    l: unfloored, may be negative. s_key_1, s_test_1 from below, v_test_1 and phi from above; eps_total covers secrecy and
    correctness. accepted: None outside fixed-length blocks.
    """

    mode: str
    label: str
    l: float  # noqa: E741 - the symbol of every paper
    l_bits: int
    reason: str
    phi: float
    s_key_1: float
    s_test_1: float
    v_test_1: float
    eps_total: float
    accepted: bool | None = None


@dataclass(frozen=True, slots=True)
class VlEpsilons:
    """How the variable-length proof spends `eps_sec = 2 eps_AT + eps_PA` (S4.7)."""

    eps_d: float
    eps_ata: float
    eps_pa: float


def split_vl(eps_sec: float, receiver: Receiver) -> VlEpsilons:
    """Split of eps_sec with all sampling terms equal; rounded down, so that the composition does not exceed eps_sec."""
    eps_pa = check_epsilon("eps_sec", eps_sec) * _PA_SHARE
    terms = DECOY_BOUNDS + 1 + (receiver.delta1 > 0.0) + (receiver.delta2 > 0.0)
    each = (eps_sec - eps_pa) / 2.0 / math.sqrt(terms) * (1.0 - 1e-12)
    return VlEpsilons(each, each, eps_pa * (1.0 - 1e-12))


def decoy_length(
    mode_id: str,
    mu: Sequence[float],
    p: Sequence[float],
    counts: BlockCounts,
    leak_ec: float,
    eps_sec: float,
    eps_cor: float,
    *,
    receiver: Receiver = EQUAL_DETECTORS,
    plan: AcceptancePlan | None = None,
    pulses: float | None = None,
    intervals: Sequence[tuple[float, float]] | None = None,
    bound: BoundKind = "hoeffding",
    simulation: bool = False,
) -> DecoyLength:
    """Length of one block under a decoy mode; the statistics' clamp is on (S1.7).

    leak_ec: bits that error correction disclosed, both directions. plan: thresholds of a fixed-length mode; a real block of
    such a mode without them is refused. pulses: sent in the block. intervals: (low, high) of each intensity, checked.
    simulation: expected counts, and observed counts in place of thresholds; no key may be made of the result.
    Raises ProofInputError and its subclasses.
    """
    found_mode = modes.mode(mode_id)
    if intervals is not None:
        check_within(mu, intervals)
    check_pulses(pulses, counts.n_key, counts.n_test)
    if bound == "asymptotic" and not simulation:
        raise ProofInputError("asymptotic bounds say nothing about a finite block", name="bound")
    whole, total_eps = not simulation, compose(eps_sec, eps_cor)
    if mode_id == "bb84-2decoy/vl":
        eps = split_vl(eps_sec, receiver)
        vl = variable_length(
            mu,
            p,
            counts.n_key,
            counts.n_test,
            counts.m_test,
            eps_d=eps.eps_d,
            eps_ata=eps.eps_ata,
            eps_pa=eps.eps_pa,
            eps_ev=eps_cor,
            leak_ec=leak_ec,
            delta1=receiver.delta1,
            delta2=receiver.delta2,
            bound=bound,
            sampling="asymptotic" if bound == "asymptotic" else "serfling",
            whole=whole,
        )
        b = vl.bounds
        return _result(found_mode, vl.l, vl.l_bits, vl.phi, (b.s_key_1.low, b.s_test_1.low, b.v_test_1.high), total_eps)
    if receiver.delta1 > 0.0 or receiver.delta2 > 0.0:
        raise ProofInputError(f"{mode_id} has no term for unequal detectors; bb84-2decoy/vl has", name="delta1")
    if mode_id == "bb84-2decoy/lim2014":
        sampling: SamplingKind = "asymptotic" if bound == "asymptotic" else "fung"
        lim = lim2014_length(
            mu,
            p,
            counts.n_key,
            counts.n_test,
            counts.m_test,
            eps_sec,
            eps_cor,
            leak_ec=leak_ec,
            bound=bound,
            sampling=sampling,
            whole=whole,
        )
        b = lim.bounds
        return _result(
            found_mode, lim.l, lim.l_bits, lim.phi, (b.s_key_1.low, b.s_test_1.low, b.v_test_1.high), total_eps
        )
    if found_mode.protocol != "bb84-1decoy":
        raise ProofInputError(f"{mode_id} is no decoy-state proof", name="proof")
    strict = mode_id == "bb84-1decoy/wiesemann"
    one = one_decoy_length(
        mu,
        p,
        counts.n_key,
        counts.m_key,
        counts.n_test,
        counts.m_test,
        eps_sec,
        eps_cor,
        leak_ec=leak_ec,
        variant="wiesemann" if strict else "rusca",
        vac_rule="min" if strict else "decoy",
        with_vacuum=not strict,
        bound=bound,
        sampling="asymptotic" if bound == "asymptotic" else None,
        whole=whole,
    )
    s = (one.s_key_1.low, one.s_test_1.low, one.v_test_1.high)
    if strict and not simulation:
        if plan is None:
            raise ProofInputError(f"{mode_id} fixes its thresholds before the block; none are given", name="plan")
        taken = accepts(plan, one, check_count("n_key", math.fsum(counts.n_key)))
        bits = plan.l_bits if taken else 0
        return _result(found_mode, float(bits), bits, one.phi, s, total_eps, taken)
    return _result(found_mode, one.l, one.l_bits, one.phi, s, total_eps)


def plan_fixed_length(
    mu: Sequence[float],
    p: Sequence[float],
    expected: BlockCounts,
    leak_max: float,
    eps_sec: float,
    eps_cor: float,
    margin: float = 0.05,
) -> AcceptancePlan:
    """Thresholds of `bb84-1decoy/wiesemann` from expected counts, before the block.

    margin: by which part the bounds of an acceptable block may be worse than those of the expected one. The key takes the
    whole part of the expected key-basis detections; a link sends enough pulses to have that many.
    """
    if not 0.0 <= margin < 1.0:
        raise ProofInputError(f"margin = {margin} lies outside 0 to 1", name="margin")
    found: OneDecoyLength = one_decoy_length(
        mu,
        p,
        expected.n_key,
        expected.m_key,
        expected.n_test,
        expected.m_test,
        eps_sec,
        eps_cor,
        leak_ec=leak_max,
        whole=False,
    )
    n_key = math.floor(math.fsum(expected.n_key))
    s_min, phi_max = found.s_key_1.low * (1.0 - margin), min(0.5, found.phi * (1.0 + margin))
    return plan_acceptance(n_key, min(s_min, float(n_key)), phi_max, leak_max, eps_sec, eps_cor)


def _result(
    found_mode: modes.Mode,
    length: float,
    bits: int,
    phi: float,
    bounds: tuple[float, float, float],
    eps_total: float,
    accepted: bool | None = None,
) -> DecoyLength:
    s_key, s_test, v = bounds
    reason = ""
    if bits == 0:
        if s_key <= 0.0 or s_test <= 0.0:
            reason = "no single-photon detections can be shown"
        elif phi >= 0.5:
            reason = "the phase error may be 1/2"
        elif accepted is False:
            reason = "a threshold of the acceptance test is missed"
        else:
            reason = "what may be known to others is no less than what was measured"
    return DecoyLength(
        found_mode.id, found_mode.label, length, bits, reason, phi, s_key, s_test, v, eps_total, accepted
    )
