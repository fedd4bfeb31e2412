"""Building blocks of every length formula: entropy, concentration widths, random sampling, safe rounding.

Probabilities and error rates are fractions; counts are integers or integral floats; widths are in the unit of what they
widen. Entropies in bits, concentration terms with the natural logarithm (S1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qkdd.security.errors import ProofInputError

# A formula of some dozen double operations errs by less than this many units in the last place of its largest term.
_ULPS = 64


def check_fraction(name: str, value: float, *, low: float = 0.0, high: float = 1.0) -> float:
    """`value` if low <= value <= high; NaN and everything else raises ProofInputError naming it."""
    if not low <= value <= high:
        raise ProofInputError(f"{name} = {value} lies outside {low} to {high}", name=name)
    return float(value)


def check_epsilon(name: str, value: float) -> float:
    """`value` if it is a failure probability above 0 and below 1."""
    if not 0.0 < value < 1.0:
        raise ProofInputError(f"{name} = {value} is no failure probability: it must lie between 0 and 1", name=name)
    return float(value)


def check_count(name: str, value: float, *, low: int = 0) -> int:
    """`value` as an integer if it is a whole number >= low (JSON writes 1e6 as a float); else ProofInputError."""
    if isinstance(value, bool) or not math.isfinite(value) or value != math.floor(value) or value < low:
        raise ProofInputError(f"{name} = {value} is no count of at least {low}", name=name)
    return int(value)


def check_finite(name: str, value: float, *, low: float = -math.inf) -> float:
    """`value` if it is finite and >= low."""
    if not math.isfinite(value) or value < low:
        raise ProofInputError(f"{name} = {value} is no finite number of at least {low}", name=name)
    return float(value)


def floor_bits(length: float, *terms: float) -> int:
    """Whole secret bits of an unfloored length, never too many: the rounding error of the largest term is subtracted first.

    `terms` are the summands of the formula. 0 if negative (leftover hash lemma, S7.3). Raises ProofInputError on NaN.
    """
    if not math.isfinite(length):
        raise ProofInputError(f"the length is {length}", name="length")
    scale = max(map(abs, (length, *terms)))
    return max(0, math.floor(length - _ULPS * math.ulp(scale)))


def h2(x: float) -> float:
    """Binary entropy of a known probability, symmetric about 1/2 (S1.1)."""
    check_fraction("x", x)
    if x in {0.0, 1.0}:
        return 0.0
    return -(x * math.log(x) + (1.0 - x) * math.log1p(-x)) / math.log(2.0)


def h2_bound(x: float) -> float:
    """Entropy of an upper bound on an error rate: 1 from 1/2 on, so that a worse channel never yields more key (S1.1)."""
    check_finite("error bound", x, low=0.0)
    return 1.0 if x >= 0.5 else h2(x)


def hoeffding(n: float, eps: float) -> float:
    """Width of a count out of n independent bounded trials, one side, failure eps (Hoeffding; Lim 2014 A1, S1.3)."""
    check_finite("n", n, low=0.0)
    return math.sqrt(n / 2.0 * math.log(1.0 / check_epsilon("eps", eps)))


def chernoff_obs_to_exp(x: float, eps: float) -> tuple[float, float]:
    """(lower, upper) bound on the expected count from an observed one (variant Chernoff; Yin et al. 2020, S1.4)."""
    check_finite("x", x, low=0.0)
    b = math.log(1.0 / check_epsilon("eps", eps))
    lower = max(0.0, x - b / 2.0 - math.sqrt(2.0 * b * x + b * b / 4.0))
    return lower, x + b + math.sqrt(2.0 * b * x + b * b)


def gamma_serfling(eps: float, n_key: float, k_test: float) -> float:
    """Width from test to key error rate, exceeded with probability eps² (Serfling; Tomamichel 2012 S13-S15, S1.5a)."""
    check_epsilon("eps", eps)
    n, k = check_finite("n_key", n_key, low=0.0), check_finite("k_test", k_test, low=0.0)
    if n == 0.0 or k == 0.0:
        raise ProofInputError("sampling needs at least one test and one key position", name="n_key")
    return math.sqrt((n + k) / (n * k) * (k + 1.0) / k * math.log(1.0 / eps))


def gamma_fung(eps: float, b: float, c: float, d: float) -> float:
    """Sampling width of Fung-Ma-Chau as printed in Lim 2014 B2 (S1.5b): an approximation, not a strict bound (E3).

    b: test error rate, c, d: sizes of the two sets. 0 at b = 0 or 1: the caller floors b at 1/c where that matters (E4).
    """
    check_epsilon("eps", eps)
    check_fraction("b", b)
    if not (c > 0.0 and d > 0.0 and math.isfinite(c) and math.isfinite(d)):
        raise ProofInputError(f"set sizes {c}, {d} are not both positive", name="c")
    spread = (1.0 - b) * b
    if spread == 0.0:
        return 0.0
    # log2 of (c + d)/(c d (1 - b) b eps²), from logarithms: eps² may be below every double (S7.6)
    logarithm = math.log2(c + d) - math.log2(c) - math.log2(d) - math.log2(spread) - 2.0 * math.log2(eps)
    if logarithm <= 0.0:  # the approximation gives no width here: no statement
        raise ProofInputError(f"eps = {eps} is too large for sets of {c} and {d}", name="eps")
    return math.sqrt((1.0 / c + 1.0 / d) * spread / math.log(2.0) * logarithm)


def hypergeom_upper(n_key: float, k_test: float, m_test: float, eps: float) -> int:
    """Largest number w of key errors that is still plausible: P[Hyp(n + k, m + w, k) <= m] > eps (S1.5c).

    Exact tail by a recurrence over sorted log terms; sizes up to about 1e7.
    """
    n, k = check_count("n_key", n_key, low=1), check_count("k_test", k_test, low=1)
    m = check_count("m_test", m_test)
    if m > k:
        raise ProofInputError(f"{m} errors among {k} test bits", name="m_test")
    log_eps = math.log(check_epsilon("eps", eps))
    low, high = -1, n  # the tail at w = -1 (fewer errors than seen) is 1; it falls as w grows
    while low < high:
        middle = (low + high + 1) // 2
        if _log_hypergeom_cdf(n, k, m, middle) > log_eps:
            low = middle
        else:
            high = middle - 1
    return max(low, 0)


def _log_choose(a: int, b: int) -> float:
    return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)


def _log_hypergeom_cdf(n: int, k: int, m: int, w: int) -> float:
    """ln P[at most m errors in the test | m + w errors in all n + k positions]."""
    errors, good = m + w, n + k - m - w
    first = max(0, k - good)
    if first > m:
        return -math.inf
    norm = _log_choose(n + k, k)
    return log_sum([_log_choose(errors, i) + _log_choose(good, k - i) - norm for i in range(first, min(m, errors) + 1)])


def log_sum(logs: Sequence[float]) -> float:
    """ln of a sum given by the logs of its terms."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(x - top) for x in logs))
