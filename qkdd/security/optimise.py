"""Search for the operating point of a decoy link: intensities, their probabilities, basis choice, block size.

Pure and deterministic: equal inputs give equal advice.

Nelder-Mead on unconstrained coordinates in which every point meets the proofs' conditions. Small blocks have narrow regions
with key; a search therefore walks from an easy problem (a large block) to the wanted one, each starting where the last ended.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, differential_evolution, minimize

from qkdd.security import modes
from qkdd.security.channel import BlockCounts, Channel, dead_time_factor
from qkdd.security.decoy import leak_of
from qkdd.security.entropy import check_finite, check_fraction
from qkdd.security.errors import ProofInputError
from qkdd.security.proofs import EQUAL_DETECTORS, Receiver, decoy_length

_NO_KEY, _NO_BOUND = 1.0e3, 2.0e3  # costs above every -ln(rate) of a point with key
_FIRST_STEP, _LAST_STEP = 0.25, 1.0 / 128.0  # of the way from the easy problem to the wanted one
_ENOUGH = 1.0 + 1e-5  # a fresh simplex that gains less ends the search
_ON_THE_WAY = 150  # evaluations of an intermediate search
_EASY_PULSES = 1.0e11
MU_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Operating:
    """What a transmitter and a receiver can choose: intensities, brightest first, their probabilities, and p_key, the
    probability with which each party chooses the key basis (only the transmitter where the link's receiver_key is given)."""

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
    with key. `family(1)` is searched more than once, each time with a fresh simplex. A start that makes key there goes directly.
    """
    point, difficulty, step = start, 0.0, _FIRST_STEP
    target = family(1.0)
    near = _merit(target, point).rate > 0.0
    if not near:
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
    best = -math.inf
    for width in (0.2, -0.2) if near else (0.25, -0.5, 0.25):
        point = climb(target, point, width=width)
        reached = target(point).rate
        if reached <= best * _ENOUGH:
            break
        best = reached
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


@dataclass(frozen=True, slots=True)
class Advice:
    """The best operating point of a link and what it yields.

    block_pulses, block_s: the block; length: secret bits expected in one; rate_hz: secret bits a second; qber: expected in
    the key basis; ladder: (block_s, rate_hz) of shorter blocks, each halved and searched again. label: of the mode, to be shown.
    """

    mode: str
    label: str
    at: Operating
    block_pulses: int
    block_s: float
    length: int
    rate_hz: float
    qber: float
    ladder: tuple[tuple[float, float], ...]


def _block_counts(link: Channel, point: Operating, pulses: float) -> BlockCounts:
    """Expected counts of a block of `pulses` pulses, those in the receiver's dead time lost."""
    detected = math.fsum(p * link.pulse(mu)[0] for mu, p in zip(point.mu, point.p, strict=True))
    live = dead_time_factor(link.clock_hz * detected, link.t_dead)
    return link.counts(point.mu, point.p, point.p_key, pulses * live)


def link_family(
    mode_id: str, link: Channel, pulses: float, eps_sec: float, eps_cor: float, receiver: Receiver
) -> Callable[[float], Problem]:
    """Problems from an easy link (no loss, large block) to `link` with blocks of `pulses`; the merit's rate is in bits a
    second, dead time and leak `f n h(Q)` included (S8.2, S8.3)."""
    easy = max(pulses, _EASY_PULSES)
    check_fraction("eta", link.eta, low=1e-30)

    def problem(difficulty: float) -> Problem:
        sent = easy * (pulses / easy) ** difficulty
        here = dataclasses.replace(link, eta=link.eta**difficulty)

        def merit(point: Operating) -> Merit:
            counts = _block_counts(here, point, sent)
            n_key = math.fsum(counts.n_key)
            leak = leak_of(n_key, math.fsum(counts.m_key), here.f_ec)
            found = decoy_length(
                mode_id, point.mu, point.p, counts, leak, eps_sec, eps_cor, receiver=receiver, simulation=True
            )
            rate = max(0.0, found.l) / sent * here.clock_hz
            return Merit(rate, found.l / n_key, found.s_key_1 > 0.0 and found.s_test_1 > 0.0)

        return merit

    return problem


def advise(
    mode_id: str,
    link: Channel,
    *,
    longest_block_s: float,
    eps_sec: float = 1e-12,
    eps_cor: float = 1e-15,
    mu3: float = 2e-4,
    receiver: Receiver = EQUAL_DETECTORS,
    start: Operating | None = None,
    rungs: int = 0,
) -> Advice:
    """Intensities, probabilities and block size with the highest secret rate of a characterised link.

    A longer block never lowers the rate (S10.3), so the block is the longest that is allowed; `rungs` shorter ones show what a
    shorter wait costs. mu3: weakest intensity that the modulator reaches (modes with three). Expected counts: a key is made
    of measured ones only. rate_hz is 0 if there is no point with key. Raises ProofInputError.
    """
    found_mode = modes.mode(mode_id)
    if found_mode.intensities not in {2, 3}:
        raise ProofInputError(f"{mode_id} is no decoy-state mode", name="proof")
    pulses = math.floor(check_finite("longest_block_s", longest_block_s, low=0.0) * link.clock_hz)
    if pulses < 1:
        raise ProofInputError(f"a block of {longest_block_s} s holds no pulse", name="longest_block_s")
    first = start
    if first is None and found_mode.intensities == 3:
        first = Operating((0.44, 0.18, mu3), (0.7, 0.2, 0.1), 0.9)
    elif first is None:
        first = Operating((0.45, 0.15), (0.6, 0.4), 0.9)

    def family(size: float) -> Callable[[float], Problem]:
        return link_family(mode_id, link, size, eps_sec, eps_cor, receiver)

    at, merit = walk(family(pulses), first)
    ladder, point = [], at
    for rung in range(1, rungs + 1):
        if merit.rate <= 0.0:
            break
        point, shorter = walk(family(pulses / 2**rung), point)
        ladder.append((pulses / 2**rung / link.clock_hz, shorter.rate))
        if shorter.rate <= 0.0:
            break
    counts = _block_counts(link, at, pulses)
    length = math.floor(max(0.0, merit.share) * math.fsum(counts.n_key))
    qber = math.fsum(counts.m_key) / math.fsum(counts.n_key)
    return Advice(
        mode_id, found_mode.label, at, pulses, pulses / link.clock_hz, length, merit.rate, qber, tuple(ladder)
    )
