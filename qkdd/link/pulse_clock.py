"""A transmitter's clock from a receiver's clicks alone.

Clicks that come with pulses have nearly one phase modulo the pulse period; a period that is wrong by delta turns the phase by
delta·rate a second. So the mean phasor of short pieces is a tone at that frequency, and the largest line of its spectrum is the
clock error. The pieces are short enough that a clock off by the most that is allowed does not turn visibly within one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

_OVERSAMPLING = 4  # pieces in a turn of the phase at the largest clock error
_PADDING = 4
_SPANS = (0.02, 0.05, 0.2, 1.0, 4.0)  # seconds that are tried; the shorter, the less a drifting clock smears the line
_CLICKS_MIN = 300
_FALSE_ALARM = 1e-9


@dataclass(frozen=True, slots=True)
class PulseClock:
    """A slot's centre is where (t - origin_ps)·rate + phase is whole. rate: slots a ps. contrast: 0 (no pulses) to 1."""

    origin_ps: int
    phase: float
    rate: float
    contrast: float


def recover(times: NDArray[np.int64], slot_ps: float, clock_error: float) -> PulseClock | None:
    """The clock at the middle of a stretch; None when no period stands out.

    times: int64[n] ps, sorted, of all detectors. slot_ps: nominal period. clock_error: largest relative error of it.
    """
    if len(times) < _CLICKS_MIN:
        return None
    middle = int(times[len(times) // 2])
    for span in _SPANS:
        half = round(span * 5e11)
        low, high = np.searchsorted(times, (middle - half, middle + half))
        if high - low >= _CLICKS_MIN and (found := _line(times[low:high], slot_ps, clock_error)) is not None:
            return found
        if low == 0 and high == len(times):
            break
    return None


def _line(times: NDArray[np.int64], slot_ps: float, clock_error: float) -> PulseClock | None:
    origin = int((times[0] + times[-1]) // 2)
    since = (times - origin).astype(np.float64)
    rate = 1.0 / slot_ps
    turns = np.exp(2j * np.pi * np.modf(since * rate)[0])
    piece = slot_ps / (2 * _OVERSAMPLING * clock_error)
    first = since[0]
    index = ((since - first) / piece).astype(np.int64)
    count = int(index[-1]) + 1
    phasors = np.bincount(index, turns.real, count) + 1j * np.bincount(index, turns.imag, count)
    size = fft.next_fast_len(_PADDING * max(count, 16))
    # a rate that is too low by f slots a ps turns the phasors by +f: look at |f| <= clock_error·rate
    spectrum = np.abs(fft.fft(phasors, size)) ** 2
    frequency = fft.fftfreq(size, piece)
    allowed = np.abs(frequency) <= clock_error * rate * 1.05 + 1.0 / (size * piece)
    spectrum[~allowed] = 0.0
    best = int(np.argmax(spectrum))
    power = float(spectrum[best]) / len(times)  # exponentially distributed with mean 1 if there are no pulses
    if power < math.log(max(1, int(allowed.sum())) / _FALSE_ALARM):
        return None
    before, after = float(spectrum[best - 1]), float(spectrum[(best + 1) % size])
    bend = before - 2 * float(spectrum[best]) + after
    shift = (
        0.0 if bend == 0.0 or not allowed[best - 1] or not allowed[(best + 1) % size] else 0.5 * (before - after) / bend
    )
    f = float(frequency[best]) + shift / (size * piece)
    for _ in range(2):  # the phases of the two halves say what is left
        turned = turns * np.exp(-2j * np.pi * f * since)
        halves = [turned[since < 0], turned[since >= 0]]
        if min(map(len, halves)) == 0:
            break
        left = float(np.angle(np.sum(halves[1]) * np.conj(np.sum(halves[0])))) / (2 * math.pi)
        f += left / float(np.mean(since[since >= 0]) - np.mean(since[since < 0]))
    mean = complex(np.sum(turns * np.exp(-2j * np.pi * f * since)))
    # clicks lie at since·rate = f·since + angle; the model subtracts both
    return PulseClock(origin, -float(np.angle(mean)) / (2 * math.pi), rate - f, abs(mean) / len(times))
