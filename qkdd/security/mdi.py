"""Measurement-device-independent BB84: single-photon yield and error, key rate, length from given bounds (S6.1).

Post-processing only: the bounds n0, n1, phi of the finite length come from an estimator that this room does not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from qkdd.security.bbm92 import Length
from qkdd.security.decoy import MU_HIGHEST, choose_leak, minus_log2
from qkdd.security.entropy import check_finite, check_fraction, floor_bits, h2, h2_bound
from qkdd.security.errors import InconsistentCounts, IntensityRefused

LABELS = ("mu", "nu", "om")


@dataclass(frozen=True, slots=True)
class SinglePhotonPairs:
    """Yield from below and error rate from above of pulses with one photon on each side."""

    y11: float
    e11: float


def mdi_y11_e11(
    mu: float, nu: float, om: float, gains: Mapping[str, float], errors: Mapping[str, float]
) -> SinglePhotonPairs:
    """Two-decoy bounds of Xu, Curty, Qi, Lo, NJP 15, 113007 (2013) Table 2 (S6.1.2), intensities mu > nu > om >= 0.

    gains, errors: probability of an announcement, and jointly of an announcement with an error, for the nine pairs
    "mu,nu" (Alice's, Bob's). A yield that is not positive is reported as 0 with error 1/2: no statement.
    """
    if not MU_HIGHEST >= mu > nu > om >= 0.0:
        raise IntensityRefused(f"intensities {[mu, nu, om]} break mu > nu > om >= 0", name="mu")
    value, q, qe = dict(zip(LABELS, (mu, nu, om), strict=True)), {}, {}
    for a in LABELS:
        for b in LABELS:
            pair = f"{a},{b}"
            if pair not in gains or pair not in errors:
                raise InconsistentCounts(f"no gain or no error for the pair {pair}", name="Q")
            weight = math.exp(value[a] + value[b])
            q[a, b] = weight * check_fraction(f"Q[{pair}]", gains[pair])
            qe[a, b] = weight * check_fraction(f"QE[{pair}]", errors[pair])
            if errors[pair] > gains[pair]:
                raise InconsistentCounts(f"more errors than announcements for the pair {pair}", name="QE")

    def mixed(x: Mapping[tuple[str, str], float], label: str) -> float:
        return x[label, label] + x["om", "om"] - x[label, "om"] - x["om", label]

    numerator = (mu * mu - om * om) * (mu - om) * mixed(q, "nu") - (nu * nu - om * om) * (nu - om) * mixed(q, "mu")
    y11 = numerator / ((mu - om) ** 2 * (nu - om) ** 2 * (mu - nu))
    if y11 <= 0.0:
        return SinglePhotonPairs(0.0, 0.5)
    return SinglePhotonPairs(y11, min(1.0, max(0.0, mixed(qe, "nu") / ((nu - om) ** 2 * y11))))


def mdi_rate(q11: float, e11_test: float, gain: float, e_key: float, f_ec: float) -> float:
    """Asymptotic rate `Q11 (1 - h(e11)) - Q f h(E)` per pulse pair in the key basis (Xu et al. 2013 Eq. 1, S6.1.1)."""
    check_fraction("q11", q11)
    check_fraction("gain", gain)
    leak = check_finite("f_ec", f_ec, low=1.0) * h2(check_fraction("e_key", e_key))
    return q11 * (1.0 - h2_bound(e11_test)) - gain * leak


def mdi_length(
    n0: float,
    n1: float,
    phi: float,
    n_key: float,
    *,
    eps_p: float,
    eps_hat: float,
    eps_pa: float,
    eps_cor: float,
    leak_ec: float | None = None,
    f_ec: float | None = None,
    e_key: float | None = None,
) -> Length:
    """`l = floor( n0 + n1 (1 - h(phi)) - leak - log2(8/eps_cor) - 2 log2(2/(eps' eps^)) - 2 log2(1/(2 eps_PA)) )` of one Bell
    state (Curty et al., Nat. Commun. 5, 3732 (2014), S6.1.3).

    n0, n1: vacuum (Alice) and single-photon-pair events from below; phi: phase-error rate from above. Raises ProofInputError.
    """
    total = check_finite("n_key", n_key, low=0.0)
    check_finite("n0", n0, low=0.0)
    check_finite("n1", n1, low=0.0)
    if n0 + n1 > total:
        raise InconsistentCounts(f"n0 + n1 = {n0 + n1} exceed n_key = {n_key}", name="n1")
    check_fraction("phi", phi)
    errors = None if e_key is None else check_fraction("e_key", e_key) * total
    leak = choose_leak(leak_ec, f_ec, total, errors)
    const = 3.0 + minus_log2("eps_cor", eps_cor)
    const += 2.0 * (1.0 + minus_log2("eps_p", eps_p) + minus_log2("eps_hat", eps_hat))
    const += 2.0 * (minus_log2("eps_pa", eps_pa) - 1.0)
    length = n0 + n1 * (1.0 - h2_bound(phi)) - leak - const
    return Length(length, floor_bits(length, n0, n1, leak, const) if phi < 0.5 else 0)
