"""A small event generator for the link's tests: pairs, loss, jitter, two bad clocks. Seeded, nothing to do with the bench."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Side:
    """One node: efficiency of its arm, dark rate of all detectors together, clock and detectors' delays (s)."""

    efficiency: float = 0.2
    dark: float = 1e3
    offset: float = 0.0  # s: reading of the clock at true time zero
    error: float = 0.0  # relative frequency error
    delays: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    bin: float = 2e-9
    jitter: float = 0.3e-9


@dataclass
class Source:
    """A pair source of state phi+ between two nodes; `clicks(start, stop)` in true time gives both nodes' tags."""

    pairs: float = 2e6
    error: float = 0.01  # probability that bob's bit is wrong
    seed: int = 1
    alice: Side = field(default_factory=Side)
    bob: Side = field(default_factory=Side)
    dark_only: tuple[tuple[float, float], ...] = ()  # true times in which no pairs arrive

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def clicks(
        self, start: float, stop: float
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
        """(times, detectors) of alice, then of bob; int64 ps on each clock, sorted, for true times in [start, stop)."""
        rng = self._rng
        both = self.alice.efficiency * self.bob.efficiency
        parts: list[list[NDArray[np.float64]]] = [[], []]
        detectors: list[list[NDArray[np.uint8]]] = [[], []]
        count = rng.poisson(self.pairs * both * (stop - start))
        when = rng.uniform(start, stop, count)
        for low, high in self.dark_only:
            when = when[(when < low) | (when >= high)]
        count = len(when)
        bases = rng.integers(0, 2, (2, count))
        bits = rng.integers(0, 2, (2, count))
        same = bases[0] == bases[1]
        bits[1][same] = (bits[0] ^ (rng.random(count) < self.error))[same]
        for index, side in enumerate((self.alice, self.bob)):
            parts[index].append(when)
            detectors[index].append((2 * bases[index] + bits[index]).astype(np.uint8))
            other = self.bob if side is self.alice else self.alice
            lone = rng.poisson((self.pairs * side.efficiency * (1 - other.efficiency) + side.dark) * (stop - start))
            parts[index].append(rng.uniform(start, stop, lone))
            detectors[index].append(rng.integers(0, 4, lone).astype(np.uint8))
        result = []
        for index, side in enumerate((self.alice, self.bob)):
            true, which = np.concatenate(parts[index]), np.concatenate(detectors[index])
            stamped = (
                side.offset
                + true * (1 + side.error)
                + np.array(side.delays)[which]
                + rng.normal(0, side.jitter, len(true))
            )
            ticks = np.floor(stamped / side.bin).astype(np.int64) * round(side.bin * 1e12)
            order = np.argsort(ticks, kind="stable")
            result += [ticks[order], which[order]]
        return result[0], result[1], result[2], result[3]
