"""Quantised density evolution of a min-sum decoder on the binary symmetric channel, for many degree distributions at once.

The all-zero error pattern is decoded (the decoder is symmetric): every bit starts with the same magnitude `start_of(leak)`,
wrong with probability p. Messages are integers in ±TOP. A check's outgoing magnitude is table[min], where the table at each
iteration holds the log-likelihood ratio that the minimum really stands for (Lee, Thorpe, "Memory-efficient decoding of LDPC
codes", ISIT 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

TOP = 63  # largest magnitude of a message
CAP = 60  # largest magnitude of a message of a check: a bit's value has room for it
FFT = 6144  # above the range of a sum of DEGREE_MOST messages
DEGREE_MOST = 46

Floats = NDArray[np.float64]


def start_of(leak: float) -> int:
    """Magnitude of the channel's value: four steps a unit of its log-likelihood ratio, so that messages reach a ratio of 15."""
    p = brentq(lambda p: -p * np.log2(p) - (1 - p) * np.log2(1 - p) - leak / 1.1, 1e-7, 0.5)
    return int(np.clip(round(4 * np.log((1 - p) / p)), 6, 16))


@dataclass(frozen=True)
class Path:
    """One distribution on its way: fraction of unsatisfied checks and table before each iteration; the last error rate."""

    unsatisfied: list[float]
    tables: list[NDArray[np.uint8]]
    error: float


def evolve(
    nodes: Floats, leak: float, p: Floats, limits: Floats, target: float = 1e-6, *, trace: bool = False
) -> tuple[NDArray[np.bool_], Path]:
    """Which rows of `nodes` (fraction of bits by degree, [batch, DEGREE_MOST + 1]) converge within their `limits` iterations.

    Check degrees are the two whole numbers around the mean. A row whose error rate stands still is given up. The path is that of
    row 0, for which a trace asks.
    """
    degrees = np.arange(DEGREE_MOST + 1)
    mean = nodes @ degrees
    edge = nodes * degrees / mean[:, None]
    used = [int(d) for d in np.flatnonzero(edge.any(axis=0))]
    mean_check = mean / leak
    low = np.floor(mean_check)
    weight_high = (mean_check - low) * (low + 1) / mean_check  # fraction of edges on the checks of the higher degree
    start = start_of(leak)
    unit = start / np.log((1 - p) / p)
    frequency = np.exp(-2j * np.pi * np.arange(FFT // 2 + 1) * start / FFT)
    channel = (1 - p)[:, None] * frequency + p[:, None] * frequency.conj()
    level = np.arange(TOP + 1)
    tail_plus = np.where(level <= start, (1 - p)[:, None], 0.0)
    tail_minus = np.where(level <= start, p[:, None], 0.0)
    good = np.zeros(len(nodes), np.bool_)
    active = np.arange(len(nodes))
    path = Path([], [], 1.0)
    before, error = np.ones(len(nodes)), p.copy()
    for iteration in range(int(limits.max())):
        both = []
        for value in (tail_plus + tail_minus, tail_plus - tail_minus):  # P(|m| >= k), and less twice the wrong ones
            a = np.sign(value) * np.abs(value) ** (low - 1)[:, None]
            both.append(a * (1 - weight_high[:, None]) + a * value * weight_high[:, None])
        at_least, sign = both
        none = np.zeros((len(active), 1))
        mass = at_least - np.append(at_least[:, 1:], none, axis=1)
        bias = sign - np.append(sign[:, 1:], none, axis=1)
        plus, minus = np.maximum((mass + bias) / 2, 0), np.maximum((mass - bias) / 2, 0)
        llr = np.log((plus + 1e-15) / (minus + 1e-15)) * unit[:, None]
        table = np.clip(np.rint(llr), 0, CAP).astype(np.int64)
        table[:, 0] = 0
        table = np.minimum(np.maximum.accumulate(table, axis=1), level)
        if trace:
            u = (1 - abs(1 - 2 * error[0]) ** mean_check[0]) / 2
            path.unsatisfied.append(float(u))
            path.tables.append(table[0].astype(np.uint8))
        density = np.zeros((len(active), FFT))
        rows = np.repeat(np.arange(len(active)), TOP + 1)
        np.add.at(density, (rows, table.ravel()), plus.ravel())
        np.add.at(density, (rows, (-table.ravel()) % FFT), minus.ravel())
        spectrum = np.fft.rfft(density)
        total, power, at = np.zeros_like(spectrum), np.ones_like(spectrum), 1
        for d in used:
            power, at = power * spectrum ** (d - at), d
            total += edge[:, d : d + 1] * power
        out = np.fft.irfft(total * channel, FFT)
        np.maximum(out, 0, out=out)
        out /= out.sum(axis=1, keepdims=True)
        positive = out[:, : FFT // 2]
        negative = np.append(none, out[:, : FFT // 2 : -1], axis=1)
        zero = positive[:, 0] / 2
        tail_plus = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1][:, : TOP + 1].copy()
        tail_minus = np.cumsum(negative[:, ::-1], axis=1)[:, ::-1][:, : TOP + 1].copy()
        tail_plus[:, 0] -= zero
        tail_minus[:, 0] += zero
        error = tail_minus[:, 0]
        done = error < target
        good[active[done]] = True
        stands = (error > 0.99995 * before) & (iteration > 20)
        keep = ~done & ~stands & (limits[active] > iteration + 1)
        if not keep.any():
            break
        if not keep.all():
            active = active[keep]
            low, weight_high, unit, edge, channel, tail_plus, tail_minus, error = (
                part[keep] for part in (low, weight_high, unit, edge, channel, tail_plus, tail_minus, error)
            )
        before = error
    return good, Path(path.unsatisfied, path.tables, float(error[0]))


def thresholds(nodes: Floats, leak: float, low: float, high: float, limits: Floats, steps: int) -> Floats:
    """The largest p in [low, high] at which each distribution converges, by bisection of all at once (low if none)."""
    bottom, top = np.full(len(nodes), low), np.full(len(nodes), high)
    for _ in range(steps):
        middle = (bottom + top) / 2
        good, _ = evolve(nodes, leak, middle, limits)
        bottom, top = np.where(good, middle, bottom), np.where(good, top, middle)
    return bottom
