"""Continuous health tests of a noise source: NIST SP 800-90B (January 2018), 4.4.1 and 4.4.2, on bits.

Repetition count: C = 1 + ceil(-log2(alpha) / H). Adaptive proportion: window W = 1024 for binary samples,
C = 1 + critbinom(W, 2^-H, 1 - alpha). alpha = 2^-30 (the recommended span is 2^-20 to 2^-40). A failure latches.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from qkdd_fwbridge.errors import SourceFailed

ALPHA_LOG2 = -30
WINDOW = 1024
STARTUP = 1024
"""Samples that must pass before the first one is used (start-up tests, 4.3)."""


def repetition_cutoff(entropy: float, alpha_log2: int = ALPHA_LOG2) -> int:
    """Equal samples in a row that fail the source. `entropy`: claimed min-entropy a bit, in (0, 1]."""
    _claim(entropy)
    return 1 + math.ceil(-alpha_log2 / entropy)


def proportion_cutoff(entropy: float, window: int = WINDOW, alpha_log2: int = ALPHA_LOG2) -> int:
    """Occurrences of the window's first sample (itself included) that fail the source; at most the window's size."""
    _claim(entropy)
    # isf, not ppf(1 - alpha): 1 - 2^-30 loses digits. critbinom = smallest k with P(X > k) <= alpha
    critical = int(stats.binom.isf(2.0**alpha_log2, window, 2.0**-entropy))
    return min(window, 1 + critical)


class HealthTest:
    """Feed every raw bit of the source, in order. entropy: claimed min-entropy a bit."""

    def __init__(self, entropy: float, window: int = WINDOW, alpha_log2: int = ALPHA_LOG2) -> None:
        self.repetition = repetition_cutoff(entropy, alpha_log2)
        self.proportion = proportion_cutoff(entropy, window, alpha_log2)
        self._window = window
        self._run_value, self._run = 2, 0
        self._pending = np.zeros(0, np.uint8)
        self.failure: str | None = None
        self.tested = 0

    def feed(self, bits: NDArray[np.uint8]) -> None:
        """bits: uint8[n], 0 or 1. Raises SourceFailed, from then on at every call."""
        if self.failure is None and len(bits):
            longest = self._longest_run(bits)
            if longest >= self.repetition:
                self.failure = f"repetition count: {longest} equal bits, cutoff {self.repetition}"
            elif (most := self._most_common(bits)) >= self.proportion:
                self.failure = f"adaptive proportion: {most} of {self._window} equal bits, cutoff {self.proportion}"
            self.tested += len(bits)
        if self.failure is not None:
            raise SourceFailed(self.failure)

    def _longest_run(self, bits: NDArray[np.uint8]) -> int:
        ends = np.flatnonzero(np.diff(bits)) + 1
        edges = np.concatenate(([0], ends, [len(bits)]))
        runs = np.diff(edges)
        if int(bits[0]) == self._run_value:
            runs[0] += self._run
        self._run_value, self._run = int(bits[-1]), int(runs[-1])
        return int(runs.max())

    def _most_common(self, bits: NDArray[np.uint8]) -> int:
        stream = np.concatenate((self._pending, bits))
        whole = len(stream) // self._window * self._window
        self._pending = stream[whole:].copy()
        if not whole:
            return 0
        windows = stream[:whole].reshape(-1, self._window)
        return int((windows == windows[:, :1]).sum(axis=1).max())


def _claim(entropy: float) -> None:
    if not 0.0 < entropy <= 1.0:
        raise ValueError(f"the claimed min-entropy of a bit lies in (0, 1], not at {entropy}")
