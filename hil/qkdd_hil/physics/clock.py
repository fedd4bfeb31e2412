"""A free-running clock in closed form: repeatable, and valid after any stretch that was skipped."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qkdd_hil.physics.parameters import ClockParameters

PS = 1e12


class FreeClock:
    """reading(t) = offset + t + error * t + integral of a sinusoidal wander of the error. Integer picoseconds."""

    def __init__(self, parameters: ClockParameters, rng: np.random.Generator) -> None:
        self._offset = round(parameters.offset * PS)
        self._error = parameters.frequency_error_ppm * 1e-6
        self._rate = 2 * math.pi / parameters.wander_period  # rad/s
        self._swing = parameters.wander_ppm * 1e-6 / self._rate  # s
        self._phase = float(rng.uniform(0.0, 2 * math.pi))

    @property
    def offset(self) -> int:
        """ps, at true time zero."""
        return self._offset

    def _deviation(self, true: int) -> float:
        """ps; a float is fine, it stays below 1e12 for days."""
        seconds = true / PS
        wander = self._swing * (math.cos(self._phase) - math.cos(self._rate * seconds + self._phase))
        return (self._error * seconds + wander) * PS

    def reading(self, true: int) -> int:
        """Reading (ps) at true time (ps)."""
        return true + self._offset + round(self._deviation(true))

    def true(self, reading: int) -> int:
        """True time at which the clock reads `reading`; exact to a few picoseconds."""
        guess = reading - self._offset
        for _ in range(3):
            guess = reading - self._offset - round(self._deviation(guess))
        return guess

    def stamp(self, times: NDArray[np.int64], begin: int, end: int) -> NDArray[np.int64]:
        """Readings of true `times` in or near [begin, end), a stretch short against the wander's period."""
        base, top = self.reading(begin), self.reading(end)
        slope = ((top - base) - (end - begin)) / (end - begin)
        since = times - begin
        readings: NDArray[np.int64] = since + (base + np.rint(since * slope).astype(np.int64))
        return readings
