"""Continuous-variable key with Gaussian modulation and reverse reconciliation (S6.3). Collective attacks only.

Variances in shot-noise units (vacuum 1); excess noise xi at the channel's input; rates in bits per symbol.
Lodewyck et al., PRA 76, 042305 (2007); Fossier et al., J. Phys. B 42, 114014 (2009); Leverrier, Grosshans, Grangier,
PRA 81, 062343 (2010).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.integrate import quad
from scipy.special import ndtri

from qkdd.security.decoy import check_kind
from qkdd.security.entropy import check_count, check_epsilon, check_finite, check_fraction
from qkdd.security.errors import ProofInputError

Detection = Literal["hom", "het"]


@dataclass(frozen=True, slots=True)
class CvRate:
    """Mutual information, Holevo bound, `key = beta I_AB - chi_BE`."""

    i_ab: float
    chi_be: float
    key: float


@dataclass(frozen=True, slots=True)
class CvFinite:
    """Finite-size rate per symbol sent, with the worst-case channel it rests on."""

    i_ab: float
    chi_be: float
    key: float
    t_min: float
    xi_max: float
    delta: float


@dataclass(frozen=True, slots=True)
class _Receiver:
    """Channel and detector after the untrusted detector, if any, has been counted as channel (S6.3.5)."""

    t: float
    xi: float
    chi_det: float


def _receiver(t: float, xi: float, eta: float, vel: float, detection: Detection, trusted: bool) -> _Receiver:
    check_kind("detection", detection, Detection)
    for name, value in (("T", t), ("eta", eta)):
        if not 0.0 < value <= 1.0:
            raise ProofInputError(f"{name} = {value} is no transmission above 0", name=name)
    check_finite("xi", xi, low=0.0)
    check_finite("vel", vel, low=0.0)
    quadratures = 1.0 if detection == "hom" else 2.0
    if not trusted:
        t, xi, eta, vel = eta * t, xi + quadratures * vel / (eta * t), 1.0, 0.0
    lost = 1.0 - eta
    return _Receiver(t, xi, (lost + vel) / eta if detection == "hom" else (1.0 + lost + 2.0 * vel) / eta)


def _entropy(eigenvalue: float) -> float:
    """`G((lambda-1)/2)`, `G(x) = (x+1) log2(x+1) - x log2 x`: von Neumann entropy of a thermal mode (S6.3.4)."""
    x = (eigenvalue - 1.0) / 2.0
    if x <= 0.0:  # the vacuum; rounding may put it a little below
        return 0.0
    return (x * math.log1p(1.0 / x) + math.log1p(x)) / math.log(2.0)


def _information(v: float, chi_tot: float, detection: Detection) -> float:
    full = math.log2((v + chi_tot) / (1.0 + chi_tot))
    return full if detection == "het" else full / 2.0


def _holevo(v: float, r: _Receiver, detection: Detection) -> float:
    """Eve's information on Bob's result, S6.3.3 and S6.3.4.

    lambda_1,2 are taken as `(sqrt((V+b)² - 4T(V²-1)) ± |b-V|)/2` with `b = T(V+chi_line)`: equal to the printed form, without
    its cancellation at T near 1 and large V; the smaller one of each pair from the product.
    """
    t, chi_line = r.t, (1.0 - r.t) / r.t + r.xi
    bob = t * (v + chi_line)  # = T V + 1 - T + T xi
    root_b = t * (v * chi_line + 1.0)
    spread = math.sqrt(max(0.0, (v + bob) ** 2 - 4.0 * t * (v * v - 1.0)))
    l_1 = (spread + abs(bob - v)) / 2.0
    l_2 = root_b / l_1
    a = v * v * (1.0 - 2.0 * t) + 2.0 * t + bob * bob
    norm = t * (v + chi_line + r.chi_det / t)
    if detection == "hom":
        c = (v * root_b + bob + a * r.chi_det) / norm
        root_d = math.sqrt(root_b * (v + root_b * r.chi_det) / norm)
    else:
        chi = r.chi_det
        c = a * chi * chi + root_b * root_b + 1.0 + 2.0 * chi * (v * root_b + bob) + 2.0 * t * (v * v - 1.0)
        c /= norm * norm
        root_d = (v + root_b * chi) / norm
    l_3 = math.sqrt((c + math.sqrt(max(0.0, (c - 2.0 * root_d) * (c + 2.0 * root_d)))) / 2.0)
    l_4 = root_d / l_3
    return _entropy(l_1) + _entropy(l_2) - _entropy(l_3) - _entropy(l_4)


def cv_rate(
    va: float, t: float, xi: float, eta: float, vel: float, beta: float, detection: Detection, trusted: bool
) -> CvRate:
    """Asymptotic rate `beta I_AB - chi_BE` (S6.3.1-S6.3.5).

    va: modulation variance; t: channel transmission; eta, vel: detector efficiency and electronic noise, known to be out of
    Eve's reach if trusted; beta: reconciliation efficiency. Raises ProofInputError.
    """
    v = check_finite("VA", va, low=0.0) + 1.0
    check_fraction("beta", beta)
    r = _receiver(t, xi, eta, vel, detection, trusted)
    i_ab = _information(v, (1.0 - r.t) / r.t + r.xi + r.chi_det / r.t, detection)
    chi = _holevo(v, r, detection)
    return CvRate(i_ab, chi, beta * i_ab - chi)


def cv_finite(
    va: float,
    t: float,
    xi: float,
    eta: float,
    vel: float,
    beta: float,
    detection: Detection,
    trusted: bool,
    *,
    symbols: float,
    pe_frac: float,
    eps_pe: float,
    eps_bar: float,
    eps_pa: float,
) -> CvFinite:
    """Rate per symbol when a fraction pe_frac of the symbols is disclosed (Leverrier, Grosshans, Grangier 2010, S6.3.6).

    Gaussian interval for the estimated channel, collective attacks. Raises ProofInputError, also when so few symbols are
    disclosed that the transmission cannot be told from 0.
    """
    asymptotic = cv_rate(va, t, xi, eta, vel, beta, detection, trusted)
    r, v = _receiver(t, xi, eta, vel, detection, trusted), va + 1.0
    total = check_count("N", symbols, low=2)
    if not 0.0 < pe_frac < 1.0:
        raise ProofInputError(f"pe_frac = {pe_frac} lies outside 0 to 1", name="pe_frac")
    if va == 0.0:
        raise ProofInputError("without modulation no channel can be estimated", name="VA")
    disclosed = pe_frac * total
    kept = total - disclosed
    z = -float(ndtri(check_epsilon("eps_pe", eps_pe) / 2.0))
    noise = 1.0 + r.chi_det + r.t * r.xi
    slope = math.sqrt(r.t) - z * math.sqrt(noise / (disclosed * va))
    if slope <= 0.0:
        raise ProofInputError(f"{disclosed:.0f} disclosed symbols do not tell T = {r.t} from 0", name="pe_frac")
    t_min = slope * slope
    xi_max = (noise * (1.0 + z * math.sqrt(2.0 / disclosed)) - 1.0 - r.chi_det) / t_min
    delta = 7.0 * math.sqrt((1.0 - math.log2(check_epsilon("eps_bar", eps_bar))) / kept)
    delta -= 2.0 / kept * math.log2(check_epsilon("eps_pa", eps_pa))
    chi = _holevo(v, _Receiver(t_min, max(0.0, xi_max), r.chi_det), detection)
    key = (1.0 - pe_frac) * (beta * asymptotic.i_ab - chi - delta)
    return CvFinite(asymptotic.i_ab, chi, key, t_min, xi_max, delta)


def snr(va: float, chi_tot: float) -> float:
    """Signal-to-noise ratio per real quadrature, `V_A/(1 + chi_tot)` (S6.3.7)."""
    return check_finite("VA", va, low=0.0) / (1.0 + check_finite("chi_tot", chi_tot, low=0.0))


def biawgn_capacity(ratio: float) -> tuple[float, float]:
    """(capacity in bits of binary signals in Gaussian noise at this SNR, its share of `1/2 log2(1 + SNR)`) (S6.3.7).

    `C = 1 - E log2(1 + e^-L)`, L normal with mean 2 SNR and variance 4 SNR; the share is the ceiling of multidimensional
    reconciliation (Leverrier et al. 2008).
    """
    if not (math.isfinite(ratio) and ratio > 0.0):
        raise ProofInputError(f"snr = {ratio} is not above 0", name="snr")
    mean, sd = 2.0 * ratio, 2.0 * math.sqrt(ratio)

    def missing(z: float) -> float:
        x = mean + sd * z  # log(1 + e^-x) without overflow
        return math.exp(-z * z / 2.0) * (max(0.0, -x) + math.log1p(math.exp(-abs(x))))

    lost, _ = quad(
        missing, -12.0, 12.0, epsabs=1e-13, epsrel=1e-12, limit=200, points=[min(12.0, max(-12.0, -mean / sd))]
    )
    capacity = max(0.0, 1.0 - lost / math.sqrt(2.0 * math.pi) / math.log(2.0))
    return capacity, capacity / (0.5 * math.log1p(ratio) / math.log(2.0))
