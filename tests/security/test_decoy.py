"""Decoy-state bounds: the properties of S10, refusals, rounding against a 60-digit evaluation, acceptance of fixed lengths."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.security import proofs
from qkdd.security.channel import BlockCounts, Channel, expected_counts
from qkdd.security.errors import InconsistentCounts, IntensityRefused, ProofInputError
from qkdd.security.one_decoy import accepts, one_decoy_length, plan_acceptance
from qkdd.security.two_decoy import lim2014_length, variable_length

THREE = ((0.5, 0.12, 0.0002), (0.5, 0.35, 0.15))
TWO = ((0.5, 0.15), (0.7, 0.3))
EPS = {"eps_d": 1e-12, "eps_ata": 1e-12, "eps_pa": 1e-12, "eps_ev": 1e-15}


def _whole(counts: BlockCounts) -> BlockCounts:
    return BlockCounts(*(tuple(float(round(x)) for x in row) for row in dataclasses.astuple(counts)))


@st.composite
def blocks(draw: st.DrawFn, source: tuple[tuple[float, ...], tuple[float, ...]]) -> BlockCounts:
    link = Channel(10 ** draw(st.floats(-4, -0.3)), 10 ** draw(st.floats(-8, -5)), draw(st.floats(0.0, 0.05)), 0.02)
    p_key, pulses = draw(st.floats(0.5, 0.95)), 10 ** draw(st.floats(7, 12))
    return _whole(expected_counts(link.pulse, *source, p_key, pulses))


def _lim(c: BlockCounts, leak: float, eps: float = 1e-9, **options: Any) -> float:
    return lim2014_length(*THREE, c.n_key, c.n_test, c.m_test, eps, 1e-15, leak_ec=leak, **options).l


def _vl(c: BlockCounts, leak: float, eps: float = 1e-9, **options: Any) -> float:
    epsilons = {"eps_d": eps, "eps_ata": eps, "eps_pa": eps, "eps_ev": eps}
    found = variable_length(*THREE, c.n_key, c.n_test, c.m_test, leak_ec=leak, **epsilons, **options)
    return max(0.0, found.l)  # without single photons its length is 0 by definition, not what is missing


def _rusca(c: BlockCounts, leak: float, eps: float = 1e-9, **options: Any) -> float:
    rest = {"variant": "rusca", "vac_rule": "decoy", "with_vacuum": True, **options}
    return one_decoy_length(*TWO, c.n_key, c.m_key, c.n_test, c.m_test, eps, 1e-15, leak_ec=leak, **rest).l


def _wiesemann(c: BlockCounts, leak: float, eps: float = 1e-9, **options: Any) -> float:
    return one_decoy_length(*TWO, c.n_key, c.m_key, c.n_test, c.m_test, eps, 1e-15, leak_ec=leak, **options).l


Length = Callable[..., float]
CASES = [
    pytest.param(THREE, _lim, 1, id="lim2014"),
    pytest.param(THREE, _vl, 1, id="vl"),
    pytest.param(TWO, _rusca, 0, id="rusca2018"),
    pytest.param(TWO, _wiesemann, 0, id="wiesemann"),
]
EVERY = pytest.mark.parametrize(("source", "length", "setting"), CASES)


def _more_errors(c: BlockCounts, setting: int, part: float) -> BlockCounts:
    errors = list(c.m_test)
    errors[setting] += math.floor(part * (c.n_test[setting] - errors[setting]))
    return dataclasses.replace(c, m_test=tuple(errors))


@EVERY
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_worse_is_never_longer(source: Any, length: Length, setting: int, data: st.DataObject) -> None:
    c = data.draw(blocks(source))
    leak = data.draw(st.floats(0.0, 0.3)) * sum(c.n_key)
    base, ulp = length(c, leak), 1e-9 * (1.0 + sum(c.n_key))
    assert length(c, leak + data.draw(st.floats(0.0, 1e4))) <= base + ulp
    assert length(c, leak, eps=1e-9 * data.draw(st.floats(1e-6, 1.0))) <= base + ulp
    part = data.draw(st.floats(0.0, 0.2))
    assert length(_more_errors(c, setting, part), leak) <= base + ulp
    assert length(_more_errors(c, 0, part), leak) <= base + ulp  # the signal


@EVERY
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_clamp_scale_and_asymptote(source: Any, length: Length, setting: int, data: st.DataObject) -> None:
    c = data.draw(blocks(source))
    n, leak = sum(c.n_key), 0.1 * sum(c.n_key)
    on, off, slack = length(c, leak, clamp=True), length(c, leak, clamp=False), 1e-9 * (1.0 + n)
    assert on >= off - slack
    ten = BlockCounts(*(tuple(10.0 * x for x in row) for row in dataclasses.astuple(c)))
    for clamp, finite in ((True, on), (False, off)):
        assert length(ten, 10.0 * leak, clamp=clamp) / 10.0 >= finite - slack
    limit = length(c, leak, bound="asymptotic", sampling="asymptotic")
    assert limit >= on - slack


@given(blocks(THREE), blocks(TWO), st.booleans(), st.sampled_from(["hoeffding", "chernoff"]))
@settings(max_examples=100, deadline=None)
def test_bounds_stay_within_the_counts(three: BlockCounts, two: BlockCounts, clamp: bool, bound: Any) -> None:
    a = lim2014_length(
        *THREE, three.n_key, three.n_test, three.m_test, 1e-9, 1e-15, leak_ec=0, clamp=clamp, bound=bound
    )
    for s, n in ((a.bounds.s_key_0, three.n_key), (a.bounds.s_key_1, three.n_key), (a.bounds.s_test_1, three.n_test)):
        assert 0.0 <= s.low <= sum(n)
    assert a.bounds.v_test_1.high >= 0.0
    assert 0.0 <= a.phi <= 0.5
    assert 0 <= a.l_bits <= max(0.0, a.l)
    b = one_decoy_length(
        *TWO, two.n_key, two.m_key, two.n_test, two.m_test, 1e-9, 1e-15, leak_ec=0, clamp=clamp, bound=bound
    )
    assert 0.0 <= b.s_key_1.low <= sum(two.n_key)
    assert 0.0 <= b.s_key_0.low <= sum(two.n_key)
    assert b.s_key_0.high <= sum(two.n_key)
    assert 0.0 <= b.v_test_1.high <= sum(two.n_test)
    assert 0 <= b.l_bits <= max(0.0, b.l)


def test_the_order_of_rounds_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    setting, key, wrong = rng.choice(3, 50_000, p=THREE[1]), rng.random(50_000) < 0.8, rng.random(50_000) < 0.02

    def length(order: np.ndarray[Any, Any]) -> float:
        s, k, w = setting[order], key[order], wrong[order]
        n_key, n_test, m_test = (np.bincount(s[mask], minlength=3).tolist() for mask in (k, ~k, ~k & w))
        return lim2014_length(*THREE, n_key, n_test, m_test, 1e-9, 1e-15, leak_ec=9000).l

    assert length(np.arange(50_000)) == length(rng.permutation(50_000))


def _vl_decimal(c: BlockCounts, leak: float) -> Decimal:
    """Steps 4.1 to 4.6 with clamp and equal detectors in 60 digits, written independently of the code under test."""
    with localcontext() as context:
        context.prec = 60
        mu, p = ([Decimal(x) for x in row] for row in THREE)
        one, two = Decimal(1), Decimal(2)
        b = (two / Decimal(EPS["eps_d"]) ** 2).ln()
        tau = [sum(q * (-m).exp() * m**n for m, q in zip(mu, p, strict=True)) for n in (0, 1)]

        def ends(counts: tuple[float, ...]) -> tuple[list[Decimal], list[Decimal], Decimal]:
            xs = [Decimal(x) for x in counts]
            total = sum(xs, Decimal(0))
            d = (total / 2 * b).sqrt()
            w = [m.exp() / q for m, q in zip(mu, p, strict=True)]
            low = [f * max(Decimal(0), x - d) for f, x in zip(w, xs, strict=True)]
            return low, [f * min(total, x + d) for f, x in zip(w, xs, strict=True)], total

        def single(counts: tuple[float, ...]) -> Decimal:
            low, high, total = ends(counts)
            s0 = min(total, max(Decimal(0), tau[0] * (mu[1] * low[2] - mu[2] * high[1]) / (mu[1] - mu[2])))
            inner = low[1] - high[2] - (mu[1] ** 2 - mu[2] ** 2) / mu[0] ** 2 * (high[0] - s0 / tau[0])
            s1 = tau[1] * mu[0] * inner / (mu[0] * (mu[1] - mu[2]) - mu[1] ** 2 + mu[2] ** 2)
            return min(total, max(Decimal(0), s1))

        k1, t1 = single(c.n_key), single(c.n_test)
        low, high, _ = ends(c.m_test)
        v = max(Decimal(0), tau[1] * (high[1] - low[2]) / (mu[1] - mu[2]))
        g = ((one / Decimal(EPS["eps_ata"])).ln() * (t1 + k1) * (t1 + 1) / (k1 * t1**2)).sqrt()
        phi = v / t1 + g
        h = -(phi * phi.ln() + (1 - phi) * (1 - phi).ln()) / two.ln()
        cost = 2 * (one / (2 * Decimal(EPS["eps_pa"]))).ln() + (two / Decimal(EPS["eps_ev"])).ln()
        return k1 * (1 - h) - Decimal(leak) - cost / two.ln()


@given(st.floats(8.5, 13.0), st.floats(0.005, 0.02), st.floats(-3.0, -0.5), st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_length_is_rounded_down_even_next_to_a_whole_number(size: float, e_mis: float, eta: float, k: int) -> None:
    c = _whole(expected_counts(Channel(10**eta, 1e-7, e_mis).pulse, *THREE, 0.8, 10**size))
    free = variable_length(*THREE, c.n_key, c.n_test, c.m_test, leak_ec=0.0, **EPS)
    if free.phi >= 0.49 or free.l < 2000.0:
        return
    leak = float(_vl_decimal(c, 0.0) - k)  # the nearest double: the true length lies a hair beside k
    true = _vl_decimal(c, leak)
    got = variable_length(*THREE, c.n_key, c.n_test, c.m_test, leak_ec=leak, **EPS).l_bits
    assert got <= math.floor(true)
    assert got >= k - 2


NAN, INF = math.nan, math.inf
GOOD = BlockCounts((8556958, 1441396, 1647), (200000, 40000, 300), (266480, 44888, 51), (6436, 1100, 10))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"n_test": (10, 10, 10), "m_test": (11, 0, 0)}, InconsistentCounts),
        ({"n_key": (NAN, 1, 1)}, InconsistentCounts),
        ({"n_key": (INF, 1, 1)}, InconsistentCounts),
        ({"n_key": (-1, 1, 1)}, InconsistentCounts),
        ({"n_key": (1.5, 1, 1)}, InconsistentCounts),
        ({"n_key": (1, 1)}, InconsistentCounts),
        ({"pulses": 1000}, InconsistentCounts),
        ({"mu": (0.3, 0.25, 0.1)}, IntensityRefused),
        ({"mu": (0.5, 0.1, 0.1)}, IntensityRefused),
        ({"mu": (0.5, 0.1, -0.1)}, IntensityRefused),
        ({"mu": (NAN, 0.1, 0.0)}, IntensityRefused),
        ({"mu": (0.5, 0.1)}, IntensityRefused),
        ({"p": (0.5, 0.5, 0.2)}, IntensityRefused),
        ({"p": (0.5, 0.5, 0.0)}, IntensityRefused),
        ({"p": (NAN, 0.5, 0.5)}, IntensityRefused),
        ({"leak_ec": NAN}, ProofInputError),
        ({"leak_ec": -1.0}, ProofInputError),
    ],
)
def test_what_no_block_can_have_is_refused(change: dict[str, Any], error: type[ProofInputError]) -> None:
    inputs: dict[str, Any] = {"mu": THREE[0], "p": THREE[1], "n_key": GOOD.n_key, "n_test": GOOD.n_test}
    inputs |= {"m_test": GOOD.m_test, "leak_ec": 1e6, **change}
    with pytest.raises(error) as lim:
        lim2014_length(**inputs, eps_sec=1e-9, eps_cor=1e-15)
    with pytest.raises(error) as vl:
        variable_length(**inputs, **EPS)
    assert type(lim.value) is type(vl.value) is error
    assert error.code in {"QKD-SEC-COUNTS", "QKD-SEC-INTENSITY", "QKD-SEC-INPUT"}


@pytest.mark.parametrize("eps", [0.0, 1.0, -1.0, NAN, 2.0])
def test_epsilons_outside_their_range_are_refused(eps: float) -> None:
    c = GOOD
    with pytest.raises(ProofInputError):
        lim2014_length(*THREE, c.n_key, c.n_test, c.m_test, eps, 1e-15, leak_ec=0)
    with pytest.raises(ProofInputError):
        lim2014_length(*THREE, c.n_key, c.n_test, c.m_test, 1e-9, eps, leak_ec=0)
    for name in EPS:
        with pytest.raises(ProofInputError):
            variable_length(*THREE, c.n_key, c.n_test, c.m_test, leak_ec=0, **{**EPS, name: eps})


def test_words_that_no_option_has_are_refused() -> None:
    c = GOOD
    for options in ({"bound": "gauss"}, {"sampling": "none"}):
        with pytest.raises(ProofInputError):
            lim2014_length(*THREE, c.n_key, c.n_test, c.m_test, 1e-9, 1e-15, leak_ec=0, **options)  # type: ignore[arg-type]
    for options in ({"variant": "own"}, {"vac_rule": "max"}):
        with pytest.raises(ProofInputError):
            one_decoy_length(*TWO, (9, 9), (1, 1), (9, 9), (1, 1), 1e-9, 1e-15, leak_ec=0, **options)  # type: ignore[arg-type]


def test_tiny_epsilons_and_empty_blocks_are_numbers() -> None:
    c = GOOD
    assert math.isfinite(lim2014_length(*THREE, c.n_key, c.n_test, c.m_test, 1e-300, 1e-300, leak_ec=0).l)
    tiny = {"eps_d": 1e-300, "eps_ata": 1e-300, "eps_pa": 1e-300, "eps_ev": 1e-300}
    assert math.isfinite(variable_length(*THREE, c.n_key, c.n_test, c.m_test, leak_ec=0, **tiny).l)
    none = (0, 0, 0)
    assert lim2014_length(*THREE, none, none, none, 1e-9, 1e-15, f_ec=1.16, m_key_total=0).l_bits == 0
    assert variable_length(*THREE, none, none, none, leak_ec=0, **EPS).l_bits == 0
    assert one_decoy_length(*TWO, (0, 0), (0, 0), (0, 0), (0, 0), 1e-9, 1e-15, leak_ec=0).l_bits == 0


def test_no_key_without_test_errors_bound_even_when_nothing_leaks() -> None:
    """phi = 1/2 or an empty single-photon bound yields no bit, whatever the vacuum credit says."""
    c = GOOD
    found = lim2014_length(*THREE, (10**6, 10**6, 10**6), c.n_test, c.n_test, 1e-9, 1e-15, leak_ec=0)
    assert found.phi == 0.5
    assert found.l_bits == 0


def test_unequal_detectors_cost() -> None:
    c = GOOD
    equal = variable_length(*THREE, c.n_key, c.n_test, c.m_test, leak_ec=1e6, **EPS)
    unequal = variable_length(*THREE, c.n_key, c.n_test, c.m_test, leak_ec=1e6, delta1=0.005, delta2=0.001, **EPS)
    assert unequal.l < equal.l
    assert unequal.eps_total > equal.eps_total
    hopeless = variable_length(*THREE, c.n_key, c.n_test, c.m_test, leak_ec=0, delta1=0.1, delta2=1.0, **EPS)
    assert hopeless.phi == 0.5
    assert hopeless.l_bits == 0


def test_a_fixed_length_block_is_taken_whole_or_not_at_all() -> None:
    link = Channel(0.01, 1e-7, 0.01)
    expected = expected_counts(link.pulse, *TWO, 0.85, 1e10)
    n_key = math.floor(sum(expected.n_key))
    plan = proofs.plan_fixed_length(*TWO, expected, 0.1 * n_key, 1e-10, 1e-15, margin=0.05)
    assert plan.n_key == n_key
    ideal = one_decoy_length(
        *TWO,
        expected.n_key,
        expected.m_key,
        expected.n_test,
        expected.m_test,
        1e-10,
        1e-15,
        leak_ec=plan.leak_max,
        whole=False,
    )
    assert 0 < plan.l_bits < ideal.l_bits
    assert accepts(plan, ideal, n_key)
    assert not accepts(plan, ideal, n_key - 1)
    assert not accepts(plan, dataclasses.replace(ideal, phi=plan.phi_max * 1.01), n_key)
    assert not accepts(plan, dataclasses.replace(ideal, leak_ec=plan.leak_max + 1), n_key)
    low = ideal.s_key_1._replace(low=plan.s_key_1_min - 1.0)
    assert not accepts(plan, dataclasses.replace(ideal, s_key_1=low), n_key)
    for bad in ((n_key, n_key + 1.0, 0.1, 0.0), (n_key, 1.0, 0.6, 0.0), (n_key, 1.0, 0.1, NAN)):
        with pytest.raises(ProofInputError):
            plan_acceptance(*bad, 1e-10, 1e-15)
