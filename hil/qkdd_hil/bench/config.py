"""What a bench is made of, as TOML: `[line…]` is the physics, `[alice]` and `[bob]` say where the instruments listen."""

from __future__ import annotations

from qkdd.core.config import Section
from qkdd.core.units import Fraction
from qkdd_hil.physics import LineParameters

CONTROL_PORT, COUNTS_PORT = 12000, 12345  # of the WebSQ, devices.md section 5


class InstrumentsConfig(Section, frozen=True):
    """Addresses of one side. Empty pty paths: a fresh one; port 0: any free port.

    The count port of the detectors' controller is fixed by its vendor, so two on one machine need two addresses.
    """

    tagger: str = ""
    polarization: str = ""
    detectors_host: str = "127.0.0.1"
    detectors_ports: tuple[int, int] = (CONTROL_PORT, COUNTS_PORT)


class BenchConfig(Section, frozen=True):
    """`control`: path of the UNIX socket for faults and settings; empty: none. `seed`: of everything random.
    `eve`: fraction of pairs that an eavesdropper intercepts from the start."""

    seed: int = 1
    eve: Fraction = Fraction(0.0)
    control: str = ""
    line: LineParameters = LineParameters()
    alice: InstrumentsConfig = InstrumentsConfig()
    bob: InstrumentsConfig = InstrumentsConfig(detectors_host="127.0.0.2")
