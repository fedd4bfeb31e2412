"""Plans are pure, fast, safe and sized as documented; the tracker follows what both nodes saw."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.distill import BlockPlan, DistillConfig, ErrorTracker, leak_budget, plan_block
from qkdd.distill.errors import BlockRefused, BlockTooShort, BlockUnpaid, NoLength, QberExceeded
from qkdd.security import bbm92
from qkdd.security.errors import ProofInputError
from qkdd.security.ledger import BLOCK_BUDGET

CONFIG = DistillConfig()
CASCADE = DistillConfig(reconciler="cascade")


def test_the_reference_block() -> None:
    plan = plan_block(200_000, 0.03, CASCADE)
    assert plan.proof == "bbm92/tl2017"
    assert plan.length == pytest.approx(44_000, rel=0.02)
    assert plan_block(200_000, 0.03, CONFIG).length > 1.6 * plan.length
    assert plan.eps <= BLOCK_BUDGET
    assert plan.eps_pe + plan.eps_pa <= plan.eps_sec


def test_no_length_by_the_formula_alone() -> None:
    with pytest.raises(NoLength):
        plan_block(200_000, 0.26, DistillConfig(qber_max=0.3))


def test_short_blocks_are_refused() -> None:
    with pytest.raises(BlockTooShort):
        plan_block(10, 0.02, CONFIG)
    with pytest.raises(BlockUnpaid):
        plan_block(10_000, 0.02, CASCADE)


@pytest.mark.parametrize("error", [float("nan"), -0.1, 0.6])
def test_nonsense_is_refused(error: float) -> None:
    with pytest.raises(ProofInputError):
        plan_block(200_000, error, CONFIG)


@settings(max_examples=60, deadline=None)
@given(m=st.integers(64, 400_000), error=st.floats(0.0, 0.12))
def test_a_plan_is_deterministic_and_keeps_its_theorem(m: int, error: float) -> None:
    try:
        plan = plan_block(m, error, CONFIG)
    except BlockRefused:
        return
    assert plan == plan_block(m, error, CONFIG)
    assert plan.k + plan.n == m
    assert plan.leak_budget == leak_budget(plan.n, error, CONFIG, plan.method)
    assert plan.net_length > 0
    if plan.proof == "bbm92/tl2017":
        total = bbm92.tl2017_eps_total(m, plan.k, plan.nu, error, plan.leak_budget, plan.tag_bits, plan.length)
    else:
        total = bbm92.lim21_eps(m, plan.k, plan.nu, plan.xi, error, plan.leak_budget, plan.tag_bits, plan.length).total
    assert total <= plan.eps_sec + plan.eps_cor


@settings(max_examples=40, deadline=None)
@given(m=st.integers(25_000, 400_000), error=st.floats(0.005, 0.04), more=st.floats(0.0, 0.01))
def test_more_tolerated_error_never_lengthens(m: int, error: float, more: float) -> None:
    def length(e: float) -> int:
        try:
            return plan_block(m, e, CONFIG).length
        except BlockRefused:
            return 0

    # the best test size is found to a thousandth of the length: budgets of whole frames give it many maxima
    assert length(error + more) <= 1.001 * length(error)


@pytest.mark.parametrize("m", [100, 19_999, 200_000, 1 << 26])
def test_the_search_for_the_test_size_is_short(m: int) -> None:
    """A plan is made between two blocks, on the event loop: some hundred test sizes are tried, however long the block."""
    tried: list[int] = []

    def leak_of(n: int) -> float:
        tried.append(n)
        return leak_budget(n, 0.02, CONFIG, "cascade")

    bbm92.tl2017_choose(m, 0.02, leak_of, 64, 1e-10)
    assert len(tried) < 600


def _accepted(errors: int, size: int) -> object:
    class Block:
        test_errors, actual_errors, sifted = errors, 0, size

    return Block()


def test_tracker() -> None:
    tracker = ErrorTracker(CONFIG)
    with pytest.raises(BlockTooShort):
        tracker.tolerated()
    tracker.seed(20, 2000)
    first = tracker.tolerated()
    assert 0.015 < first < 0.025
    tracker.accepted(_accepted(2000, 200_000))  # type: ignore[arg-type]
    assert tracker.tolerated() == pytest.approx(0.015, abs=2e-5)
    tracker.refused(QberExceeded("x", test_errors=300, test_size=10_000))
    assert 0.035 <= tracker.tolerated() < 0.045
    tracker.seed(900, 10_000)
    assert tracker.tolerated() == CONFIG.qber_max
    with pytest.raises(ProofInputError):
        tracker.seed(3, 2)


def test_config_refuses_unusable_parameters() -> None:
    bad = DistillConfig(eps_sec=0.0, leak_efficiency=0.5, tags_per_block=9)
    assert {key for key, _, _ in bad.check()} == {"eps_sec", "leak_efficiency", "tags_per_block"}
    assert not list(CONFIG.check())
    assert isinstance(plan_block(200_000, 0.02, CONFIG), BlockPlan)
