"""The figures of the papers: channel model, bound and search put together (S9). For curves and tests; no key rests on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from qkdd.security import channel
from qkdd.security.entropy import check_count, check_epsilon, check_finite, check_fraction, h2
from qkdd.security.errors import ProofInputError
from qkdd.security.one_decoy import one_decoy_length
from qkdd.security.optimise import Merit, Operating, Problem, walk
from qkdd.security.two_decoy import lim2014_length

_EASY_BLOCK = 1.0e9  # where a search begins


@dataclass(frozen=True, slots=True)
class FigurePoint:
    """One point of a rate curve: bits per pulse or per second, and the operating point; rate 0 where there is no key."""

    rate: float
    at: Operating


def _between(difficulty: float, n_key: float, loss: float) -> tuple[float, float]:
    """(block size, loss in dB) on the way from an easy problem (large block, no loss) to the wanted one."""
    easy = max(_EASY_BLOCK, n_key)
    return easy * (n_key / easy) ** difficulty, loss * difficulty


def lim2014_fig1(
    n_key: float,
    km: float,
    *,
    kappa: float = 1e-15,
    eps_cor: float = 1e-15,
    e_mis: float = 0.005,
    f_ec: float = 1.16,
    mu3: float = 2e-4,
    eta_bob: float = 0.1,
    p_dc: float = 6e-7,
    p_ap: float = 0.04,
    alpha: float = 0.2,
    clamp: bool = False,
    start: Operating | None = None,
) -> FigurePoint:
    """Secret bits per pulse of Lim et al. 2014 Fig. 1: n_key key-basis detections over km of fibre, `eps_sec = kappa l`,
    optimised over mu1, mu2, p1, p2 and the basis choice (S2.9, S8.2)."""
    check_count("n_key", n_key, low=1)
    full_loss = check_finite("alpha", alpha, low=0.0) * check_finite("km", km, low=0.0)
    check_fraction("eta_bob", eta_bob)
    check_epsilon("kappa", kappa)

    def problem(difficulty: float) -> Problem:
        size, loss = _between(difficulty, n_key, full_loss)
        eta = channel.db_transmission(loss) * eta_bob

        def pulse(mu: float) -> channel.Pulse:
            return channel.lim2014_pulse(mu, eta, p_dc, e_mis, p_ap)

        def merit(point: Operating) -> Merit:
            one = channel.expected_counts(pulse, point.mu, point.p, point.p_key, 1.0)
            pulses = size / math.fsum(one.n_key)
            counts = channel.expected_counts(pulse, point.mu, point.p, point.p_key, pulses)
            guess, length, bounded = 0.3 * size, 0.0, False
            for _ in range(40):
                found = lim2014_length(
                    point.mu,
                    point.p,
                    counts.n_key,
                    counts.n_test,
                    counts.m_test,
                    kappa * guess,
                    eps_cor,
                    f_ec=f_ec,
                    m_key_total=math.fsum(counts.m_key),
                    clamp=clamp,
                    whole=False,
                )
                length, bounded = found.l, found.bounds.s_key_1.low > 0.0 and found.bounds.s_test_1.low > 0.0
                if length <= 0.0 or abs(length - guess) <= 1e-6 * length:
                    break
                guess = length
            return Merit(max(0.0, length) / pulses, length / size, bounded)

        return merit

    first = start or Operating((0.44, 0.18, mu3), (0.7, 0.2, 0.1), 0.9)
    point, merit = walk(problem, first)
    return FigurePoint(merit.rate, point)


def rusca2018_figure(
    n_key: float,
    channel_db: float,
    *,
    eta_det: float = 0.5,
    clock_hz: float = 1e9,
    t_dead: float = 1e-7,
    p_dc: float = 1e-8,
    p_err: float = 0.01,
    eps_sec: float = 1e-9,
    eps_cor: float = 1e-15,
    f_ec: float = 1.16,
    clamp: bool = False,
    start: Operating | None = None,
) -> FigurePoint:
    """Secret bits per second of Rusca et al. 2018: n_key key-basis detections, channel loss without the detector's,
    optimised over mu1, mu2, p1 and the basis choice (S3a, S8.3). Dead time counts the clicks of both bases."""
    check_count("n_key", n_key, low=1)
    check_finite("channel_db", channel_db, low=0.0)
    check_fraction("eta_det", eta_det)

    def problem(difficulty: float) -> Problem:
        size, loss = _between(difficulty, n_key, channel_db)
        eta = channel.db_transmission(loss) * eta_det

        def pulse(mu: float) -> channel.Pulse:
            return channel.rusca2018_pulse(mu, eta, p_dc, p_err)

        def merit(point: Operating) -> Merit:
            one = channel.expected_counts(pulse, point.mu, point.p, 1.0, 1.0)
            detected = math.fsum(one.n_key)
            pulses = size / (detected * point.p_key**2)
            counts = channel.expected_counts(pulse, point.mu, point.p, point.p_key, pulses)
            found = one_decoy_length(
                point.mu,
                point.p,
                counts.n_key,
                counts.m_key,
                counts.n_test,
                counts.m_test,
                eps_sec,
                eps_cor,
                f_ec=f_ec,
                variant="rusca",
                vac_rule="decoy",
                clamp=clamp,
                with_vacuum=True,
                whole=False,
            )
            live = channel.dead_time_factor(clock_hz * detected, t_dead)
            bounded = found.s_key_1.low > 0.0 and found.s_test_1.low > 0.0
            return Merit(max(0.0, found.l) / pulses * clock_hz * live, found.l / size, bounded)

        return merit

    first = start or Operating((0.45, 0.15), (0.6, 0.4), 0.9)
    point, merit = walk(problem, first)
    return FigurePoint(merit.rate, point)


def ma2005_rate(
    km: float,
    *,
    mu: float = 0.48,
    nu: float = 0.05,
    eta_bob: float = 0.045,
    alpha: float = 0.21,
    y0: float = 1.7e-6,
    e_d: float = 0.033,
    f_ec: float = 1.22,
) -> float:
    """Asymptotic bits per pulse with vacuum and weak decoy, before the basis factor (Ma, Qi, Zhao, Lo, PRA 72, 012326 (2005)
    Eqs. 34, 37, 42)."""
    if not mu > nu > 0.0:
        raise ProofInputError(f"intensities {[mu, nu]} break mu > nu > 0", name="mu")
    eta = channel.fibre_transmission(km, alpha) * check_fraction("eta_bob", eta_bob)
    check_fraction("y0", y0)
    check_fraction("e_d", e_d)

    def gain(intensity: float) -> tuple[float, float]:
        arrives = -math.expm1(-eta * intensity)
        return y0 + arrives, y0 / 2.0 + e_d * arrives

    (q_mu, eq_mu), (q_nu, eq_nu) = gain(mu), gain(nu)
    lift = nu * nu / (mu * mu)
    y1 = mu / (nu * (mu - nu)) * (q_nu * math.exp(nu) - q_mu * math.exp(mu) * lift - (1.0 - lift) * y0)
    leak = check_finite("f_ec", f_ec, low=1.0) * q_mu * h2(eq_mu / q_mu)
    if y1 <= 0.0:
        return -leak
    e1 = min(0.5, (eq_nu * math.exp(nu) - y0 / 2.0) / (y1 * nu))
    return y1 * mu * math.exp(-mu) * (1.0 - h2(e1)) - leak


def reach(rate: Callable[[float], float], furthest: float) -> float:
    """Distance at which a rate that is positive near 0 becomes 0, to 1e-9 of `furthest`; 0.0 or `furthest` if it never does."""
    if rate(0.0) <= 0.0:
        return 0.0
    low, high = 0.0, furthest
    if rate(high) > 0.0:
        return high
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rate(middle) > 0.0 else (low, middle)
    return low


def ma_fung_lo_optimum(eta: float, y0: float, e_d: float, f_ec: float) -> tuple[float, float, float]:
    """(mu, gain, qber) of the pair source with the highest asymptotic rate `Q (1 - (1 + f) h(E)) / 2`; mu = 2 lambda
    (Ma, Fung, Lo, PRA 76, 012307 (2007)); eta and y0 are those of each side."""
    check_finite("f_ec", f_ec, low=1.0)

    def loss(lam: float) -> float:
        gain, qber = channel.spdc(lam, eta, eta, y0, y0, e_d)
        return -gain * (1.0 - (1.0 + f_ec) * h2(qber))

    best = min((10.0 ** (step / 20.0) for step in range(-120, 21)), key=loss)
    low, high = best / 10.0**0.05, best * 10.0**0.05
    shrink = (math.sqrt(5.0) - 1.0) / 2.0
    for _ in range(60):
        left, right = high - shrink * (high - low), low + shrink * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    lam = (low + high) / 2.0
    gain, qber = channel.spdc(lam, eta, eta, y0, y0, e_d)
    return 2.0 * lam, gain, qber
