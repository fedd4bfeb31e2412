"""Vectors, monotonicity, soundness of the sampling bound, ledger arithmetic."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd.security import accounting, bbm92, e91, entropy, vectors
from qkdd.security.errors import EpsilonSpent, ProofInputError
from qkdd.security.ledger import EpsilonLedger, LedgerState

PUBLIC = Path(__file__).parents[2].parent / "shared" / "reference" / "keyrate-vectors.json"


def test_public_vectors() -> None:
    if not PUBLIC.exists():
        pytest.skip("../shared/reference/keyrate-vectors.json is not there")
    outcomes = vectors.evaluate_file(PUBLIC)
    assert not [o for o in outcomes if not o.passed]
    assert len(outcomes) >= 120


def test_evaluator_tells_refusals_from_defects(tmp_path: Path) -> None:
    def one(**case: object) -> vectors.Outcome:
        return vectors.evaluate({"name": "one", "tolerance": {}, **case})

    order = {"function": "two_decoy", "inputs": {"mu": [0.3, 0.25, 0.1], "why": "order"}}
    assert one(**order, expected={"error": True}).got["code"] == "QKD-SEC-INTENSITY"
    assert not one(**order, expected={"l": 0.0}).passed
    assert one(
        function="two_decoy", inputs={"p": [0.5, 0.4, 0.1]}, expected={"error": True}
    ).passed  # the rest is missing
    assert one(function="h2", inputs={"x": [0.5], "y": 1}, expected={"error": True}).passed
    assert one(function="h2", inputs={"x": ["a"]}, expected={"error": True}).got["code"] == "QKD-SEC-INPUT"
    assert one(function="h2", inputs={"x": ["a"]}, expected={"y": [1.0]}).reason == "refused"


def test_a_defect_of_a_function_fails_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vectors.FUNCTIONS, "h2", lambda x: {"y": 1 / 0})
    broken = vectors.evaluate({"function": "h2", "inputs": {"x": [0.5]}, "expected": {"error": True}})
    assert not broken.passed
    assert broken.reason == "defect"


_ODD: tuple[object, ...] = (
    None, math.nan, math.inf, -1, 0, 10**400, -(10**30), 1e-320, True, "x", [], {}, [1], [None], ["a"], [math.nan] * 3,
    [1, 2, 3, 4], [[1], [2, 3]], {"a": 1}, 0.5, 2.0,
)  # fmt: skip


@pytest.mark.slow
def test_odd_inputs_fail_their_case_and_nothing_else() -> None:
    """Every input of every public case replaced by things that are none: never an exception, never a defect."""
    if not PUBLIC.exists():
        pytest.skip("../shared/reference/keyrate-vectors.json is not there")
    cases = {case["function"]: case for case in json.loads(PUBLIC.read_text(encoding="utf-8"))["cases"]}
    for function, case in cases.items():
        if function.startswith("figure:") or function == "lim21_optimum":
            continue  # a search for each would take minutes
        for key in [*case["inputs"], "unheard_of"]:
            for value in _ODD:
                outcome = vectors.evaluate({**case, "inputs": {**case["inputs"], key: value}})
                assert outcome.reason != "defect", (function, key, value, outcome.got)
        for broken in ({"inputs": 5}, {"expected": []}, {"tolerance": {"abs": "x"}}, {"function": None}):
            assert not vectors.evaluate({**case, **broken}).passed


def _file(tmp_path: Path, **case: object) -> Path:
    path = tmp_path / "v.json"
    path.write_text(json.dumps({"cases": [{"name": "one", **case}]}))
    return path


def test_evaluator_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _file(tmp_path, function="h2", inputs={"x": [0.5]}, expected={"y": [1.0]}, tolerance={"abs": 1e-9})
    assert vectors.main([str(good)]) == 0
    bad = _file(tmp_path, function="h2", inputs={"x": [0.5]}, expected={"y": [0.9]}, tolerance={"abs": 1e-9})
    assert vectors.main([str(bad), "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == 1
    assert vectors.main([str(_file(tmp_path, function="nobody", inputs={}, expected={}))]) == 1
    nan = _file(tmp_path, function="h2", inputs={"x": [math.nan]}, expected={"error": True}, tolerance={})
    assert vectors.main([str(nan)]) == 0
    refused = _file(tmp_path, function="h2", inputs={"x": [0.5]}, expected={"error": True}, tolerance={})
    assert vectors.main([str(refused)]) == 1
    assert vectors.main([str(tmp_path / "none.json")]) == 2


sizes = st.tuples(st.integers(1000, 10**7), st.floats(0.02, 0.6)).map(lambda p: (p[0], max(1, int(p[0] * p[1]))))


@given(
    sizes,
    st.floats(0.0, 0.1),
    st.floats(0.001, 0.1),
    st.integers(0, 10**5),
    st.floats(0.0, 0.05),
    st.integers(0, 10**4),
)
def test_tl2017_is_monotone(
    mk: tuple[int, int], delta: float, nu: float, leak: int, more_error: float, more_leak: int
) -> None:
    m, k = mk
    base = bbm92.tl2017_length(m, k, nu, delta, leak, 128, 1e-13)
    assert bbm92.tl2017_length(m, k, nu, delta + more_error, leak, 128, 1e-13).l <= base.l
    assert bbm92.tl2017_length(m, k, nu, delta, leak + more_leak, 128, 1e-13).l <= base.l
    assert bbm92.tl2017_length(m, k, nu, delta, leak, 128, 1e-15).l < base.l
    assert base.l_bits <= max(0.0, base.l)


@given(st.integers(1000, 10**6), st.floats(0.0, 0.05))
def test_tl2017_optimum_meets_its_epsilon_and_grows_with_the_block(m: int, delta: float) -> None:
    def rate(size: int) -> float:
        choice = bbm92.tl2017_choose(size, delta, lambda n: 0.3 * n, 64, 1e-12)
        if choice is None:
            return -math.inf
        assert bbm92.tl2017_eps_pe(size, choice.k, choice.nu) + choice.eps_pa <= 1e-12 * (1 + 1e-9)
        return choice.length.l / size

    small, large = rate(m), rate(10 * m)
    assert large >= small
    assert large <= 1 - entropy.h2_bound(delta)  # no finite length beats the asymptotic one


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.0, 0.2), st.integers(0, 10**5))
def test_tlgr_never_beats_the_asymptote(n: int, k: int, q_tol: float, leak: int) -> None:
    assert bbm92.tlgr_length(n, k, q_tol, leak, 1e-10, 1e-15).l <= n * (1 - entropy.h2_bound(q_tol)) - leak


def test_entropy_of_a_bad_bound_is_one() -> None:
    assert entropy.h2_bound(0.5) == entropy.h2_bound(0.9) == 1.0
    assert entropy.h2(0.9) == pytest.approx(entropy.h2(0.1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1.5])
def test_nonsense_is_refused(value: float) -> None:
    for call in (
        lambda: entropy.h2(value),
        lambda: entropy.gamma_serfling(value, 100, 100),
        lambda: bbm92.tl2017_length(1000, 100, 0.1, value, 0, 1, 1e-9),
        lambda: bbm92.tl2017_length(1000, value, 0.1, 0.1, 0, 1, 1e-9),
        lambda: accounting.compose(value),
        lambda: accounting.verify_tag_bits_2universal(value),
        lambda: e91.correlator(value, 1, 1, 1),
    ):
        with pytest.raises(ProofInputError):
            call()
    with pytest.raises(ProofInputError):
        entropy.hypergeom_upper(100, 10, 11, 1e-6)


def test_sampling_bounds_are_sound() -> None:
    """Serfling with failure eps² = 0.05, and the exact tail at 0.05: violations over random subsets stay below."""
    rng, trials, n, k, errors = np.random.default_rng(1), 3000, 400, 100, 30
    in_test = rng.hypergeometric(errors, n + k - errors, k, trials)
    width = entropy.gamma_serfling(math.sqrt(0.05), n, k)
    assert np.mean((errors - in_test) / n > in_test / k + width) <= 0.05
    upper = {int(m): entropy.hypergeom_upper(n, k, int(m), 0.05) for m in np.unique(in_test)}
    assert np.mean([errors - m > upper[int(m)] for m in in_test]) <= 0.05 + 3 * math.sqrt(0.05 / trials)
    nu = bbm92.tl2017_nu(n + k, k, 0.05)
    assert np.mean((errors - in_test) / n > in_test / k + nu) <= 0.05


def test_inferred_chsh_of_a_perfect_and_a_mixed_state() -> None:
    perfect = e91.chsh_inferred((500, 0, 0, 500), (250, 250, 250, 250), (250, 250, 250, 250), (500, 0, 0, 500))
    assert perfect.s == pytest.approx(e91.TSIRELSON)
    mixed = e91.chsh_inferred(*[(250, 250, 250, 250)] * 4)
    assert mixed.s == 0.0
    assert mixed.sigma > 0.0


@given(st.floats(1e-300, 0.999))
def test_tag_bits_are_enough_and_no_more(eps: float) -> None:
    bits = accounting.verify_tag_bits_2universal(eps)
    assert math.ldexp(1.0, -bits) <= eps < math.ldexp(1.0, -bits + 1)


class MemoryStore:
    state: LedgerState | None = None

    def load(self) -> LedgerState | None:
        return self.state

    def save(self, state: LedgerState) -> None:
        self.state = state


def test_ledger_spends_survives_and_stops() -> None:
    store = MemoryStore()
    ledger = EpsilonLedger(store, now=0.0, budget=1e-11, eps_initial=1e-13)
    for block in range(9):
        ledger.charge(1e-12, now=float(block))
    assert ledger.view(now=9.0).alert
    assert ledger.view(now=9.0).blocks_left == 0
    ledger = EpsilonLedger(store, now=10.0, budget=1e-11)  # a restart
    with pytest.raises(EpsilonSpent):
        ledger.charge(1e-12, now=10.0)
    assert store.state is not None
    assert store.state.blocks == 9
    ledger.new_epoch(now=11.0)
    ledger.charge(1e-12, now=12.0)
    assert ledger.view(now=86_411.0).days_left == pytest.approx(8.0, rel=0.2)


def test_ledger_holds_a_million_default_blocks() -> None:
    from qkdd.distill import DistillConfig

    view = EpsilonLedger(MemoryStore(), now=0.0).view(now=0.0, eps_block=DistillConfig().eps_block)
    assert view.blocks_left >= 1_000_000
    assert view.days_left is None
