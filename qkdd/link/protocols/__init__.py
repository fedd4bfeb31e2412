"""How events become sifted bits: one module a protocol, each a `SiftProtocol`."""

from __future__ import annotations

from qkdd.link.protocols.base import SiftedRounds, SiftProtocol, SiftTask
from qkdd.link.protocols.bbm92 import Bbm92

PROTOCOLS: dict[str, SiftProtocol] = {"bbm92": Bbm92()}

__all__ = ["PROTOCOLS", "SiftProtocol", "SiftTask", "SiftedRounds"]
