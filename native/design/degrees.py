"""Degree distributions by differential evolution (Storn, Price, 1997) on thresholds of the quantised decoder.

`python degrees.py LEAK ...` prints one JSON line a leak: {"leak", "nodes" (fraction of bits by degree), "threshold", "f"}.
"""

from __future__ import annotations

import json
import sys

import evolution as ev
import numpy as np
from scipy.optimize import brentq

POPULATION, GENERATIONS, ITERATIONS = 16, 14, 130


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


LOW = np.array([0.3, 0.05, 7.0, 0.0, 4.0])
HIGH = np.array([1.0, 0.45, 20.0, 0.5, 7.0])
GOOD = np.array([[0.9, 0.20, 9.0, 0.05, 5.0], [0.95, 0.30, 10.0, 0.1, 4.0], [0.95, 0.18, 13.0, 0.15, 5.0]])


def design(leak: float, seed: int = 1, start: np.ndarray | None = None) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    shannon = inverse_entropy(leak)
    low, high = inverse_entropy(leak / 1.6), shannon

    def score(population: np.ndarray) -> np.ndarray:
        nodes = np.array([distribution(x, leak) for x in population])
        found: np.ndarray = ev.thresholds(nodes, leak, low, high, ITERATIONS)
        most = 4.6 if leak > 0.22 else 5.6
        dense = np.maximum(nodes @ np.arange(ev.DEGREE_MOST + 1) - most, 0)  # decoding time is the number of edges
        return found * (1 - 0.05 * dense)

    population = LOW + rng.random((POPULATION, 5)) * (HIGH - LOW)
    population[: len(GOOD)] = GOOD
    if start is not None:
        population[3] = start
    value = score(population)
    for _ in range(GENERATIONS):
        picks = np.array([rng.choice(POPULATION, 3, replace=False) for _ in range(POPULATION)])
        best = population[np.argmax(value)]
        mutant = population + 0.6 * (best - population) + 0.6 * (population[picks[:, 1]] - population[picks[:, 2]])
        cross = rng.random(population.shape) < 0.8
        trial = np.clip(np.where(cross, mutant, population), LOW, HIGH)
        new = score(trial)
        better = new >= value
        population[better], value[better] = trial[better], new[better]
    winner = population[int(np.argmax(value))]
    nodes = distribution(winner, leak)
    threshold = float(ev.thresholds(nodes[None], leak, low, high, 3 * ITERATIONS, 9)[0])
    return {
        "leak": leak,
        "parameters": [round(float(v), 4) for v in winner],
        "threshold": round(threshold, 6),
        "f": round(leak / entropy(threshold), 4),
    }


if __name__ == "__main__":
    previous: np.ndarray | None = None
    for text in sys.argv[1:]:
        result = design(float(text), start=previous)
        previous = np.array(result["parameters"])
        print(json.dumps(result), flush=True)
