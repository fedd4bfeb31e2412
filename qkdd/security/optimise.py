"""Search for the operating point of a decoy link: intensities, their probabilities, basis choice (pure and deterministic).

Nelder-Mead on unconstrained coordinates in which every point meets the proofs' conditions. Small blocks have narrow regions
with key; a search therefore walks from an easy problem (a large block) to the wanted one, each starting where the last ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, differential_evolution, minimize

from qkdd.security.errors import ProofInputError

_NO_KEY, _NO_BOUND = 1.0e3, 2.0e3  # costs above every -ln(rate) of a point with key
_FIRST_STEP, _LAST_STEP = 0.25, 1.0 / 128.0  # of the way from the easy problem to the wanted one
_ON_THE_WAY = 150  # evaluations of an intermediate search
MU_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Operating:
    """What a transmitter and a receiver can choose: intensities, brightest first, their probabilities, and p_key, the
    probability with which each party chooses the key basis."""

    mu: tuple[float, ...]
    p: tuple[float, ...]
    p_key: float


@dataclass(frozen=True, slots=True)
class Merit:
    """How good a point is. rate: the figure to maximise, above 0 only if there is key; share: unfloored length per key-basis
    detection, tells near misses from far ones; bounded: the single-photon bounds exist at all."""

    rate: float
    share: float
    bounded: bool


Problem = Callable[[Operating], Merit]


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(30.0, max(-30.0, x))))


def _logit(y: float) -> float:
    return math.log(y / (1.0 - y))


def decode(x: Sequence[float], mu_last: float | None) -> Operating:
    """Operating point of unconstrained coordinates: two intensities if mu_last is None, else three with mu3 = mu_last."""
    if mu_last is None:
        mu1 = MU_MAX * _sigmoid(x[0])
        p1 = _sigmoid(x[2])
        return Operating((mu1, mu1 * _sigmoid(x[1])), (p1, 1.0 - p1), _sigmoid(x[3]))
    mu1 = 2.0 * mu_last + (MU_MAX - 2.0 * mu_last) * _sigmoid(x[0])
    mu2 = mu_last + (mu1 - 2.0 * mu_last) * _sigmoid(x[1])
    top = max(x[2], x[3], 0.0)
    weights = [math.exp(max(-30.0, value - top)) for value in (x[2], x[3], 0.0)]
    total = math.fsum(weights)
    return Operating((mu1, mu2, mu_last), tuple(weight / total for weight in weights), _sigmoid(x[4]))


def encode(point: Operating) -> list[float]:
    """Coordinates of an operating point: the inverse of `decode`."""
    mu1, mu2 = point.mu[0], point.mu[1]
    if len(point.mu) == 2:
        return [_logit(mu1 / MU_MAX), _logit(mu2 / mu1), _logit(point.p[0]), _logit(point.p_key)]
    mu3 = point.mu[2]
    return [
        _logit((mu1 - 2.0 * mu3) / (MU_MAX - 2.0 * mu3)),
        _logit((mu2 - mu3) / (mu1 - 2.0 * mu3)),
        math.log(point.p[0] / point.p[2]),
        math.log(point.p[1] / point.p[2]),
        _logit(point.p_key),
    ]


def _cost(merit: Merit) -> float:
    if merit.rate > 0.0:
        return -math.log(merit.rate)
    return (_NO_KEY if merit.bounded else _NO_BOUND) - merit.share


def climb(problem: Problem, start: Operating, evaluations: int = 400, width: float = 0.25) -> Operating:
    """The best point that a simplex search of `evaluations` steps finds from `start`; width: the first simplex's. mu3 stays."""
    mu_last = start.mu[2] if len(start.mu) == 3 else None

    def cost(x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        return _cost(_merit(problem, decode([float(value) for value in x], mu_last)))

    origin = np.array(encode(start))
    simplex = np.vstack([origin, origin + width * np.eye(len(origin))])
    found = minimize(
        cost,
        origin,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": evaluations, "xatol": 1e-3, "fatol": 1e-6},
    )
    return decode([float(value) for value in found.x], mu_last)


def walk(family: Callable[[float], Problem], start: Operating) -> tuple[Operating, Merit]:
    """Operating point and merit of `family(1)`, approached from the easy `family(0)`.

    The step is halved until the point at hand makes key at the next difficulty, so that the search stays inside the region
    with key. `family(1)` is searched twice, the second time with a fresh simplex. A start that makes key there goes directly.
    """
    point, difficulty, step = start, 0.0, _FIRST_STEP
    target = family(1.0)
    if _merit(target, point).rate <= 0.0:
        point = climb(family(0.0), point, _ON_THE_WAY)
        while difficulty + step < 1.0:
            problem = family(difficulty + step)
            if _merit(problem, point).rate <= 0.0 and step > _LAST_STEP:
                step /= 2.0
                continue
            point = climb(problem, point, _ON_THE_WAY)
            if problem(point).rate <= 0.0:
                break  # the region with key has ended
            difficulty, step = difficulty + step, min(_FIRST_STEP, 2.0 * step)
    if _merit(target, point).rate <= 0.0:
        found = climb(target, point)
        point = found if _merit(target, found).rate > 0.0 else _roam(target, start)
    for width in (0.25, -0.5, 0.25):
        point = climb(target, point, width=width)
    return point, target(point)


def _roam(problem: Problem, like: Operating) -> Operating:
    """Differential evolution over the whole region with a fixed seed, for a region with key so small that no way was found."""
    mu_last = like.mu[2] if len(like.mu) == 3 else None
    dimensions = len(encode(like))
    ranges = Bounds([-4.0] * dimensions, [3.0, 4.0] + [5.0] * (dimensions - 2))

    def cost(x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        return _cost(_merit(problem, decode([float(value) for value in x], mu_last)))

    found = differential_evolution(cost, ranges, maxiter=100, popsize=10, seed=1, tol=1e-6, polish=False)
    return decode([float(value) for value in found.x], mu_last)


def _merit(problem: Problem, point: Operating) -> Merit:
    try:
        return problem(point)
    except ProofInputError:  # rounding at the rim of the coordinates
        return Merit(0.0, -_NO_BOUND, False)
