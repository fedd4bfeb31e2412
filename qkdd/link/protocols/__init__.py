"""How a device's stream becomes sifted bits: one `LinkProtocol` a protocol name."""

from __future__ import annotations

from qkdd.link.protocols.base import AliceEnd, BobEnd, LinkEnd, LinkProtocol, Opened, Setup, Source
from qkdd.link.protocols.pairs import Pairs
from qkdd.link.protocols.pulses import Pulses

PROTOCOLS: dict[str, LinkProtocol] = {"bbm92": Pairs(), "decoy_bb84": Pulses()}

__all__ = ["PROTOCOLS", "AliceEnd", "BobEnd", "LinkEnd", "LinkProtocol", "Opened", "Setup", "Source"]
