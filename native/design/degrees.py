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
    """Parameters: degree-2 share of its most (below one a check), share and degree of the highest, share and degree between."""
    nodes = np.zeros(ev.DEGREE_MOST + 1)
    two = x[0] * 0.97 * leak
    high, top = x[1], x[2]
    between, middle = x[3], x[4]
    nodes[2] = two
    rest = 1 - two
    for share, degree in ((high, top), (between * (1 - high), middle)):
        low = int(np.floor(degree))
        part = degree - low
        nodes[low] += rest * share * (1 - part)
        nodes[min(low + 1, ev.DEGREE_MOST)] += rest * share * part
    nodes[3] += 1 - nodes.sum()
    return nodes


LOW = np.array([0.4, 0.03, 7.0, 0.0, 4.0])
HIGH = np.array([1.0, 0.45, 30.0, 0.6, 10.0])
GOOD = np.array(
    [
        [0.95, 0.22, 13.0, 0.15, 6.0],
        [0.9, 0.28, 12.0, 0.1, 5.0],
        [0.9, 0.13, 20.0, 0.2, 6.0],
        [0.8, 0.1, 28.0, 0.25, 7.0],
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

    population = LOW + rng.random((POPULATION, 5)) * (HIGH - LOW)
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
