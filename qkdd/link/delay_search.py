"""The absolute number of a slot: a receiver's detections against an opened stretch of symbols.

The symbols (basis, bit, intensity) of consecutive slots are known; the detections have slot numbers that are right but for one
constant. Detections in the right place agree with the bits of their basis, and come more often at bright pulses. Both are
correlated over all shifts by FFT; to search far with many detections, windows of the detections are laid over each other
first, and the best places are told apart one by one. The agreement may also be disagreement (a polarization that is turned by a
quarter), and without any, the intensities alone still show the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

SYMBOL_ABSENT = 255  # no pulse in this slot
_ENOUGH = 8.0  # standard deviations: chance makes such a peak once in 10^15 shifts
_FOLD_SCORE = 12.0  # what a fold is to leave of the peak
_PER_DETECTION = 0.3  # standard deviations that a detection adds to the square root, by experience the least
_CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class Weights:
    """What a symbol says about a detection: +1 or -1 for the bit in each basis, and how much brighter than the mean it is."""

    z: NDArray[np.float32]
    x: NDArray[np.float32]
    light: NDArray[np.float32]

    @classmethod
    def of(cls, symbols: NDArray[np.uint8], mu: tuple[float, ...]) -> Weights:
        """symbols: uint8[n], basis << 3 | bit << 2 | intensity, or SYMBOL_ABSENT."""
        here = symbols != SYMBOL_ABSENT
        known = np.where(here, symbols, 0)
        brightness = np.zeros(4, np.float32)
        brightness[: len(mu)] = mu
        mean = brightness[known & 3]
        sign = (1.0 - 2.0 * ((known >> 2) & 1)) * mean / max(mu) * here
        basis = known >> 3
        light = np.where(here, mean, 0.0)
        return cls(
            np.where(basis == 0, sign, 0).astype(np.float32),
            np.where(basis == 1, sign, 0).astype(np.float32),
            (light - light.mean()).astype(np.float32),
        )


def find_first(
    slots: NDArray[np.int64],
    detectors: NDArray[np.uint8],
    symbols: NDArray[np.uint8],
    mu: tuple[float, ...],
    centre: int,
    reach: int,
) -> int | None:
    """Where the first opened symbol lies in the receiver's own count of slots, within centre ± reach; None if nowhere.

    slots: int64[n] rising. detectors: uint8[n], 0 to 3 (H V D A), events of one detector only. symbols: uint8[length].
    Needs the detections from centre - reach to centre + reach + length.
    """
    weights = Weights.of(symbols, mu)
    length = len(symbols)
    low, high = np.searchsorted(slots, (centre - reach, centre + reach + length))
    slots, detectors = slots[low:high], detectors[low:high]
    if len(slots) < 16:
        return None
    if 2 * reach + 1 <= 256:
        scores = [
            (_score(slots, detectors, weights, place), place) for place in range(centre - reach, centre + reach + 1)
        ]
        score, place = max(scores)
        return place if score >= _ENOUGH else None
    size = 1 << max(12, math.ceil(math.log2(min(4 * length, length + 2 * reach + 1))))
    step = size - length  # shifts that one transform covers
    per_window = len(slots) * length / (2 * reach + length)
    group = max(1, int(per_window * (_PER_DETECTION / _FOLD_SCORE) ** 2))
    spectra = [fft.rfft(w, size) for w in (weights.z, weights.x, weights.light)]
    for windows in _outwards(centre, reach, step, group):
        folded = np.zeros((3, size), np.float32)
        for start in windows:
            a, b = np.searchsorted(slots, (start, start + size))
            at, which = slots[a:b] - start, detectors[a:b]
            sign = 1.0 - 2.0 * (which & 1)
            for channel, values in enumerate((sign * (which < 2), sign * (which >= 2), np.ones(len(at)))):
                folded[channel] += np.bincount(at, values, size)
        z, x, light = (fft.irfft(fft.rfft(f) * np.conj(s), size)[:step] for f, s in zip(folded, spectra, strict=True))
        marks = np.hypot(_standard(z + x), np.maximum(_standard(light), 0.0))
        for offset in np.argpartition(marks, -_CANDIDATES)[-_CANDIDATES:]:
            score, place = max(
                (_score(slots, detectors, weights, start + int(offset)), start + int(offset)) for start in windows
            )
            if score >= _ENOUGH and abs(place - centre) <= reach:
                return place
    return None


def _outwards(centre: int, reach: int, step: int, group: int) -> Iterator[list[int]]:
    """Starts of windows of `step` shifts that cover centre ± reach, the near ones first, `group` at a time."""
    count = -(-(2 * reach + 1) // step)
    starts = sorted((centre - reach + i * step for i in range(count)), key=lambda s: abs(s + step // 2 - centre))
    for i in range(0, count, group):
        yield starts[i : i + group]


def _standard(values: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 0 else values


def _score(slots: NDArray[np.int64], detectors: NDArray[np.uint8], weights: Weights, place: int) -> float:
    """Standard deviations by which detections fit symbols that begin at `place`; about 1 by chance."""
    a, b = np.searchsorted(slots, (place, place + len(weights.z)))
    at, which = slots[a:b] - place, detectors[a:b]
    if len(at) < 16:
        return 0.0
    sign = np.where(which & 1, -1.0, 1.0)
    agree = np.where(which < 2, weights.z[at], weights.x[at]) * sign
    light = weights.light[at]
    spread = [float(np.sqrt(np.sum(agree**2))), float(np.std(weights.light)) * math.sqrt(len(at))]
    marks = [
        abs(float(agree.sum())) / spread[0] if spread[0] else 0.0,
        max(0.0, float(light.sum())) / spread[1] if spread[1] else 0.0,
    ]
    return math.hypot(*marks)
