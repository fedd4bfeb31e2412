"""What the demonstration was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHOR_PRESKILL = 0.11  # no one-way bound gives key above this error rate
DEFAULT_QBER_MAX = 0.05
FIRST_KEY_DEADLINE = 120.0  # s; 30 s is the promise, a slow machine shall still show what it can
REFUSALS_THAT_END = 3


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds`: keep going so long from the daemons' start; None: end when the key is there."""

    seconds: float | None = None
    json: Path | None = None
    eve: float = 0.0
    qber_max: float = DEFAULT_QBER_MAX
    hold: bool = False
    seed: int = 1
    directory: Path | None = None
    live: bool = True
    block: str = "5 s"
    redelivery_window: str = "5 s"

    def forbids_key(self, expected_qber: float) -> bool:
        """Whether a single delivered key would be a failure: the line's error rate is above what may be tolerated."""
        return expected_qber > min(self.qber_max, SHOR_PRESKILL)

    def promises_key(self, expected_qber: float) -> bool:
        """Whether key must come. Between the two (a noisy line below the limit) either outcome is honest."""
        return expected_qber < 0.7 * self.qber_max and expected_qber < 0.05
