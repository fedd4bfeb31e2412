"""What an opened stretch of pulses tells: detections and errors by intensity, and the error rates of the two bases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd.link.delay_search import SYMBOL_ABSENT


@dataclass(frozen=True, slots=True)
class OpenedPulses:
    """Counts of an opened stretch. sent, detected: by intensity, all bases. bits, errors: by intensity and basis (Z, X), where
    both nodes had the same. matrix: rows what alice sent (H V D A), columns bob's detectors."""

    sent: tuple[int, ...]
    detected: tuple[int, ...]
    bits: tuple[tuple[int, int], ...]
    errors: tuple[tuple[int, int], ...]
    matrix: tuple[tuple[int, ...], ...]

    @property
    def key_bits(self) -> int:
        """In the key basis, all intensities."""
        return sum(z for z, _ in self.bits)

    @property
    def key_errors(self) -> int:
        return sum(z for z, _ in self.errors)

    @property
    def gains(self) -> tuple[float, ...]:
        """Detections a pulse, by intensity."""
        return tuple(d / s if s else 0.0 for d, s in zip(self.detected, self.sent, strict=True))

    @property
    def error_rates(self) -> tuple[float, ...]:
        """Errors a bit, by intensity, both bases; 0.5 where there are no bits."""
        return tuple(sum(e) / sum(b) if sum(b) else 0.5 for b, e in zip(self.bits, self.errors, strict=True))

    @property
    def basis_rates(self) -> tuple[float, float]:
        """Error rates of the signals in Z and X; 0.5 without bits."""
        (z, x), (ez, ex) = self.bits[0], self.errors[0]
        return ez / z if z else 0.5, ex / x if x else 0.5

    @property
    def error_rate(self) -> float:
        """What a calibration searches by: both bases count alike, however rare one is."""
        return sum(self.basis_rates) / 2


def opened_pulses(
    symbols: NDArray[np.uint8], at: NDArray[np.int64], detectors: NDArray[np.uint8], levels: int
) -> OpenedPulses:
    """symbols: uint8[length] of all opened slots. at: int64[n] detected slots of it. detectors: uint8[n], 0 to 3."""
    sent = np.bincount(symbols[symbols != SYMBOL_ABSENT] & 3, minlength=4)[:levels]
    prepared = symbols[at]
    here = prepared != SYMBOL_ABSENT
    prepared, detectors = prepared[here], detectors[here]
    level, basis, bit = prepared & 3, prepared >> 3, (prepared >> 2) & 1
    detected = np.bincount(level, minlength=4)[:levels]
    same = basis == detectors >> 1
    wrong = same & (bit != (detectors & 1))
    by = 2 * level.astype(np.int64) + basis
    bits = np.bincount(by[same], minlength=8).reshape(4, 2)[:levels]
    errors = np.bincount(by[wrong], minlength=8).reshape(4, 2)[:levels]
    matrix = np.bincount(4 * (2 * basis.astype(np.int64) + bit) + detectors, minlength=16).reshape(4, 4)
    pairs = [tuple((int(z), int(x)) for z, x in table.tolist()) for table in (bits, errors)]
    return OpenedPulses(
        tuple(sent.tolist()),
        tuple(detected.tolist()),
        pairs[0],
        pairs[1],
        tuple(tuple(row) for row in matrix.tolist()),
    )
