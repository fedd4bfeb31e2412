"""Degree distributions by differential evolution (Storn, Price, 1997) on thresholds of the quantised decoder.

`python degrees.py LEAK ...` prints one JSON line a leak: {"leak", "parameters", "threshold", "f", "f_patient", "mean"}. A
distribution is judged by its threshold when decoding may take WORK edges a bit: dense codes get fewer iterations. f_patient:
without that limit.
"""

from __future__ import annotations

import json
import sys

import evolution as ev
import numpy as np
from scipy.optimize import brentq

POPULATION, GENERATIONS = 20, 18
WORK = 1200  # edges a bit
LAYERED = 1.9  # iterations of the evolution, where all checks come at once, for one of the layered decoder


def entropy(p: float) -> float:
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def inverse_entropy(leak: float) -> float:
    return float(brentq(lambda p: entropy(p) - leak, 1e-7, 0.5))


def distribution(x: np.ndarray, leak: float) -> np.ndarray:
    """Parameters: degree-2 share of its most (below one a check), share and degree of the highest, of those between, and of
    those near three, each share of what is left; all else has degree three."""
    nodes = np.zeros(ev.DEGREE_MOST + 1)
    rest = 1 - 0.97 * leak * x[0]
    nodes[2] = 1 - rest
    for share, degree in zip(x[1::2], x[2::2], strict=True):
        low, part = int(np.floor(degree)), degree % 1.0
        nodes[low] += rest * share * (1 - part)
        nodes[min(low + 1, ev.DEGREE_MOST)] += rest * share * part
        rest *= 1 - share
    nodes[3] += 1 - nodes.sum()
    return nodes


LOW = np.array([0.6, 0.02, 14.0, 0.0, 6.0, 0.0, 3.0])
HIGH = np.array([1.0, 0.2, 44.0, 0.5, 14.0, 0.5, 6.0])
GOOD = np.array(
    [
        [0.95, 0.09, 27.0, 0.29, 9.4, 0.0, 4.0],
        [0.98, 0.1, 30.0, 0.31, 8.9, 0.0, 4.0],
        [0.95, 0.06, 36.0, 0.3, 9.0, 0.1, 4.0],
    ]
)


def threshold(nodes: np.ndarray, leak: float, work: float, steps: int) -> np.ndarray:
    """Thresholds of distributions (rows) with `work` edges a bit, at most 700 iterations."""
    mean = nodes @ np.arange(ev.DEGREE_MOST + 1)
    limits = np.minimum(LAYERED * work / mean, 700.0)
    found: np.ndarray = ev.thresholds(
        nodes, leak, inverse_entropy(leak / 1.35), inverse_entropy(leak / 1.02), limits, steps
    )
    return found


def design(leak: float, seed: int = 1, start: np.ndarray | None = None) -> dict[str, object]:
    rng = np.random.default_rng(seed)

    def score(population: np.ndarray) -> np.ndarray:
        return threshold(np.array([distribution(x, leak) for x in population]), leak, WORK, 6)

    population = LOW + rng.random((POPULATION, LOW.size)) * (HIGH - LOW)
    population[: len(GOOD)] = GOOD
    if start is not None:
        population[len(GOOD)] = start
    value = score(population) + 1e-9 * rng.random(POPULATION)
    for _ in range(GENERATIONS):
        picks = np.array([rng.choice(POPULATION, 3, replace=False) for _ in range(POPULATION)])
        best = population[np.argmax(value)]
        mutant = population + 0.6 * (best - population) + 0.6 * (population[picks[:, 1]] - population[picks[:, 2]])
        trial = np.clip(np.where(rng.random(population.shape) < 0.8, mutant, population), LOW, HIGH)
        new = score(trial)
        better = new >= value
        population[better], value[better] = trial[better], new[better]
    winner = population[int(np.argmax(value))]
    nodes = distribution(winner, leak)[None]
    limited, patient = (float(threshold(nodes, leak, work, 10)[0]) for work in (WORK, 1e6))
    return {
        "leak": leak,
        "parameters": [round(float(v), 4) for v in winner],
        "threshold": round(limited, 6),
        "f": round(leak / entropy(limited), 4),
        "f_patient": round(leak / entropy(patient), 4),
        "mean": round(float(nodes[0] @ np.arange(ev.DEGREE_MOST + 1)), 2),
    }


if __name__ == "__main__":
    previous: np.ndarray | None = None
    for text in sys.argv[1:]:
        result = design(float(text), start=previous)
        previous = np.array(result["parameters"])
        print(json.dumps(result), flush=True)
