"""Keys: where a block that both nodes accepted becomes masks and key, waits durably and goes to the KMS."""

from qkdd.keys.committer import Committer
from qkdd.keys.config import KeysConfig
from qkdd.keys.handover import HandOver, tls_profile
from qkdd.keys.ledger_file import LedgerFile
from qkdd.keys.masks import MaskPool
from qkdd.keys.schema import BlockState, node_store
from qkdd.keys.spool import BlockRecord, Spool

__all__ = [
    "BlockRecord",
    "BlockState",
    "Committer",
    "HandOver",
    "KeysConfig",
    "LedgerFile",
    "MaskPool",
    "Spool",
    "node_store",
    "tls_profile",
]
