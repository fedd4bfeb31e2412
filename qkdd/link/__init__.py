"""Link: one quantum link, from tag streams to sifted blocks, and the session that turns them into key."""

from qkdd.link.config import DETECTORS, LinkConfig, LinkShared
from qkdd.link.contract import Committer, Distiller, Ledger
from qkdd.link.status import BlockRecord, LinkEvent, LinkSnapshot, LinkState, LinkStatus

__all__ = [
    "DETECTORS",
    "BlockRecord",
    "Committer",
    "Distiller",
    "Ledger",
    "LinkConfig",
    "LinkEvent",
    "LinkShared",
    "LinkSnapshot",
    "LinkState",
    "LinkStatus",
]
