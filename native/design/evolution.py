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

TOP = 31  # largest magnitude of a message
FFT = 2048  # above the range of a sum of DEGREE_MOST messages
DEGREE_MOST = 24

Floats = NDArray[np.float64]


def start_of(leak: float) -> int:
    """Magnitude of the channel's value: finer steps where a check has many bits, more room above it where it has few."""
    return 8 if leak < 0.22 else 5


@dataclass(frozen=True)
class Path:
    """One distribution on its way: fraction of unsatisfied checks and table before each iteration; the last error rate."""

    unsatisfied: list[float]
    tables: list[NDArray[np.uint8]]
    error: float


def evolve(
    nodes: Floats, leak: float, p: Floats, iterations: int, target: float = 1e-6, *, trace: bool = False
) -> tuple[Floats, Path]:
    """Message error rates after at most `iterations`, for rows of `nodes` (fraction of bits by degree, [batch, DEGREE_MOST + 1]).

    Check degrees are the two whole numbers around the mean. The path is that of row 0.
    """
    batch = len(nodes)
    degrees = np.arange(DEGREE_MOST + 1)
    mean = nodes @ degrees
    edge = nodes * degrees / mean[:, None]
    mean_check = mean / leak
    low = np.floor(mean_check)
    rest = mean_check - low
    weight_high = rest * (low + 1) / mean_check  # fraction of edges on the checks of the higher degree
    channel_llr = np.log((1 - p) / p)
    start = start_of(leak)
    unit = start / channel_llr
    frequency = np.exp(-2j * np.pi * np.arange(FFT // 2 + 1) * start / FFT)
    channel = (1 - p)[:, None] * frequency + p[:, None] * frequency.conj()
    level = np.arange(TOP + 1)
    tail_plus = np.where(level <= start, (1 - p)[:, None], 0.0)
    tail_minus = np.where(level <= start, p[:, None], 0.0)
    path = Path([], [], 1.0)
    error = p.copy()
    for _ in range(iterations):
        present = tail_plus + tail_minus  # P(|m| >= k)
        signed = tail_plus - tail_minus
        exponent = (low - 1)[:, None]
        both = []
        for value in (present, signed):
            a = np.sign(value) * np.abs(value) ** exponent
            both.append(a * (1 - weight_high[:, None]) + a * value * weight_high[:, None])
        at_least, sign = both
        mass = at_least - np.append(at_least[:, 1:], np.zeros((batch, 1)), axis=1)
        bias = sign - np.append(sign[:, 1:], np.zeros((batch, 1)), axis=1)
        plus, minus = np.maximum((mass + bias) / 2, 0), np.maximum((mass - bias) / 2, 0)
        llr = np.log((plus + 1e-15) / (minus + 1e-15)) * unit[:, None]
        table = np.clip(np.rint(llr), 0, TOP).astype(np.int64)
        table[:, 0] = 0
        table = np.minimum(np.maximum.accumulate(table, axis=1), level)
        if trace:
            u = (1 - abs(1 - 2 * error[0]) ** mean_check[0]) / 2
            path.unsatisfied.append(float(u))
            path.tables.append(table[0].astype(np.uint8))
        density = np.zeros((batch, FFT))
        rows = np.repeat(np.arange(batch), TOP + 1)
        np.add.at(density, (rows, table.ravel()), plus.ravel())
        np.add.at(density, (rows, (-table.ravel()) % FFT), minus.ravel())
        spectrum = np.fft.rfft(density)
        total = np.zeros_like(spectrum)
        for d in range(DEGREE_MOST, 1, -1):
            total = total * spectrum + edge[:, d : d + 1]
        out = np.fft.irfft(total * spectrum * channel, FFT)
        np.maximum(out, 0, out=out)
        out /= out.sum(axis=1, keepdims=True)
        positive = out[:, : FFT // 2]
        negative = np.append(np.zeros((batch, 1)), out[:, : FFT // 2 : -1], axis=1)
        zero = positive[:, 0] / 2
        tail_plus = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1][:, : TOP + 1].copy()
        tail_minus = np.cumsum(negative[:, ::-1], axis=1)[:, ::-1][:, : TOP + 1].copy()
        tail_plus[:, 0] -= zero
        tail_minus[:, 0] += zero
        error = tail_minus[:, 0]
        if (error < target).all():
            break
    path_out = Path(path.unsatisfied, path.tables, float(error[0]))
    return error, path_out


def thresholds(nodes: Floats, leak: float, low: float, high: float, iterations: int, steps: int = 7) -> Floats:
    """The largest p in [low, high] at which each distribution converges, by bisection of all at once (low if none)."""
    bottom, top = np.full(len(nodes), low), np.full(len(nodes), high)
    for _ in range(steps):
        middle = (bottom + top) / 2
        error, _ = evolve(nodes, leak, middle, iterations)
        good = error < 1e-6
        bottom, top = np.where(good, middle, bottom), np.where(good, top, middle)
    return bottom
