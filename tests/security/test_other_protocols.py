"""MDI, twin field, continuous variables: limits that must hold whatever the vectors say; refusals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.security import cv, mdi, twin_field
from qkdd.security.errors import InconsistentCounts, IntensityRefused, ProofInputError

NAMES = ("mu", "nu", "om")


def _gains(levels: tuple[float, float, float], y11: float, e11: float) -> tuple[dict[str, float], dict[str, float]]:
    """Gains of a relay that announces single-photon pairs only."""
    value = dict(zip(NAMES, levels, strict=True))
    q = {f"{a},{b}": value[a] * value[b] * math.exp(-value[a] - value[b]) * y11 for a in NAMES for b in NAMES}
    return q, {pair: gain * e11 for pair, gain in q.items()}


@given(st.floats(0.2, 0.6), st.floats(0.05, 0.15), st.floats(0.0, 0.02), st.floats(1e-6, 0.5), st.floats(0.0, 0.5))
def test_mdi_finds_the_yield_of_single_photons(mu: float, nu: float, om: float, y11: float, e11: float) -> None:
    found = mdi.mdi_y11_e11(mu, nu, om, *_gains((mu, nu, om), y11, e11))
    assert found.y11 == pytest.approx(y11, rel=1e-6)
    assert found.e11 == pytest.approx(e11, rel=1e-6, abs=1e-9)


def test_mdi_refuses() -> None:
    q, qe = _gains((0.4, 0.1, 0.01), 1e-3, 0.1)
    with pytest.raises(IntensityRefused):
        mdi.mdi_y11_e11(0.1, 0.4, 0.01, q, qe)
    with pytest.raises(InconsistentCounts):
        mdi.mdi_y11_e11(0.4, 0.1, 0.01, {k: v for k, v in q.items() if k != "mu,om"}, qe)
    with pytest.raises(InconsistentCounts):
        mdi.mdi_y11_e11(0.4, 0.1, 0.01, q, {**qe, "mu,mu": 2 * q["mu,mu"]})
    with pytest.raises(ProofInputError):
        mdi.mdi_y11_e11(0.4, 0.1, 0.01, {**q, "nu,nu": math.nan}, qe)
    nothing = dict.fromkeys(q, 0.0)
    assert mdi.mdi_y11_e11(0.4, 0.1, 0.01, nothing, nothing) == mdi.SinglePhotonPairs(0.0, 0.5)
    eps = {"eps_p": 1e-12, "eps_hat": 1e-12, "eps_pa": 1e-12, "eps_cor": 1e-15}
    with pytest.raises(InconsistentCounts):
        mdi.mdi_length(10.0, 100.0, 0.1, 50.0, leak_ec=0, **eps)
    assert mdi.mdi_length(1e6, 1e6, 0.5, 1e7, leak_ec=0, **eps).l_bits == 0
    long, short = (mdi.mdi_length(0, 1e6, phi, 1e7, leak_ec=1e5, **eps).l for phi in (0.05, 0.06))
    assert short < long
    assert mdi.mdi_rate(1e-4, 0.5, 1e-4, 0.01, 1.16) < 0.0


def test_twin_field_rate() -> None:
    good = twin_field.sns_rate(0.25, 0.4, 0.006, 0.08, 0.0012, 2e-4, 1.1)
    assert good > twin_field.sns_rate(0.25, 0.4, 0.006, 0.10, 0.0012, 2e-4, 1.1)
    assert twin_field.sns_rate(0.25, 0.4, 0.006, 0.6, 0.0012, 0.0, 1.1) == 0.0
    with pytest.raises(ProofInputError):
        twin_field.sns_rate(1.25, 0.4, 0.006, 0.08, 0.0012, 2e-4, 1.1)


channels = st.tuples(
    st.floats(0.5, 50.0), st.floats(0.01, 1.0), st.floats(0.0, 0.05), st.floats(0.3, 1.0), st.floats(0.0, 0.1)
)


@given(channels, st.sampled_from(["hom", "het"]))
@settings(max_examples=100)
def test_cv_orders(c: tuple[float, float, float, float, float], detection: cv.Detection) -> None:
    va, t, xi, eta, vel = c
    trusted = cv.cv_rate(va, t, xi, eta, vel, 0.95, detection, True)
    untrusted = cv.cv_rate(va, t, xi, eta, vel, 0.95, detection, False)
    assert trusted.i_ab == pytest.approx(untrusted.i_ab, rel=1e-9)  # Bob sees the same
    assert untrusted.chi_be >= trusted.chi_be - 1e-9  # Eve does not lose by being given the detector
    assert cv.cv_rate(va, t, xi + 0.01, eta, vel, 0.95, detection, True).key < trusted.key + 1e-9
    finite = cv.cv_finite(
        va, t, xi, eta, vel, 0.95, detection, True, symbols=1e12, pe_frac=0.5, eps_pe=1e-10, eps_bar=1e-10, eps_pa=1e-10
    )
    assert finite.key <= trusted.key / 2 + 1e-9
    assert finite.t_min < t
    assert finite.xi_max > xi


@pytest.mark.parametrize("va", [1.0, 1e2, 1e4, 1e6])
def test_cv_perfect_channel_leaves_eve_nothing(va: float) -> None:
    for detection in ("hom", "het"):
        assert cv.cv_rate(va, 1.0, 0.0, 1.0, 0.0, 1.0, detection, True).chi_be == pytest.approx(0.0, abs=1e-6)  # type: ignore[arg-type]


def test_cv_refuses() -> None:
    for bad in (
        {"t": 0.0},
        {"t": math.nan},
        {"eta": 1.1},
        {"xi": -0.1},
        {"va": math.inf},
        {"beta": 1.2},
        {"detection": "x"},
    ):
        good = {
            "va": 4.0,
            "t": 0.1,
            "xi": 0.01,
            "eta": 0.6,
            "vel": 0.0,
            "beta": 0.95,
            "detection": "het",
            "trusted": True,
        }
        with pytest.raises(ProofInputError):
            cv.cv_rate(**{**good, **bad})  # type: ignore[arg-type]
    with pytest.raises(ProofInputError, match="do not tell"):
        cv.cv_finite(
            4.0,
            1e-4,
            0.0,
            0.6,
            0.0,
            0.95,
            "het",
            True,
            symbols=1e4,
            pe_frac=0.5,
            eps_pe=1e-10,
            eps_bar=1e-10,
            eps_pa=1e-10,
        )


def test_binary_capacity_lies_below_shannon_and_between_its_limits() -> None:
    for ratio in (1e-4, 0.02, 0.5, 3.0, 30.0):
        capacity, share = cv.biawgn_capacity(ratio)
        assert 0.0 < capacity <= 1.0
        assert 0.0 < share <= 1.0 + 1e-9
    assert cv.biawgn_capacity(50.0)[0] == pytest.approx(1.0, abs=1e-6)
    assert cv.biawgn_capacity(1e-4)[1] == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ProofInputError):
        cv.biawgn_capacity(0.0)
