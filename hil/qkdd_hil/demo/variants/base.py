"""What the demonstration has to know about a variant, and the parts that variants share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from qkdd_hil.bench.config import CONTROL_PORT, COUNTS_PORT
from qkdd_hil.demo.figures import Decoy, ExpectedIntensity
from qkdd_hil.demo.intensities import Sample
from qkdd_hil.demo.ports import is_free

SIDES = ("alice", "bob")
DETECTOR_HOSTS = {"alice": "127.0.0.1", "bob": "127.0.0.2"}


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the closed forms say about a run before it begins.

    qber: error rate of the line. forbidden: a single delivered key would be a failure. promised: key must come; neither: both
    outcomes are honest. secret_bits_per_s: None where no figure can be given. proof, label: the mode, and what has to be shown
    with every length of it. words: for the terminal. intensities: of a decoy line, else empty. blocks: a run without an end of
    its own goes on until so many were accepted, so that its rate says something.
    """

    qber: float
    forbidden: bool
    promised: bool
    secret_bits_per_s: float | None = None
    proof: str = ""
    label: str = ""
    words: str = ""
    intensities: tuple[ExpectedIntensity, ...] = field(default=())
    blocks: int = 0


class Variant(Protocol):
    """One bench with two nodes. `sockets`: folder for whatever the instruments listen at."""

    def bench(self, sockets: Path) -> dict[str, Any]:
        """Tree of bench.toml, without the control socket."""

    def devices(self, side: str, instruments: Mapping[str, Any]) -> dict[str, Any]:
        """Tree `devices` of a node, for the instruments at the addresses that the bench printed."""

    def link(self, side: str) -> dict[str, Any]:
        """Tree `link` of a node, without name and role."""

    def outlook(self) -> Outlook: ...

    def decoy(self, outlook: Outlook, seen: Sequence[Sample]) -> Decoy | None:
        """Figures by intensity from what was seen after each block; None without pulses."""


def receiver_addresses(side: str, sockets: Path) -> dict[str, Any]:
    """Where a receiver's instruments listen. The detectors' controllers take their vendor's ports when they are free."""
    host = DETECTOR_HOSTS[side]
    vendor = (CONTROL_PORT, COUNTS_PORT)
    usual = all(is_free(host, port) for port in vendor)
    return {
        "tagger": sockets / f"{side}-tagger",
        "polarization": sockets / f"{side}-polarization",
        "detectors_host": host,
        "detectors_ports": vendor if usual else (0, 0),
    }


def receiver_devices(instruments: Mapping[str, Any]) -> dict[str, Any]:
    """Devices of a node with tagger, detectors and polarization controller."""
    return {
        "tagger": {"driver": "s15_tdc1", "port": instruments["tagger"]["port"]},
        "detectors": {
            "driver": "single_quantum_websq",
            "host": instruments["detectors"]["host"],
            "tcp_ports": instruments["detectors"]["tcp_ports"],
            "settings": {"bias_current": ["20 uA"] * 4, "enabled": True},  # a clean stop takes the bias to zero
        },
        "polarization": {"driver": "thorlabs_mpc320", "port": instruments["polarization"]["port"]},
    }


RECEIVER_LINK: dict[str, Any] = {
    "tagger": "tagger",
    "detectors": "detectors",
    "polarization": "polarization",
    "channels": {"H": 0, "V": 1, "D": 2, "A": 3},
}
