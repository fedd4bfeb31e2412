"""How the rooms count: by name into a Meter that the composition root injects.

Names, units and help texts stand in one place, `qkdd.telemetry.catalogue`; its meter refuses a name that is not there. The
recording meter here is what a room gets when nobody listens (command-line tools) and what tests read.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

LabelKey = tuple[str, tuple[tuple[str, str], ...]]


class Meter(Protocol):
    """Counts, levels and distributions. Thread-safe."""

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Record one value of a histogram."""


class RecordingMeter:
    """Keeps everything in dictionaries keyed by (name, sorted labels)."""

    def __init__(self) -> None:
        self.counters: dict[LabelKey, float] = defaultdict(float)
        self.gauges: dict[LabelKey, float] = {}
        self.observations: dict[LabelKey, list[float]] = defaultdict(list)

    @staticmethod
    def _key(name: str, labels: dict[str, str]) -> LabelKey:
        return name, tuple(sorted(labels.items()))

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        self.counters[self._key(name, labels)] += value

    def set(self, name: str, value: float, **labels: str) -> None:
        self.gauges[self._key(name, labels)] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.observations[self._key(name, labels)].append(value)

    def total(self, name: str, **labels: str) -> float:
        """Sum of a counter over all label sets that contain `labels`."""
        wanted = set(labels.items())
        return sum(v for (n, key), v in self.counters.items() if n == name and wanted <= set(key))
