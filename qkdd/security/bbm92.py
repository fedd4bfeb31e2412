"""Key length of entanglement-based BB84 (BBM92), fixed-length proofs (S5).

A block has m matched-basis bits, of which k, chosen at random after all detections, are opened; n = m - k make key. The
tolerated error `delta` and the leak `leak` (bits, both directions) are fixed before the block; the observed error only
accepts or refuses. Both theorems need both bases equally likely and basis-independent detection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from qkdd.security.entropy import (
    check_count,
    check_epsilon,
    check_finite,
    check_fraction,
    floor_bits,
    h2_bound,
)
from qkdd.security.errors import ProofInputError

LeakOf = Callable[[int], float]
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_NEARLY, _GRID = 0.02, 128


@dataclass(frozen=True, slots=True)
class Length:
    """Unfloored length (may be negative) and the whole bits that may be taken."""

    l: float  # noqa: E741 - the symbol of every paper
    l_bits: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Free parameters of a proof, chosen from m, delta and leak alone: test size, slack, and the epsilons they imply."""

    k: int
    nu: float
    xi: float  # second slack of Lim 2021; 0 for TL 2017
    eps_pe: float
    eps_pa: float
    length: Length


def _sizes(m: float, k: float) -> tuple[int, int, int]:
    whole, test = check_count("m", m, low=2), check_count("k", k, low=1)
    if test >= whole:
        raise ProofInputError(f"{test} test bits of {whole} leave no key", name="k")
    return whole, test, whole - test


def tl2017_length(
    m: float, k: float, nu: float, delta: float, leak: float, t: float, eps_pa: float, cbar: float = 0.5
) -> Length:
    """`l = floor( n (log2(1/cbar) - h(delta + nu)) - r - t + 2 log2(2 eps_pa) )` (Tomamichel, Leverrier 2017 Eq. 58, S5.2).

    nu: slack between test and key error; t: bits of the verification tag; cbar: overlap of the two bases.
    """
    _, _, n = _sizes(m, k)
    _slack(nu, delta)
    quality = -math.log2(check_fraction("cbar", cbar, low=0.5))
    hashing = 2.0 * math.log2(2.0 * check_epsilon("eps_pa", eps_pa))
    return _tl2017(n, quality, delta + nu, check_finite("leak", leak, low=0.0), check_count("t", t), hashing)


def _tl2017(n: int, quality: float, error: float, leak: float, tag: int, hashing: float) -> Length:
    """Eq. 58 on numbers that were checked: `tl2017_choose` takes it some hundred times a block."""
    gross = n * (quality - h2_bound(error))
    length = gross - leak - tag + hashing
    return Length(length, floor_bits(length, n, gross, leak))


def _slack(nu: float, delta: float) -> None:
    check_fraction("delta", delta, high=0.5)
    if not 0.0 < nu < 1.0:
        raise ProofInputError(f"nu = {nu} lies outside 0 to 1", name="nu")


def tl2017_eps_pe(m: float, k: float, nu: float) -> float:
    """`eps_pe = 2 exp( -(m - k) k² nu² / (m (k + 1)) )` (Tomamichel, Leverrier 2017 Eq. 56, S5.2)."""
    whole, test, n = _sizes(m, k)
    return min(1.0, 2.0 * math.exp(-n * test**2 * check_finite("nu", nu, low=0.0) ** 2 / (whole * (test + 1))))


def tl2017_eps_total(
    m: float, k: float, nu: float, delta: float, leak: float, t: float, length: float, cbar: float = 0.5
) -> float:
    """eps_pe + eps_pa + eps_ec of a block of `length` bits (Tomamichel, Leverrier 2017 Eqs. 56-58, S5.2)."""
    _, _, n = _sizes(m, k)
    _slack(nu, delta)
    tag, quality = check_count("t", t), -math.log2(check_fraction("cbar", cbar, low=0.5))
    exponent = -n * (quality - h2_bound(delta + nu)) + check_finite("leak", leak, low=0.0) + tag + length
    eps_pa = 0.5 * math.exp2(min(exponent, 0.0) / 2.0)
    return min(1.0, tl2017_eps_pe(m, k, nu) + eps_pa + math.ldexp(1.0, -tag))


def tl2017_nu(m: int, k: int, eps_pe: float) -> float:
    """Smallest nu whose eps_pe is met; rounded up by one part in 1e12, so that it is met in doubles too."""
    n = m - k
    return math.sqrt(m * (k + 1) * math.log(2.0 / eps_pe) / (n * k * k)) * (1.0 + 1e-12)


def tl2017_choose(m: int, delta: float, leak_of: LeakOf, t: int, eps_sec: float) -> Choice | None:
    """Test size and slack that maximise the length; None if no choice meets eps_sec = eps_pe + eps_pa.

    leak_of(n) is the leak budget for n key bits. Deterministic: a ladder of test sizes, then ternary refinement, plain
    double arithmetic without vector units. nu follows from k in closed form, eps_pa is 1/32 of eps_sec (within 10 bits of
    its optimum).
    """
    eps_pa = check_epsilon("eps_sec", eps_sec) / 32.0
    eps_pe = eps_sec - eps_pa
    m, tag, hashing = check_count("m", m, low=2), check_count("t", t), 2.0 * math.log2(2.0 * eps_pa)
    check_fraction("delta", delta, high=0.5)

    def at(k: int) -> Choice | None:
        nu = tl2017_nu(m, k, eps_pe)
        if nu >= 0.5 - delta:
            return None
        leak = check_finite("leak", leak_of(m - k), low=0.0)
        return Choice(k, nu, 0.0, eps_pe, eps_pa, _tl2017(m - k, 1.0, delta + nu, leak, tag, hashing))

    return _best_test_size(m, at)


def tlgr_length(
    n: float, k: float, q_tol: float, leak: float, eps_sec: float, eps_cor: float, q: float = 1.0
) -> Length:
    """`l = floor( n (q - h(Q_tol + mu)) - leak - log2(2/(eps_sec² eps_cor)) )` (Tomamichel et al. 2012 Eq. 2, S5.1)."""
    keys, tests = check_count("n", n, low=1), check_count("k", k, low=1)
    check_fraction("q_tol", q_tol)
    check_fraction("q", q)
    gross = keys * (q - h2_bound(q_tol + tlgr_mu(n, k, eps_sec)))
    cost = 1.0 - 2.0 * math.log2(check_epsilon("eps_sec", eps_sec)) - math.log2(check_epsilon("eps_cor", eps_cor))
    length = gross - check_finite("leak", leak, low=0.0) - cost
    return Length(length, floor_bits(length, keys, tests, leak))


def tlgr_mu(n: float, k: float, eps_sec: float) -> float:
    """`mu = sqrt( (n+k)/(nk) (k+1)/k ln(4/eps_sec) )` (Tomamichel et al. 2012 Eq. 2, S5.1)."""
    keys, tests = check_count("n", n, low=1), check_count("k", k, low=1)
    return math.sqrt(
        (keys + tests) / (keys * tests) * (tests + 1.0) / tests * math.log(4.0 / check_epsilon("eps_sec", eps_sec))
    )


def lim21_eps_pe(m: float, k: float, nu: float, xi: float, delta: float) -> float:
    """`eps_pe = sqrt( exp(-2 m k xi²/(n+1)) + exp(-2 Gamma(m(delta+xi)) (n² (nu-xi)² - 1)) )`, `Gamma(x) = 1/(x+1) + 1/(m-x+1)`
    (Lim, Xu, Pan, Ekert 2021, S5.3)."""
    whole, test, n = _sizes(m, k)
    check_fraction("delta", delta, high=0.5)
    if not 0.0 < xi < nu < 0.5 - delta:
        raise ProofInputError(f"xi = {xi}, nu = {nu} break 0 < xi < nu < 1/2 - delta", name="nu")
    first = math.exp(-2.0 * whole * test * xi * xi / (n + 1))
    second = math.exp(-2.0 * _gamma(whole, delta + xi) * (n * n * (nu - xi) ** 2 - 1.0))
    return math.sqrt(first + second)


def _gamma(m: int, rate: float) -> float:
    x = m * rate
    return 1.0 / (x + 1.0) + 1.0 / (m - x + 1.0)


@dataclass(frozen=True, slots=True)
class LimEpsilons:
    eps_cor: float
    eps_pe: float
    eps_pa: float
    total: float


def lim21_eps(
    m: float, k: float, nu: float, xi: float, delta: float, r_bits: float, t: float, ell: float
) -> LimEpsilons:
    """The epsilons of a block of `ell` bits; `total = eps_cor + 2 eps_pe + eps_pa` (Lim et al. 2021, S5.3)."""
    _, _, n = _sizes(m, k)
    tag = check_count("t", t)
    eps_pe = lim21_eps_pe(m, k, nu, xi, delta)
    exponent = (
        -n * (1.0 - h2_bound(delta + nu)) + check_finite("r_bits", r_bits, low=0.0) + tag + check_finite("ell", ell)
    )
    eps_pa, eps_cor = 0.5 * math.exp2(min(exponent, 0.0) / 2.0), math.ldexp(1.0, -tag)
    return LimEpsilons(eps_cor, eps_pe, eps_pa, eps_cor + 2.0 * eps_pe + eps_pa)


def lim21_length(n: int, nu: float, delta: float, leak: float, tag_bits: float, eps_pa: float) -> Length:
    """Length of TL 2017 Eq. 58 with the slack of Lim et al. 2021 and cbar = 1/2 (S5.3)."""
    check_finite("leak", leak, low=0.0)
    gross = n * (1.0 - h2_bound(delta + nu))
    length = gross - leak - tag_bits + 2.0 * math.log2(2.0 * check_epsilon("eps_pa", eps_pa))
    return Length(length, floor_bits(length, n, gross, leak))


def _lim21_slack(m: int, k: int, delta: float, eps_pe: float, share: float) -> tuple[float, float] | None:
    """(xi, nu) that meet eps_pe² = share + (1 - share) with equality, rounded up."""
    n, budget = m - k, -2.0 * math.log(eps_pe)
    xi = math.sqrt((n + 1) * (budget - math.log(share)) / (2.0 * m * k)) * (1.0 + 1e-12)
    if xi >= 0.5 - delta:
        return None
    reach = 1.0 + (budget - math.log1p(-share)) / (2.0 * _gamma(m, delta + xi))
    nu = xi + math.sqrt(reach) / n * (1.0 + 1e-12)
    return (xi, nu) if nu < 0.5 - delta else None


def lim21_choose(m: int, delta: float, leak_of: LeakOf, tag_bits: float, eps: float) -> Choice | None:
    """Test size and slacks that maximise the length with `2 eps_pe + eps_pa <= eps`; None if none exists.

    Deterministic as `tl2017_choose`. The split between the two terms of eps_pe and that between eps_pe and eps_pa are
    golden sections of fixed step count.
    """
    check_epsilon("eps", eps)
    check_fraction("delta", delta, high=0.5)

    def at(k: int) -> Choice | None:
        n, leak = m - k, leak_of(m - k)

        def nu_at(log_share: float, eps_pe: float) -> float:
            slack = _lim21_slack(m, k, delta, eps_pe, math.exp(log_share))
            return math.inf if slack is None else slack[1]

        def choice(log_pa: float) -> Choice | None:
            eps_pa = eps * math.exp(log_pa)
            eps_pe = (eps - eps_pa) / 2.0 * (1.0 - 1e-12)
            log_share = _golden(lambda x: nu_at(x, eps_pe), -12.0, -1e-3, 24)
            slack = _lim21_slack(m, k, delta, eps_pe, math.exp(log_share))
            if slack is None:
                return None
            xi, nu = slack
            return Choice(k, nu, xi, eps_pe, eps_pa, lim21_length(n, nu, delta, leak, tag_bits, eps_pa))

        best: Choice | None = None
        for step in range(2, 7):  # eps_pa = eps 2^-step: the optimum is flat
            found = choice(-step * math.log(2.0))
            if found is not None and (best is None or found.length.l > best.length.l):
                best = found
        return best

    return _best_test_size(m, at)


def _golden(cost: Callable[[float], float], low: float, high: float, steps: int) -> float:
    """Argument of the minimum of a unimodal cost by golden section; infinite costs push towards the middle."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    cost_left, cost_right = cost(left), cost(right)
    for _ in range(steps):
        if cost_left <= cost_right:
            high, right, cost_right = right, left, cost_left
            left = high - _GOLDEN * (high - low)
            cost_left = cost(left)
        else:
            low, left, cost_left = left, right, cost_right
            right = low + _GOLDEN * (high - low)
            cost_right = cost(right)
    return left if cost_left <= cost_right else right


def _best_test_size(m: int, at: Callable[[int], Choice | None]) -> Choice | None:
    """Best choice over the test sizes 1 .. m - 1: a ladder of steps of about 7 %, a grid over the part of it that is nearly as
    good as its best, then ternary search beside the grid's best.

    The grid is there for leak budgets that rise in steps (whole frames of a code): they give the length several maxima.
    """
    seen: dict[int, Choice | None] = {}

    def value(k: int) -> float:
        if k not in seen:
            seen[k] = at(k)
        found = seen[k]
        return -math.inf if found is None else found.length.l

    def best_of(sizes: list[int]) -> tuple[int, int]:
        """The neighbours of the best size."""
        best = max(range(len(sizes)), key=lambda i: (value(sizes[i]), -sizes[i]))
        return sizes[max(0, best - 1)], sizes[min(len(sizes) - 1, best + 1)]

    ladder = [1]
    while ladder[-1] < m - 1:
        ladder.append(min(m - 1, ladder[-1] + max(1, ladder[-1] // 14)))
    low, high = best_of(ladder)
    top = max(value(k) for k in ladder)
    good = [k for k in ladder if value(k) >= top - _NEARLY * abs(top)]
    low, high = min(low, *good), max(high, *good)
    low, high = best_of(sorted({low + (high - low) * i // _GRID for i in range(_GRID + 1)}))
    while high - low > 2:
        third = (high - low) // 3
        a, b = low + third, high - third
        if value(a) >= value(b):
            high = b
        else:
            low = a
    for k in range(low, high + 1):
        value(k)
    winner = max(seen, key=lambda k: (value(k), -k))
    return seen[winner]
