"""Twin-field key, sending-or-not-sending variant: asymptotic rate only (S6.2). No security claim rests on it."""

from __future__ import annotations

import math

from qkdd.security.decoy import MU_HIGHEST
from qkdd.security.entropy import check_finite, check_fraction, h2, h2_bound


def sns_rate(eps_send: float, mu_p: float, s1: float, e1ph: float, sz: float, ez: float, f_ec: float) -> float:
    """`R = 2 e (1-e) mu' e^-mu' s1 (1 - h(e1ph)) - S_Z f h(E_Z)` per time window (Wang, Yu, Hu, PRA 98, 062323 (2018), S6.2).

    eps_send: sending probability e; mu_p: signal intensity; s1, e1ph: single-photon yield and phase-error rate; sz, ez: yield
    and bit error rate of the signal windows.
    """
    send = check_fraction("eps_send", eps_send)
    signal = check_fraction("mu_p", mu_p, high=MU_HIGHEST)
    singles = 2.0 * send * (1.0 - send) * signal * math.exp(-signal) * check_fraction("s1", s1)
    leak = check_fraction("sz", sz) * check_finite("f_ec", f_ec, low=1.0) * h2(check_fraction("ez", ez))
    return singles * (1.0 - h2_bound(check_fraction("e1ph", e1ph))) - leak
