"""Monte Carlo: detections carry their photon number; no bound may miss the truth more often than its epsilon (S10.6, S10.8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qkdd.security.channel import Channel, expected_counts, sampled_counts
from qkdd.security.decoy import sampling_width
from qkdd.security.one_decoy import one_decoy_length
from qkdd.security.proofs import decoy_length
from qkdd.security.two_decoy import lim2014_length, variable_length

THREE = ((0.3, 0.03, 0.0), (0.2, 0.4, 0.4))  # bounds so tight that they would fail often without their widths
TWO = ((0.5, 0.15), (0.6, 0.4))
EPS, TRIALS, PHOTONS = 0.01, 3000, 8
ETA, DARK, WRONG = 0.05, 2e-4, 0.02


class Draw:
    """Counts (trials x settings x photon numbers) of one basis, and the errors among them."""

    def __init__(
        self, rng: np.random.Generator, source: tuple[tuple[float, ...], tuple[float, ...]], pulses: float
    ) -> None:
        n = np.arange(PHOTONS)
        arrive = 1.0 - (1.0 - ETA) ** n
        detect = arrive + DARK * (1.0 - arrive)
        error = (WRONG * arrive + DARK * (1.0 - arrive) / 2.0) / detect
        factorial = np.array([math.factorial(int(k)) for k in n])
        mu, p = (np.array(row)[:, None] for row in source)
        mean = pulses * p * np.exp(-mu) * mu**n / factorial * detect
        self.n = rng.poisson(mean, (TRIALS, *mean.shape))
        self.m = rng.binomial(self.n, error)
        self.singles = self.n[:, :, 1].sum(1)
        self.single_errors = self.m[:, :, 1].sum(1)
        self.single_phase_errors = rng.binomial(self.singles, error[1])
        self.vacuum = self.n[:, :, 0].sum(1)

    def counts(self, trial: int) -> list[int]:
        return [int(x) for x in self.n[trial].sum(1)]

    def errors(self, trial: int) -> list[int]:
        return [int(x) for x in self.m[trial].sum(1)]


Bounds = tuple[
    float, float, float, float, float
]  # s_key_1, s_test_1, v_test_1, phi, highest vacuum (inf if not bounded)


def _lim(bound: Any, sampling: Any) -> Callable[[Draw, Draw, int], Bounds]:
    def bounds(key: Draw, test: Draw, i: int) -> Bounds:
        r = lim2014_length(
            *THREE,
            key.counts(i),
            test.counts(i),
            test.errors(i),
            21 * EPS,
            1e-15,
            leak_ec=0,
            bound=bound,
            sampling=sampling,
        )
        b = r.bounds
        return b.s_key_1.low, b.s_test_1.low, b.v_test_1.high, r.phi, math.inf

    return bounds


def _vl(key: Draw, test: Draw, i: int) -> Bounds:
    root = math.sqrt(EPS)  # S4's widths fail with eps²
    r = variable_length(
        *THREE,
        key.counts(i),
        test.counts(i),
        test.errors(i),
        eps_d=root,
        eps_ata=root,
        eps_pa=EPS,
        eps_ev=EPS,
        leak_ec=0,
    )
    b = r.bounds
    return b.s_key_1.low, b.s_test_1.low, b.v_test_1.high, r.phi, math.inf


def _one(variant: Any, terms: int, rule: Any) -> Callable[[Draw, Draw, int], Bounds]:
    def bounds(key: Draw, test: Draw, i: int) -> Bounds:
        r = one_decoy_length(
            *TWO,
            key.counts(i),
            key.errors(i),
            test.counts(i),
            test.errors(i),
            terms * EPS,
            1e-15,
            leak_ec=0,
            variant=variant,
            vac_rule=rule,
        )
        return r.s_key_1.low, r.s_test_1.low, r.v_test_1.high, r.phi, r.s_key_0.high

    return bounds


def _violations(source: Any, bounds: Callable[[Draw, Draw, int], Bounds]) -> tuple[dict[str, float], float]:
    """Share of trials in which a bound misses the truth; and the mean share of the true singles that is certified."""
    rng = np.random.default_rng(11)
    key, test = Draw(rng, source, 6e7), Draw(rng, source, 2e7)
    found = np.array([bounds(key, test, i) for i in range(TRIALS)])
    missed = {
        "s_key_1": found[:, 0] > key.singles,
        "s_test_1": found[:, 1] > test.singles,
        "v_test_1": found[:, 2] < test.single_errors,
        "phi": found[:, 3] < key.single_phase_errors / key.singles,
        "vacuum": found[:, 4] < key.vacuum,
    }
    certified = float(np.mean(found[:, 0] / key.singles))
    return {name: float(np.mean(wrong)) for name, wrong in missed.items()}, certified


@pytest.mark.parametrize(
    ("source", "bounds"),
    [
        pytest.param(THREE, _lim("hoeffding", "fung"), id="lim2014"),
        pytest.param(THREE, _lim("hoeffding", "serfling"), id="lim2014-serfling"),
        pytest.param(THREE, _lim("chernoff", "serfling"), id="lim2014-chernoff"),
        pytest.param(THREE, _vl, id="vl"),
        pytest.param(TWO, _one("rusca", 19, "decoy"), id="rusca2018"),
        pytest.param(TWO, _one("wiesemann", 15, "min"), id="wiesemann"),
    ],
)
def test_bounds_hold(source: Any, bounds: Callable[[Draw, Draw, int], Bounds]) -> None:
    missed, certified = _violations(source, bounds)
    assert all(share <= EPS for share in missed.values()), missed
    assert certified > 0.5  # a bound of 0 would be sound and worthless


def test_the_experiment_would_notice_bounds_without_width() -> None:
    missed, _ = _violations(THREE, _lim("asymptotic", "asymptotic"))
    assert all(missed[name] > 10 * EPS for name in ("s_key_1", "s_test_1", "v_test_1", "phi"))


def test_sampling_widths_hold() -> None:
    """Errors of key positions drawn at random from a fixed set stay below test rate plus width; Serfling's failure is eps²."""
    rng, key, test, errors = np.random.default_rng(5), 4000, 1000, 150
    seen = rng.hypergeometric(errors, key + test - errors, test, TRIALS)
    for kind, eps in (("serfling", math.sqrt(EPS)), ("fung", EPS)):
        width = np.array([sampling_width(kind, eps, m / test, test, key) for m in seen])  # type: ignore[arg-type]
        assert np.mean((errors - seen) / key > seen / test + width) <= EPS


@pytest.mark.parametrize(
    ("mode", "source"), [("bb84-2decoy/vl", ((0.5, 0.15, 0.002), (0.5, 0.35, 0.15))), ("bb84-1decoy/rusca2018", TWO)]
)
def test_sampled_blocks_are_as_long_as_expected_ones(mode: str, source: Any) -> None:
    link, rng = Channel(0.1, 1e-6, 0.01), np.random.default_rng(2)
    pulses, p_key, leak = 10**9, 0.8, 4e6
    mean = expected_counts(link.pulse, *source, p_key, pulses)
    expected = decoy_length(mode, *source, mean, leak, 1e-10, 1e-15, simulation=True).l
    drawn = [
        decoy_length(mode, *source, sampled_counts(rng, link.pulse, *source, p_key, pulses), leak, 1e-10, 1e-15).l
        for _ in range(200)
    ]
    assert expected > 0.0
    assert abs(np.mean(drawn) - expected) <= (0.3 + 4.0 / math.sqrt(200)) * np.std(drawn)
    assert abs(np.mean(drawn) - expected) <= 0.01 * expected


def test_sampled_counts_agree_with_their_means() -> None:
    link, rng = Channel(0.02, 1e-5, 0.01, 0.04), np.random.default_rng(9)
    mean = expected_counts(link.pulse, *THREE, 0.7, 10**9)
    draw = sampled_counts(rng, link.pulse, *THREE, 0.7, 10**9)
    for row in ("n_key", "m_key", "n_test", "m_test"):
        for got, want in zip(getattr(draw, row), getattr(mean, row), strict=True):
            assert abs(got - want) <= 4.5 * math.sqrt(want) + 1.0
