"""The demonstration of BBM92 on the second bench: other makers' instruments on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkdd_hil.bench.lab2 import ID120_NAMES, LEAST_DB, NOMINAL_BIAS_V
from qkdd_hil.demo.variants.base import SIDES, receiver_addresses, receiver_devices
from qkdd_hil.demo.variants.pairs import Pairs


class Lab2(Pairs):
    """MultiHarp, ID120, EPC-400 and DD-100 at Alice; TDC2, WebSQ and MPC320 at Bob."""

    def bench(self, sockets: Path) -> dict[str, Any]:
        tree = super().bench(sockets) | {"bench": "lab2"}
        for side in SIDES:
            tree[side] = {k: v for k, v in receiver_addresses(side, sockets).items() if k != "tagger"}
        tree["alice"]["attenuator"] = sockets / "alice-attenuator"
        return tree

    def devices(self, side: str, instruments: Mapping[str, Any]) -> dict[str, Any]:
        if side == "bob":
            devices = receiver_devices({**instruments, "tagger": {"port": ""}})
            return devices | {"tagger": {"driver": "s15_tdc2", **_where(instruments["tagger"])}}
        settings = {"cooler": True, "temperature": "-40 degC", "bias_voltage": f"{NOMINAL_BIAS_V:g} V"}
        id120 = {"driver": "idq_id120", "settings": settings}
        return {
            "tagger": {"driver": "picoquant_multiharp", **_where(instruments["tagger"])},
            "polarization": {"driver": "ozoptics_epc400", **_where(instruments["polarization"])},
            "attenuator": {
                "driver": "ozoptics_dd100",
                **_where(instruments["attenuator"]),
                "settings": {"attenuation": f"{LEAST_DB:g} dB"},  # it opens dark
            },
            **{name: id120 | _where(instruments[name]) for name in ID120_NAMES},
        }

    def link(self, side: str) -> dict[str, Any]:
        link = super().link(side)
        if side == "alice":  # a MultiHarp's input 0 is its sync input
            link["channels"] = {"H": 1, "V": 2, "D": 3, "A": 4}
        return link


def _where(address: Mapping[str, Any]) -> dict[str, Any]:
    """What a device's section says about its place."""
    found = {way: address[way] for way in ("port", "library", "program", "python") if address.get(way)}
    options = dict(address.get("options") or ())
    return found | ({"options": options} if options else {})
