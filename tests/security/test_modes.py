"""The registry of modes and the one door to the decoy proofs."""

from __future__ import annotations

import math

import pytest

from qkdd.security import modes, proofs
from qkdd.security.channel import BlockCounts, Channel, expected_counts
from qkdd.security.errors import InconsistentCounts, IntensityRefused, ProofInputError
from qkdd.security.two_decoy import variable_length

THREE = ((0.5, 0.12, 0.0002), (0.5, 0.35, 0.15))
TWO = ((0.5, 0.15), (0.7, 0.3))
COUNTS = BlockCounts((8556958, 1441396, 1647), (200000, 40000, 300), (266480, 44888, 51), (6436, 1100, 10))


def _two(pulses: float = 1e10) -> BlockCounts:
    c = expected_counts(Channel(0.01, 1e-7, 0.01).pulse, *TWO, 0.85, pulses)
    rows = (tuple(float(round(x)) for x in row) for row in (c.n_key, c.m_key, c.n_test, c.m_test))
    return BlockCounts(*rows)


def test_registry_says_what_is_strict() -> None:
    assert modes.mode(modes.DEFAULT_DECOY_MODE).length == "variable"
    for mode in modes.MODES.values():
        assert (mode.status == "production") <= mode.strict
        assert mode.strict == (mode.label == "")
        assert mode.assumptions
        assert len({a.id for a in mode.assumptions}) == len(mode.assumptions)
        assert all(a.text.endswith(".") for a in mode.assumptions)
    for name in ("bb84-2decoy/lim2014", "bb84-1decoy/rusca2018"):
        assert modes.mode(name).label == "not a strict bound"
    assert "random-swap" in {a.id for a in modes.mode("bb84-2decoy/vl").assumptions}
    with pytest.raises(ProofInputError, match="bb84-2decoy/vl"):
        modes.mode("bb84")


def test_labels_go_with_lengths() -> None:
    for name in ("bb84-2decoy/vl", "bb84-2decoy/lim2014"):
        found = proofs.decoy_length(name, *THREE, COUNTS, 1e6, 1e-10, 1e-15)
        assert found.label == modes.mode(name).label
        assert found.l_bits > 0
        assert found.reason == ""
        assert found.eps_total <= (1e-10 + 1e-15) * (1 + 1e-12)


@pytest.mark.parametrize("receiver", [proofs.EQUAL_DETECTORS, proofs.Receiver(0.01, 0.0), proofs.Receiver(0.01, 0.01)])
@pytest.mark.parametrize("eps_sec", [1e-6, 1e-12, 1e-200])
def test_the_split_of_epsilon_never_exceeds_it(receiver: proofs.Receiver, eps_sec: float) -> None:
    eps = proofs.split_vl(eps_sec, receiver)
    c = COUNTS
    found = variable_length(
        *THREE,
        c.n_key,
        c.n_test,
        c.m_test,
        eps_d=eps.eps_d,
        eps_ata=eps.eps_ata,
        eps_pa=eps.eps_pa,
        eps_ev=1e-300,
        leak_ec=0,
        delta1=receiver.delta1,
        delta2=receiver.delta2,
    )
    assert 0.99 * eps_sec < found.eps_total <= eps_sec


def test_a_fixed_length_mode_wants_its_plan() -> None:
    counts = _two()
    n_key = int(sum(counts.n_key))
    with pytest.raises(ProofInputError, match="before the block"):
        proofs.decoy_length("bb84-1decoy/wiesemann", *TWO, counts, 1e5, 1e-10, 1e-15)
    plan = proofs.plan_fixed_length(*TWO, counts, 0.1 * n_key, 1e-10, 1e-15)
    good = proofs.decoy_length("bb84-1decoy/wiesemann", *TWO, counts, 0.1 * n_key, 1e-10, 1e-15, plan=plan)
    assert good.accepted is True
    assert good.l_bits == plan.l_bits > 0
    leaky = proofs.decoy_length("bb84-1decoy/wiesemann", *TWO, counts, 0.11 * n_key, 1e-10, 1e-15, plan=plan)
    assert leaky.accepted is False
    assert leaky.l_bits == 0
    assert "threshold" in leaky.reason


def test_refusals_at_the_door() -> None:
    def length(name: str = "bb84-2decoy/vl", **options: object) -> proofs.DecoyLength:
        return proofs.decoy_length(name, *THREE, COUNTS, 1e6, 1e-10, 1e-15, **options)  # type: ignore[arg-type]

    with pytest.raises(IntensityRefused):
        length(intervals=[(0.49, 0.51), (0.11, 0.119), (0.0, 0.001)])
    assert length(intervals=[(0.49, 0.51), (0.11, 0.13), (0.0, 0.001)]).l_bits > 0
    with pytest.raises(IntensityRefused):
        length(intervals=[(math.nan, math.nan)] * 3)
    with pytest.raises(InconsistentCounts):
        length(pulses=10**6)
    with pytest.raises(ProofInputError):
        length(bound="asymptotic")
    with pytest.raises(ProofInputError):
        length("bbm92/tl2017")
    with pytest.raises(ProofInputError):  # a proof without a term for mismatch must not hide it
        length("bb84-2decoy/lim2014", receiver=proofs.Receiver(0.01, 0.0))


def test_reasons_of_blocks_without_key() -> None:
    few = BlockCounts((85, 14, 0), (2, 0, 0), (26, 4, 0), (0, 0, 0))
    assert "single-photon" in proofs.decoy_length("bb84-2decoy/vl", *THREE, few, 0, 1e-10, 1e-15).reason
    noisy = BlockCounts(COUNTS.n_key, COUNTS.m_key, COUNTS.n_test, (100000, 20000, 20))
    assert "1/2" in proofs.decoy_length("bb84-2decoy/vl", *THREE, noisy, 0, 1e-10, 1e-15).reason
    assert "known to others" in proofs.decoy_length("bb84-2decoy/vl", *THREE, COUNTS, 1e7, 1e-10, 1e-15).reason
