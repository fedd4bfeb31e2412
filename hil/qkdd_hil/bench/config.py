"""What a bench is made of, as TOML: `[line…]` (pairs) or `[pulsed…]` (pulses) is the physics, `[alice]` and `[bob]` say where
the instruments listen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from qkdd_drivers.qkdd_board.emission import WINDOW

from qkdd.core.config import Section
from qkdd.core.units import Fraction
from qkdd_hil.physics import LineParameters, PulsedParameters

CONTROL_PORT, COUNTS_PORT = 12000, 12345  # of the WebSQ, devices.md section 5


class InstrumentsConfig(Section, frozen=True):
    """Addresses of one side. Empty pty paths: a fresh one; port 0: any free port. board: of the transmitter, HOST:PORT;
    board_window: slots that it keeps in memory for a link that asks on demand.

    The count port of the detectors' controller is fixed by its vendor, so two on one machine need two addresses.
    """

    tagger: str = ""
    polarization: str = ""
    attenuator: str = ""
    board: str = "127.0.0.1:0"
    board_window: int = WINDOW
    detectors_host: str = "127.0.0.1"
    detectors_ports: tuple[int, int] = (CONTROL_PORT, COUNTS_PORT)


class BenchConfig(Section, frozen=True):
    """`protocol`: a source of pairs between two receivers, or a transmitter board and one receiver. `control`: path of the UNIX
    socket for faults and settings; empty: none. `seed`: of everything random, but not of what a board prepares.

    `bench`: lab1 has the same instruments on both sides; lab2 those of other makers (`qkdd_hil.bench.lab2`), for pairs only.
    `eve`: fraction of pairs or pulses that an eavesdropper intercepts and resends from the start; `pns`: she splits
    pulses of more than one photon and blocks the others instead.
    """

    seed: int = 1
    protocol: Literal["bbm92", "decoy_bb84"] = "bbm92"
    bench: Literal["lab1", "lab2"] = "lab1"
    eve: Fraction = Fraction(0.0)
    pns: bool = False
    control: str = ""
    line: LineParameters = LineParameters()
    pulsed: PulsedParameters = PulsedParameters()
    alice: InstrumentsConfig = InstrumentsConfig()
    bob: InstrumentsConfig = InstrumentsConfig(detectors_host="127.0.0.2")

    def check(self) -> Iterator[tuple[str, str, str]]:
        if self.bench == "lab2" and self.protocol != "bbm92":
            yield "bench", "lab2 is a bench for pairs", 'set protocol = "bbm92"'
        if not 1024 <= self.alice.board_window <= 1 << 30:
            yield "alice.board_window", "lies outside 1024 to 2^30", "some seconds of slots, for example 33554432"
        if self.pns and self.protocol != "decoy_bb84":
            yield "pns", "needs pulses to split", 'set protocol = "decoy_bb84"'
