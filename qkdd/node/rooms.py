"""The rooms of one node, opened in order and closed in the reverse order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.sealing import load_master_key
from qkdd.core.zeroise import refuse_zeroised
from qkdd.keys import Committer, LedgerFile, MaskPool, Spool, node_store
from qkdd.node.config import NodeConfig
from qkdd.node.process import StateDirectory
from qkdd.peer.audit_key import CertificateSigner
from qkdd.peer.link import PeerLink
from qkdd.security.ledger import EpsilonLedger


@dataclass(slots=True)
class Rooms:
    """What is durable on a node, and the channel to the other one (not yet started)."""

    audit: AuditLog
    spool: Spool
    masks: MaskPool
    ledger: EpsilonLedger
    committer: Committer
    peer: PeerLink


async def open_rooms(
    config: NodeConfig, clock: Clock, meter: Meter, on_accept: Callable[[], None], stack: AsyncExitStack
) -> Rooms:
    """Lock the state directory and open the stores in it; `stack` closes what was opened.

    Raises Zeroised, StateInUse, CredentialError, StorageFailed, SealError.
    """
    refuse_zeroised(Path(config.node.state_directory))
    directory = StateDirectory(Path(config.node.state_directory))
    directory.acquire()
    stack.callback(directory.release)
    signer = CertificateSigner(Path(config.peer.certificate), Path(config.peer.key))
    audit = AuditLog(directory.path / "audit.log", clock, signer, config.node.audit_segment)
    stack.callback(audit.close)
    master = load_master_key(Path(config.node.master_key))
    store = node_store(directory.path / "keys.sqlite")
    await store.open()
    stack.push_async_callback(store.close)
    spool = Spool(store, master, clock, meter, limit_bytes=config.keys.spool_limit)
    masks = MaskPool(store, master)
    await masks.open()
    file = LedgerFile(store, master, config.link.name)
    ledger = await asyncio.to_thread(EpsilonLedger, file, now=clock.wall())
    committer = Committer(
        spool, masks, mask_target=config.keys.mask_target, meter=meter, audit=audit, on_accept=on_accept
    )
    peer = PeerLink(
        config.peer,
        role=config.link.role,
        local_id=config.node.id,
        link=config.link.name,
        shared=config.link.shared.canonical(),
        masks=masks,
        clock=clock,
        meter=meter,
    )
    stack.push_async_callback(peer.close)
    return Rooms(audit, spool, masks, ledger, committer, peer)
