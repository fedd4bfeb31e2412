"""The functions that a file of key-rate vectors may name, under the input and output names of that format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from qkdd.security import (
    accounting,
    bbm92,
    channel,
    cv,
    decoy,
    e91,
    entropy,
    figures,
    mdi,
    mismatch,
    one_decoy,
    twin_field,
    two_decoy,
)

Values = dict[str, Any]
_INTENSITIES = {"two_decoy": 3, "variable_length": 3, "one_decoy": 2}
_EPSILONS = ("eps_sec", "eps_cor", "eps_d", "eps_ata", "eps_pa", "eps_ev")
_FURTHEST_KM = 1000.0


def check_given(function: str, inputs: Mapping[str, Any]) -> None:
    """Refuse a decoy case for what it says rather than for what it leaves out: checks each group of inputs that is there.

    Raises ProofInputError and its subclasses.
    """
    count = _INTENSITIES.get(function)
    if count is None:
        return
    if "mu" in inputs:
        decoy.check_mu(inputs["mu"], count)
    if "p" in inputs:
        decoy.check_p(inputs["p"], count)
    for basis in ("key", "test"):
        if f"n_{basis}" in inputs:
            decoy.check_counts(basis, inputs[f"n_{basis}"], inputs.get(f"m_{basis}"), count)
    for name in _EPSILONS:
        if name in inputs:
            entropy.check_epsilon(name, inputs[name])


def _h2(x: list[float]) -> Values:
    return {"y": [entropy.h2(value) for value in x]}


def _chernoff(x: float, eps: float) -> Values:
    lower, upper = entropy.chernoff_obs_to_exp(x, eps)
    return {"lower": lower, "upper": upper}


def _mismatch(d_eta: float, d_dc: float, p_dc: float, random_swap: bool) -> Values:
    delta1, delta2 = mismatch.mismatch_deltas(d_eta, d_dc, p_dc, random_swap)
    return {"delta1": delta1, "delta2": delta2}


def _tlgr(**inputs: float) -> Values:
    length = bbm92.tlgr_length(**inputs)
    mu = bbm92.tlgr_mu(inputs["n"], inputs["k"], inputs["eps_sec"])
    return {"mu": mu, "l": length.l, "l_bits": length.l_bits}


def _tl(m: float, k: float, nu: float, delta: float, leak: float, t: float, eps_pa: float, cbar: float) -> Values:
    length = bbm92.tl2017_length(m, k, nu, delta, leak, t, eps_pa, cbar)
    total = bbm92.tl2017_eps_total(m, k, nu, delta, leak, t, length.l_bits, cbar)
    return {"l": length.l, "l_bits": length.l_bits, "eps_total_at_l": total}


def _lim21_optimum(m: int, delta: float, f_ec: float, eps: float, eps_cor: float) -> Values:
    entropy.check_epsilon("eps_cor", eps_cor)
    entropy.check_finite("f_ec", f_ec, low=1.0)
    rate = entropy.h2_bound(entropy.check_fraction("delta", delta, high=0.5))
    whole = entropy.check_count("m", m, low=2)
    choice = bbm92.lim21_choose(whole, delta, lambda n: f_ec * n * rate, -math.log2(eps_cor), eps - eps_cor)
    if choice is None:
        return {"l": 0.0, "l_bits": 0}
    return {"l": choice.length.l, "l_bits": choice.length.l_bits, "k": choice.k, "nu": choice.nu, "xi": choice.xi}


def _lim21_eps(**inputs: float) -> Values:
    result = bbm92.lim21_eps(**inputs)
    return {"eps_cor": result.eps_cor, "eps_pe": result.eps_pe, "eps_pa": result.eps_pa, "total": result.total}


def _chsh(quads: list[list[float]], eps: float) -> Values:
    result = e91.chsh(quads, eps)
    return {"S": result.s, "sigma": result.sigma, "S_lower": result.s_lower, "chi": result.chi}


def _visibility(v_z: float, v_x: float) -> Values:
    result = e91.visibility(v_z, v_x)
    return {
        "qber_z": result.qber_z,
        "qber_x": result.qber_x,
        "werner_f": result.werner_f,
        "fidelity_lower": result.fidelity_lower,
    }


def _device_independent_threshold(f_ec: float) -> Values:
    """Error rate at which di_rate crosses 0 with S = 2 sqrt(2) (1 - 2Q) (Acin et al. 2007)."""
    low, high = 0.0, 0.14
    while high - low > 1e-12:
        middle = (low + high) / 2.0
        positive = e91.di_rate(middle, e91.TSIRELSON * (1.0 - 2.0 * middle), f_ec) > 0.0
        low, high = (middle, high) if positive else (low, middle)
    return {"qber": low}


def _two_decoy(
    mu: list[float], p: list[float], n_key: list[float], n_test: list[float], m_test: list[float], **rest: Any
) -> Values:
    r = two_decoy.lim2014_length(mu, p, n_key, n_test, m_test, **{"clamp": False, **rest})
    return {
        "tau0": r.tau0,
        "tau1": r.tau1,
        **_bounds(r.bounds, ("s_key_0", "s_key_1", "s_test_0", "s_test_1", "v_test_1")),
        "phi": r.phi,
        "leak_ec": r.leak_ec,
        "const": r.const,
        "l": r.l,
        "l_bits": r.l_bits,
    }


def _bounds(b: two_decoy.DecoyBounds, names: tuple[str, ...]) -> Values:
    values = (b.s_key_0.low, b.s_key_1.low, b.s_test_0.low, b.s_test_1.low, b.v_test_1.high)
    return dict(zip(names, values, strict=True))


def _variable_length(
    mu: list[float], p: list[float], n_key: list[float], n_test: list[float], m_test: list[float], **rest: Any
) -> Values:
    r = two_decoy.variable_length(mu, p, n_key, n_test, m_test, **{"clamp": False, **rest})
    return {
        **_bounds(r.bounds, ("n_key_0", "n_key_1", "n_test_0", "n_test_1", "v_test_1")),
        "phi": r.phi,
        "l": r.l,
        "l_bits": r.l_bits,
        "eps_total": r.eps_total,
    }


def _one_decoy(
    mu: list[float],
    p: list[float],
    n_key: list[float],
    m_key: list[float],
    n_test: list[float],
    m_test: list[float],
    *,
    variant: one_decoy.Variant = "rusca",
    **rest: Any,
) -> Values:
    published = variant == "rusca"  # what each paper prints, unless the case says otherwise
    options = {"vac_rule": "decoy" if published else "min", "clamp": not published, "with_vacuum": published}
    r = one_decoy.one_decoy_length(mu, p, n_key, m_key, n_test, m_test, variant=variant, **{**options, **rest})
    return {
        "tau0": r.tau0,
        "tau1": r.tau1,
        "s_key_0_low": r.s_key_0.low,
        "s_key_0_up": r.s_key_0.high,
        "s_key_1": r.s_key_1.low,
        "s_test_0_up": r.s_test_0.high,
        "s_test_1": r.s_test_1.low,
        "v_test_1": r.v_test_1.high,
        "phi": r.phi,
        "leak_ec": r.leak_ec,
        "const": r.const,
        "l": r.l,
        "l_bits": r.l_bits,
    }


def _mdi_y11_e11(mu: float, nu: float, om: float, Q: dict[str, float], QE: dict[str, float]) -> Values:
    result = mdi.mdi_y11_e11(mu, nu, om, Q, QE)
    return {"y11": result.y11, "e11": result.e11}


def _mdi_length(n0: float, n1: float, phi: float, n_key: float, **rest: float) -> Values:
    result = mdi.mdi_length(n0, n1, phi, n_key, **rest)
    return {"l": result.l, "l_bits": result.l_bits}


def _sns(eps_send: float, mu_p: float, s1: float, e1ph: float, Sz: float, Ez: float, f_ec: float) -> Values:
    return {"rate": twin_field.sns_rate(eps_send, mu_p, s1, e1ph, Sz, Ez, f_ec)}


def _cv_rate(VA: float, T: float, **rest: Any) -> Values:
    result = cv.cv_rate(VA, T, **rest)
    return {"I_AB": result.i_ab, "chi_BE": result.chi_be, "key": result.key}


def _cv_finite(VA: float, T: float, N: float, **rest: Any) -> Values:
    r = cv.cv_finite(VA, T, symbols=N, **rest)
    return {"I": r.i_ab, "chi": r.chi_be, "key": r.key, "T_min": r.t_min, "xi_max": r.xi_max, "delta": r.delta}


def _biawgn(snr: float) -> Values:
    capacity, ceiling = cv.biawgn_capacity(snr)
    return {"C": capacity, "beta_limit_mdr": ceiling}


def _lim2014_pulse(**inputs: float) -> Values:
    detected, wrong = channel.lim2014_pulse(**inputs)
    return {"R": detected, "e_joint": wrong}


def _rusca2018_pulse(**inputs: float) -> Values:
    detected, wrong = channel.rusca2018_pulse(**inputs)
    return {"det": detected, "err": wrong}


def _spdc(**inputs: float) -> Values:
    gain, qber = channel.spdc(**inputs)
    return {"gain": gain, "qber": qber}


def _lim2014_fig1(n_key: float, km: float, **rest: Any) -> Values:
    point = figures.lim2014_fig1(n_key, km, **rest)
    at = point.at
    argmax = {"mu1": at.mu[0], "mu2": at.mu[1], "p1": at.p[0], "p2": at.p[1], "q": at.p_key}
    return {"rate_per_pulse": point.rate, "argmax": argmax}


def _rusca2018_figure(n_key: float, channel_db: float, *, R: float = 1e9, **rest: Any) -> Values:
    point = figures.rusca2018_figure(n_key, channel_db, clock_hz=R, **rest)
    at = point.at
    return {"skr_hz": point.rate, "argmax": {"mu1": at.mu[0], "mu2": at.mu[1], "p1": at.p[0], "pZ": at.p_key}}


def _ma2005(**inputs: float) -> Values:
    return {"reach_km": figures.reach(lambda km: figures.ma2005_rate(km, **inputs), _FURTHEST_KM)}


def _ma_fung_lo(eta: float, y0: float, e_d: float, f_ec: float) -> Values:
    mu, gain, qber = figures.ma_fung_lo_optimum(eta, y0, e_d, f_ec)
    return {"mu": mu, "gain": gain, "qber": qber}


FUNCTIONS: dict[str, Callable[..., Values]] = {
    "h2": _h2,
    "gamma_fung": lambda eps, b, c, d: {"gamma": entropy.gamma_fung(eps, b, c, d)},
    "gamma_serfling": lambda eps, n_key, k_test: {"gamma": entropy.gamma_serfling(eps, n_key, k_test)},
    "chernoff_obs_to_exp": _chernoff,
    "hypergeom_upper": lambda **inputs: {"errors_key_upper": entropy.hypergeom_upper(**inputs)},
    "mismatch_deltas": _mismatch,
    "tlgr_length": _tlgr,
    "tl_length": _tl,
    "lim21_optimum": _lim21_optimum,
    "lim21_eps": _lim21_eps,
    "chsh": _chsh,
    "di_rate": lambda q, s, f_ec: {"rate": e91.di_rate(q, s, f_ec)},
    "visibility": _visibility,
    "figure:acin2007": _device_independent_threshold,
    "verify_tag_bits_2universal": lambda eps_cor: {"bits": accounting.verify_tag_bits_2universal(eps_cor)},
    "poly_hash_collision": lambda n_bits, tag_bits: {"eps": accounting.poly_hash_collision(n_bits, tag_bits)},
    "pa_length": lambda hmin, eps_pa: {"l": accounting.pa_length(hmin, eps_pa)},
    "max_blocks": lambda **inputs: {"blocks": accounting.max_blocks(**inputs)},
    "two_decoy": _two_decoy,
    "variable_length": _variable_length,
    "one_decoy": _one_decoy,
    "mdi_y11_e11": _mdi_y11_e11,
    "mdi_length": _mdi_length,
    "sns_rate": _sns,
    "cv_rate": _cv_rate,
    "cv_finite": _cv_finite,
    "biawgn_capacity": _biawgn,
    "lim2014_pulse": _lim2014_pulse,
    "rusca2018_pulse": _rusca2018_pulse,
    "spdc": _spdc,
    "dead_time_factor": lambda rate_det_hz, t_dead_s: {"c": channel.dead_time_factor(rate_det_hz, t_dead_s)},
    "figure:lim2014-fig1": _lim2014_fig1,
    "figure:rusca2018": _rusca2018_figure,
    "figure:ma2005": _ma2005,
    "figure:ma-fung-lo": _ma_fung_lo,
}
