"""The demonstration of BBM92: entangled pairs, a receiver on each side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qkdd_hil.demo.figures import Decoy
from qkdd_hil.demo.intensities import Sample
from qkdd_hil.demo.options import Options
from qkdd_hil.demo.variants.base import RECEIVER_LINK, SIDES, Outlook, receiver_addresses, receiver_devices
from qkdd_hil.physics import LineParameters, QuantumLine

WINDOW = "6 ns"
BLOCK = "5 s"


class Pairs:
    """Two receivers around a source of pairs."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def bench(self, sockets: Path) -> dict[str, Any]:
        tree: dict[str, Any] = {"seed": self._options.seed, "eve": self._options.intercepted}
        return tree | {side: receiver_addresses(side, sockets) for side in SIDES}

    def devices(self, side: str, instruments: Mapping[str, Any]) -> dict[str, Any]:
        del side  # both have the same
        return receiver_devices(instruments)

    def link(self, side: str) -> dict[str, Any]:
        del side
        options = self._options
        shared = {"block": options.block or BLOCK, "window": WINDOW, "qber_max": options.qber_max}
        return {**RECEIVER_LINK, "shared": shared}

    def outlook(self) -> Outlook:
        line = QuantumLine(LineParameters(), self._options.seed)
        line.setting.eve = self._options.intercepted
        qber = line.expected(6e-9).qber
        return Outlook(qber, self._options.forbids_key(qber), self._options.promises_key(qber))

    def decoy(self, outlook: Outlook, seen: Sequence[Sample]) -> Decoy | None:
        del outlook, seen
        return None
