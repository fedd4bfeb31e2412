"""What coincidence counts say about entanglement (S5.4). Diagnostics: no key length rests on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qkdd.security.entropy import check_count, check_epsilon, check_finite, check_fraction, h2, h2_bound
from qkdd.security.errors import ProofInputError

TSIRELSON = 2.0 * math.sqrt(2.0)


@dataclass(frozen=True, slots=True)
class Chsh:
    """CHSH value, its standard deviation, a lower bound with failure eps, and Eve's information chi at S."""

    s: float
    sigma: float
    s_lower: float
    chi: float


@dataclass(frozen=True, slots=True)
class InferredChsh:
    """The largest CHSH value that the state behind a 2x2 correlation matrix would show: inferred, no Bell test."""

    s: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Visibility:
    """Error rates, fidelity of a Werner state of visibility V_Z, and a fidelity bound for any state."""

    qber_z: float
    qber_x: float
    werner_f: float
    fidelity_lower: float


def correlator(pp: float, pm: float, mp: float, mm: float) -> tuple[float, float]:
    """(E, standard deviation) of counts N++, N+-, N-+, N--: `E = (N++ + N-- - N+- - N-+)/N`, `sd = sqrt((1 - E²)/N)`."""
    counts = [check_count("coincidence count", value) for value in (pp, pm, mp, mm)]
    total = sum(counts)
    if total == 0:
        raise ProofInputError("a correlator needs at least one coincidence", name="counts")
    e = (counts[0] + counts[3] - counts[1] - counts[2]) / total
    return e, math.sqrt(max(0.0, 1.0 - e * e) / total)


def chsh(quads: Sequence[Sequence[float]], eps: float) -> Chsh:
    """`S = |E(a1,b1) - E(a1,b2) + E(a2,b1) + E(a2,b2)|` from four count quadruples (N++, N+-, N-+, N--) in this order."""
    if len(quads) != 4 or any(len(quad) != 4 for quad in quads):
        raise ProofInputError("CHSH needs four settings of four counts each", name="quads")
    check_epsilon("eps", eps)
    pairs = [correlator(*quad) for quad in quads]
    values = [e for e, _ in pairs]
    s = abs(values[0] - values[1] + values[2] + values[3])
    lower = s - math.fsum(math.sqrt(2.0 * math.log(4.0 / eps) / sum(quad)) for quad in quads)
    return Chsh(s, math.sqrt(math.fsum(sd * sd for _, sd in pairs)), lower, chi(s))


def chi(s: float) -> float:
    """Eve's information under collective attacks at CHSH value S: `h((1 + sqrt((S/2)² - 1))/2)`, 1 at S <= 2 (Acin 2007)."""
    check_finite("S", s, low=0.0)
    if s <= 2.0:
        return 1.0
    root = math.sqrt(min(1.0, (s / 2.0) ** 2 - 1.0))  # sampling noise can put an estimate above 2 sqrt 2
    return h2((1.0 + root) / 2.0)


def di_rate(q: float, s: float, f_ec: float) -> float:
    """`r = 1 - f h(Q) - chi(S)` (Pironio et al. 2009 Eq. 12): collective attacks, no fair sampling; never a length here."""
    check_finite("f_ec", f_ec, low=1.0)
    if s > TSIRELSON * (1.0 + 1e-12):
        raise ProofInputError(f"S = {s} is above what quantum mechanics allows", name="s")
    return 1.0 - f_ec * h2_bound(check_fraction("q", q)) - chi(s)


def chsh_inferred(zz: Sequence[float], zx: Sequence[float], xz: Sequence[float], xx: Sequence[float]) -> InferredChsh:
    """`2 sqrt(t1² + t2²)`, t1, t2 the singular values of the matrix of E(Z,Z), E(Z,X), E(X,Z), E(X,X).

    Each argument: counts (N++, N+-, N-+, N--) of that pair of bases. t1² + t2² is the sum of the squares of all four
    (Frobenius norm), so the error follows by quadrature: sd(S) = 4/S sqrt( sum E² sd(E)² ). (Horodecki criterion restricted to
    the measured plane.)
    """
    pairs = [correlator(*counts) for counts in (zz, zx, xz, xx)]
    norm = math.sqrt(math.fsum(e * e for e, _ in pairs))
    s = 2.0 * norm
    if norm == 0.0:
        return InferredChsh(0.0, 2.0 * math.sqrt(math.fsum(sd * sd for _, sd in pairs)))
    return InferredChsh(s, 2.0 / norm * math.sqrt(math.fsum((e * sd) ** 2 for e, sd in pairs)))


def visibility(v_z: float, v_x: float) -> Visibility:
    """`Q = (1 - V)/2`, `F = (1 + 3 V_Z)/4` (if it is a Werner state), `F >= (V_Z + V_X)/2` (any state)."""
    z, x = check_fraction("v_z", v_z, low=-1.0), check_fraction("v_x", v_x, low=-1.0)
    return Visibility((1.0 - z) / 2.0, (1.0 - x) / 2.0, (1.0 + 3.0 * z) / 4.0, (z + x) / 2.0)


def visibility_of_counts(highest: float, lowest: float) -> float:
    """`V = (Cmax - Cmin)/(Cmax + Cmin)`."""
    top, bottom = check_count("highest", highest), check_count("lowest", lowest)
    if top + bottom == 0:
        raise ProofInputError("a visibility needs at least one count", name="highest")
    return (top - bottom) / (top + bottom)


def accidental_rate(singles_a: float, singles_b: float, window_s: float) -> float:
    """Accidental coincidences per second: `S1 S2 T` (singles in 1/s, T = full window in s). Reported, never subtracted."""
    return (
        check_finite("singles_a", singles_a, low=0.0)
        * check_finite("singles_b", singles_b, low=0.0)
        * check_finite("window_s", window_s, low=0.0)
    )
