"""Expected detections of a characterised link, per pulse, and counts of a block (S8). For simulation and planning only.

Transmissions include what their names say; probabilities are per gate over both detectors together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qkdd.security.entropy import check_finite, check_fraction
from qkdd.security.errors import ProofInputError

Pulse = tuple[float, float]  # probability of a detection, joint probability of a detection with a bit error


def fibre_transmission(km: float, db_per_km: float = 0.2) -> float:
    """`10^(-alpha L/10)` (S8.1)."""
    return db_transmission(check_finite("db_per_km", db_per_km, low=0.0) * check_finite("km", km, low=0.0))


def db_transmission(loss_db: float) -> float:
    """`10^(-loss/10)`."""
    return math.exp(-check_finite("loss_db", loss_db, low=0.0) * math.log(10.0) / 10.0)


def lim2014_pulse(k: float, eta_sys: float, p_dc: float, e_mis: float, p_ap: float) -> Pulse:
    """(R_k, e_k): `D = 1-(1-2p_dc)x`, `R = D(1+p_ap)`, `e = p_dc + e_mis(1-x) + p_ap D/2`, `x = e^(-eta_sys k)`
    (Lim 2014 section IV with erratum E2, S8.2)."""
    arrives = _arrives(k, eta_sys)
    for name, value in (("p_dc", p_dc), ("e_mis", e_mis), ("p_ap", p_ap)):
        check_fraction(name, value)
    detected = arrives + 2.0 * p_dc * (1.0 - arrives)
    return detected * (1.0 + p_ap), p_dc + e_mis * arrives + p_ap * detected / 2.0


def rusca2018_pulse(k: float, eta: float, p_dc: float, p_err: float) -> Pulse:
    """(det, err): `det = 1-e^(-k eta)+p_dc`, `err = (1-e^(-k eta))p_err + p_dc/2` (Rusca 2018 B2, B4, S8.3)."""
    arrives = _arrives(k, eta)
    return arrives + check_fraction("p_dc", p_dc), arrives * check_fraction("p_err", p_err) + p_dc / 2.0


def wiesemann_pulse(k: float, eta: float, p_dc: float, p_err: float) -> Pulse:
    """(det, err) with `det = 1-e^(-k eta)(1-p_dc)` (simulator of Wiesemann et al., S8.4)."""
    arrives = _arrives(k, eta)
    detected = arrives + (1.0 - arrives) * check_fraction("p_dc", p_dc)
    return detected, arrives * check_fraction("p_err", p_err) + p_dc / 2.0


def _arrives(k: float, eta: float) -> float:
    return -math.expm1(-check_finite("k", k, low=0.0) * check_fraction("eta", eta))


def spdc(lam: float, eta_a: float, eta_b: float, y0_a: float, y0_b: float, e_d: float) -> tuple[float, float]:
    """(gain, qber) of an entangled-pair source with lam pairs per mode (Ma, Fung, Lo 2007 Eqs. 9-10, S8.5)."""
    check_finite("lam", lam, low=0.0)
    for name, value in (("eta_a", eta_a), ("eta_b", eta_b), ("y0_a", y0_a), ("y0_b", y0_b), ("e_d", e_d)):
        check_fraction(name, value)
    a, b = 1.0 + eta_a * lam, 1.0 + eta_b * lam
    c = 1.0 + lam * (eta_a + eta_b - eta_a * eta_b)
    gain = 1.0 - (1.0 - y0_a) / a**2 - (1.0 - y0_b) / b**2 + (1.0 - y0_a) * (1.0 - y0_b) / c**2
    if gain <= 0.0:
        raise ProofInputError("neither pairs nor dark counts: no coincidence, no error rate", name="lam")
    joint = gain / 2.0 - (0.5 - e_d) * 2.0 * eta_a * eta_b * lam * (1.0 + lam) / (a * b * c)
    return gain, joint / gain


def dead_time_factor(rate_det_hz: float, t_dead_s: float) -> float:
    """`1/(1 + rate t)`: fraction of time that a detector with this rate of arriving clicks is live (Rusca 2018 B3, S8.3)."""
    return 1.0 / (1.0 + check_finite("rate_det_hz", rate_det_hz, low=0.0) * check_finite("t_dead_s", t_dead_s, low=0.0))


@dataclass(frozen=True, slots=True)
class Channel:
    """A characterised link.

    eta: transmission from Alice's exit to a click; p_dc: dark clicks per detector and gate; e_mis: share of photons on the
    wrong detector; p_ap: afterpulses per click; clock_hz: pulses a second; t_dead: seconds without gates after a click;
    f_ec: leak of error correction over its Shannon limit. receiver_key: share of detections that the receiver measures in the
    key basis; None: it chooses as the transmitter does (a passive receiver cannot and has about 0.5). key_error_scale: errors
    of the key basis over those of the test basis, where the two were measured to differ.
    """

    eta: float
    p_dc: float
    e_mis: float
    p_ap: float = 0.0
    clock_hz: float = 1.0e9
    t_dead: float = 0.0
    f_ec: float = 1.16
    receiver_key: float | None = None
    key_error_scale: float = 1.0

    def pulse(self, mu: float) -> Pulse:
        """Detection and joint error probability of a pulse with mean photon number `mu` (Lim model, S8.2)."""
        return lim2014_pulse(mu, self.eta, self.p_dc, self.e_mis, self.p_ap)

    def counts(self, mu: Sequence[float], p: Sequence[float], p_key: float, pulses: float) -> BlockCounts:
        """Mean counts of a block over this link, with the receiver's own choice of basis and the key basis's own errors."""
        found = expected_counts(self.pulse, mu, p, p_key, pulses, self.receiver_key)
        errors = zip(found.m_key, found.n_key, strict=True)
        m_key = tuple(min(n / 2.0, m * self.key_error_scale) for m, n in errors)
        return BlockCounts(found.n_key, m_key, found.n_test, found.m_test)


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Counts per intensity of one block; real-valued when expected, whole when sampled or measured."""

    n_key: tuple[float, ...]
    m_key: tuple[float, ...]
    n_test: tuple[float, ...]
    m_test: tuple[float, ...]


def expected_counts(
    pulse: Callable[[float], Pulse],
    mu: Sequence[float],
    p: Sequence[float],
    p_key: float,
    pulses: float,
    receiver_key: float | None = None,
) -> BlockCounts:
    """Mean counts of a block of `pulses` pulses, both parties choosing the key basis with probability p_key (S8.2), or the
    receiver with receiver_key."""
    models = [pulse(value) for value in mu]
    theirs = p_key if receiver_key is None else receiver_key
    key, test = pulses * p_key * theirs, pulses * (1.0 - p_key) * (1.0 - theirs)

    def column(scale: float, index: int) -> tuple[float, ...]:
        return tuple(scale * share * model[index] for share, model in zip(p, models, strict=True))

    return BlockCounts(column(key, 0), column(key, 1), column(test, 0), column(test, 1))


def sampled_counts(
    rng: np.random.Generator,
    pulse: Callable[[float], Pulse],
    mu: Sequence[float],
    p: Sequence[float],
    p_key: float,
    pulses: int,
) -> BlockCounts:
    """One random draw of the counts of a block: every pulse independent, as in `expected_counts`."""
    cells = []
    for basis in (p_key * p_key, (1.0 - p_key) ** 2):
        for value, share in zip(mu, p, strict=True):
            detected, wrong = pulse(value)
            cells += [basis * share * wrong, basis * share * (detected - wrong)]
    drawn = rng.multinomial(pulses, [*cells, 1.0 - math.fsum(cells)])[:-1].reshape(2, len(mu), 2)
    errors, good = drawn[:, :, 0], drawn[:, :, 1]

    def row(counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> tuple[float, ...]:
        return tuple(float(value) for value in counts)

    return BlockCounts(row((errors + good)[0]), row(errors[0]), row((errors + good)[1]), row(errors[1]))
