"""What the demonstration was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SHOR_PRESKILL = 0.11  # no one-way bound gives key above this error rate
DEFAULT_QBER_MAX = 0.05
FIRST_KEY_DEADLINE = 120.0  # s; 30 s is the promise, a slow machine shall still show what it can
REFUSALS_THAT_END = 3


BenchName = Literal["lab1", "lab2"]
ProtocolName = Literal["bbm92", "decoy_bb84"]
Adversary = Literal["none", "intercept", "pns"]
SymbolsWay = Literal["stream", "on-demand"]


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds`: keep going so long from the daemons' start; None: end when the key is there. `block` (pairs) and
    `block_pulses`: None for the variant's own. `pulse_rate`: in Hz.
    `symbols`: how alice's node learns what her board prepared."""

    seconds: float | None = None
    json: Path | None = None
    eve: float = 0.0
    qber_max: float = DEFAULT_QBER_MAX
    hold: bool = False
    seed: int = 1
    directory: Path | None = None
    live: bool = True
    block: str | None = None
    redelivery_window: str = "5 s"
    bench: BenchName = "lab1"
    protocol: ProtocolName = "bbm92"
    adversary: Adversary = "none"
    pulse_rate: float = 10e6
    block_pulses: int | None = None
    symbols: SymbolsWay = "stream"

    def problem(self) -> str | None:
        """Why these options make no run; None if they do."""
        if self.adversary == "pns" and self.protocol != "decoy_bb84":
            return "--adversary pns splits pulses of more than one photon: it needs --protocol decoy_bb84"
        if self.bench == "lab2" and self.protocol != "bbm92":
            return "--bench lab2 is a bench for pairs: it needs --protocol bbm92"
        if self.symbols != "stream" and self.protocol != "decoy_bb84":
            return "--symbols says how a transmitter tells what it prepared: it needs --protocol decoy_bb84"
        if self.adversary == "pns" and self.eve:
            return "--adversary pns and --eve are two adversaries; choose one"
        return None

    @property
    def intercepted(self) -> float:
        """Fraction of pairs or pulses that are intercepted and resent."""
        return (self.eve or 1.0) if self.adversary == "intercept" else self.eve

    def forbids_key(self, expected_qber: float) -> bool:
        """Whether a single delivered key would be a failure: the line's error rate is above what may be tolerated."""
        return expected_qber > min(self.qber_max, SHOR_PRESKILL)

    def promises_key(self, expected_qber: float) -> bool:
        """Whether key must come. Between the two (a noisy line below the limit) either outcome is honest."""
        return expected_qber < 0.7 * self.qber_max and expected_qber < 0.05
