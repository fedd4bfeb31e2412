"""Multi-edge codes of low rate for CV-QKD (binary-input AWGN channel): design by differential evolution on thresholds, and
lifting.

`python awgn.py RATE ...` prints one JSON line a rate: parameters, threshold and its distance from capacity; `python awgn.py
--build OUTPUT` writes the family from DESIGNED and prints the file's SHA-256.

Structure (Richardson, Urbanke, "Multi-edge type LDPC codes", 2002): a core of few bits with two or three edges to core checks
and many to outer checks; each outer check joins two or three core bits with one bit of degree one, whose repetition of weak
observations carries the code at low rates. Density evolution in the Gaussian approximation of each edge type's means (Chung,
Richardson, Urbanke, IEEE Trans. Inf. Theory 47 (2001) 657), with the exact expectation of tanh for checks.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
from lifting import MOST, SHORT
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]
MAGIC = b"QKDDQC02"
COLUMNS = 400
POPULATION, GENERATIONS = 16, 30


def capacity(snr: float) -> float:
    """Bits a use of the binary-input channel with amplitude sqrt(snr) and noise of variance one."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    llr = 2 * snr + 2 * np.sqrt(snr) * nodes
    return float(1 - (weights * np.logaddexp(0, -llr)).sum() / np.sqrt(2 * np.pi) / np.log(2))


def shannon(rate: float) -> float:
    """The least signal-to-noise ratio at which this rate is possible."""
    return float(brentq(lambda snr: capacity(snr) - rate, 1e-4, 20.0))


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(96)
_GRID = np.concatenate([[0.0], np.geomspace(1e-5, 400.0, 1200)])
_MEAN_TANH = np.array([(_WEIGHTS * np.tanh(m / 2 + np.sqrt(m / 2) * _NODES)).sum() for m in _GRID]) / np.sqrt(2 * np.pi)


def mean_tanh(mean: Floats | float) -> Floats:
    """Expectation of tanh(L / 2) for L normal with this mean and twice it as variance."""
    return np.interp(mean, _GRID, _MEAN_TANH)


def mean_of(expected: Floats | float) -> Floats:
    return np.interp(np.minimum(expected, 1 - 1e-12), _MEAN_TANH, _GRID)


def converges(parameters: Floats, rate: float, snr: Floats, iterations: int = 3000) -> NDArray[np.bool_]:
    """Whether each row of parameters (core bits a column, share of them with two core edges, mean core bits of an outer check)
    converges at its signal-to-noise ratio."""
    core, twos, joined = parameters.T
    checks = core - rate
    inner_mean = twos * 2 + (1 - twos) * 3
    outer = (1 - core) * joined / core  # outer edges of a core bit
    inner_degree = core * inner_mean / checks
    low = np.floor(inner_degree)
    weight = (inner_degree - low) * (low + 1) / inner_degree  # edges on core checks of the higher degree
    threes = (joined - 2) * 3 / joined  # outer edges on checks that join three
    share = np.stack([twos * 2 / inner_mean, (1 - twos) * 3 / inner_mean])  # core edges by degree of the bit
    channel = 2 * snr
    u_in, u_out = np.zeros(len(core)), np.zeros(len(core))
    observed = mean_tanh(channel)
    for _ in range(iterations):
        outward = twos * mean_tanh(channel + 2 * u_in + (outer - 1) * u_out)
        outward += (1 - twos) * mean_tanh(channel + 3 * u_in + (outer - 1) * u_out)
        inward = share[0] * mean_tanh(channel + u_in + outer * u_out) + share[1] * mean_tanh(
            channel + 2 * u_in + outer * u_out
        )
        u_out = (1 - threes) * mean_of(observed * outward) + threes * mean_of(observed * outward**2)
        new = (1 - weight) * mean_of(inward ** (low - 1)) + weight * mean_of(inward**low)
        still = np.abs(new - u_in) < 1e-10 * new  # the way out of a narrow passage begins with small steps
        u_in = new
        if (still | (u_in > 100.0)).all():
            break
    return np.asarray(u_in > 30.0)


def thresholds(parameters: Floats, rate: float, steps: int = 12) -> Floats:
    """The least signal-to-noise ratio at which each row converges, within 1 to 2 times the Shannon limit."""
    best = shannon(rate)
    low, high = np.full(len(parameters), best), np.full(len(parameters), 2 * best)
    for _ in range(steps):
        middle = (low + high) / 2
        good = converges(parameters, rate, middle)
        low, high = np.where(good, low, middle), np.where(good, middle, high)
    return high


def whole(parameters: Floats, rate: float) -> Floats:
    """Rounded to COLUMNS columns: whole numbers of core bits, of those with two core edges, of outer checks that join three."""
    core = np.rint(parameters[:, 0] * COLUMNS)
    twos = np.rint(parameters[:, 1] * core)
    threes = np.rint((parameters[:, 2] - 2) * (COLUMNS - core))
    return np.stack([core / COLUMNS, twos / core, 2 + threes / (COLUMNS - core)], axis=1)


def design(rate: float, seed: int = 1) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    least, most = np.array([rate * 1.2 + 2 / COLUMNS, 0.0, 2.0]), np.array([rate * 2 + 0.04, 1.0, 3.0])
    population = least + rng.random((POPULATION, 3)) * (most - least)
    value = thresholds(whole(population, rate), rate)
    for _ in range(GENERATIONS):
        picks = np.array([rng.choice(POPULATION, 2, replace=False) for _ in range(POPULATION)])
        best = population[np.argmin(value)]
        mutant = population + 0.5 * (best - population) + 0.6 * (population[picks[:, 0]] - population[picks[:, 1]])
        trial = np.clip(np.where(rng.random(population.shape) < 0.8, mutant, population), least, most)
        new = thresholds(whole(trial, rate), rate)
        better = new <= value
        population[better], value[better] = trial[better], new[better]
    winner = whole(population[[int(np.argmin(value))]], rate)[0]
    core = round(winner[0] * COLUMNS)
    snr = float(value.min())
    return {
        "rate": rate,
        "core": core,
        "twos": round(winner[1] * core),
        "threes": round((winner[2] - 2) * (COLUMNS - core)),
        "snr": round(snr, 5),
        "shannon": round(shannon(rate), 5),
        "beta": round(rate / (0.5 * float(np.log2(1 + snr))), 4),
    }


# Results of this script: core columns, those of them with two core edges, outer checks that join three.
DESIGNED = {0.02: (12, 8, 197), 0.05: (27, 17, 274), 0.1: (50, 31, 333)}


def lift(rate: float) -> list[tuple[int, int, int]]:
    """Entries (row, column, shift): outer checks first, then core checks; bits of degree one first, then the core.

    Two checks that share two bits do so at different distances modulo 64, so there are no cycles of four.
    """
    core, twos, threes = DESIGNED[rate]
    outer, rng = COLUMNS - core, np.random.default_rng(round(1000 * rate))
    joined = np.full(outer, 2)
    joined[rng.permutation(outer)[:threes]] = 3
    used: set[tuple[int, int, int]] = set()
    entries: list[tuple[int, int, int]] = []

    def join(row: int, columns: list[int], extra: tuple[tuple[int, int], ...] = ()) -> None:
        while True:
            shifts = [(int(c), int(s)) for c, s in zip(columns, rng.integers(0, MOST, len(columns)), strict=True)]
            fresh = {
                (a, b, (s - t) % SHORT) for i, (a, s) in enumerate(sorted(shifts)) for b, t in sorted(shifts)[i + 1 :]
            }
            if not fresh & used:
                used.update(fresh)
                entries.extend((row, column, shift) for column, shift in sorted((*extra, *shifts)))
                return

    load = np.zeros(core)
    for row in range(outer):
        columns = np.argsort(load + rng.random(core))[: joined[row]]
        load[columns] += 1
        join(row, [outer + int(c) for c in columns], ((row, 0),))
    checks = core - round(rate * COLUMNS)
    degrees = np.zeros(checks)
    chosen: list[list[int]] = [[] for _ in range(checks)]
    for column in range(core):
        for row in np.argsort(degrees + rng.random(checks))[: 2 if column < twos else 3]:
            degrees[row] += 1
            chosen[int(row)].append(outer + column)
    for row, columns in enumerate(chosen):
        join(outer + row, columns)
    return entries


def build(rate: float) -> bytes:
    """The code in the form of docs/rooms/ldpc.md, with one table of scaled min-sum; it is made for `soft.decode_soft`."""
    entries = lift(rate)
    rows = COLUMNS - round(rate * COLUMNS)
    degrees = np.bincount([row for row, _, _ in entries], minlength=rows)
    return b"".join(
        [
            struct.pack("<6I", COLUMNS, rows, 0, 8, 1, len(entries)),
            struct.pack("<I", 0),
            (np.arange(64) * 3 // 4).astype(np.uint8).tobytes(),
            degrees.astype(np.uint8).tobytes(),
            np.array([column for _, column, _ in entries], "<u2").tobytes(),
            np.array([shift for _, _, shift in entries], "<u2").tobytes(),
        ]
    )


if __name__ == "__main__":
    if sys.argv[1] == "--build":
        data = MAGIC + struct.pack("<I", len(DESIGNED)) + b"".join(build(rate) for rate in DESIGNED)
        Path(sys.argv[2]).write_bytes(data)
        print(hashlib.sha256(data).hexdigest(), len(data), "bytes")
    else:
        for text in sys.argv[1:]:
            print(json.dumps(design(float(text))), flush=True)
