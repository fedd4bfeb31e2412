"""Two-phase commit of a block between the two nodes, and its settlement after an interruption.

alice coordinates. Each side writes before it speaks: prepared → (decision) committed → tags verified → sealed. A block
becomes masks and key only after the tags; until then it is in doubt, and `settle` on the next session brings both sides to
the same end: a block that both hold is committed, a block that one side does not know (or voided) is voided.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from typing import Protocol

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.core.secret import Secret
from qkdd.keys.errors import BlockInconsistent, CommitInDoubt, CommitRefused
from qkdd.keys.masks import MaskPool
from qkdd.keys.messages import Commit, Committed, Prepare, Prepared, Settle, SettleStates
from qkdd.keys.schema import HELD, IN_DOUBT, BlockState
from qkdd.keys.spool import BlockRecord, Spool
from qkdd.peer import HASH_KEY_BYTES, MASK_BYTES, PeerAborted, PeerSession, ProtocolError

_LOG = log.get("keys")
_UNKNOWN = "unknown"
_MAX_IN_DOUBT = 64  # one at a time in practice; more is a peer that talks nonsense
_SURVIVES = {str(state) for state in (*IN_DOUBT, *HELD)}
_STATES = {*(str(state) for state in BlockState), _UNKNOWN}


class KeyBlock(Protocol):
    """What the committer needs of `qkdd.distill.blocks.DistilledBlock`."""

    @property
    def number(self) -> int: ...
    @property
    def key(self) -> Secret: ...
    @property
    def length(self) -> int: ...


_DETAILS = ("length", "proof", "sifted", "tolerated_error", "qber", "leak", "eps", "acquisition_s")


class Committer:
    """One per link. `on_accept` is called after each block that became key, for example to wake the hand-over."""

    def __init__(
        self,
        spool: Spool,
        masks: MaskPool,
        *,
        mask_target: int,
        meter: Meter,
        audit: AuditLog | None = None,
        on_accept: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._masks = masks
        self._target = mask_target
        self._meter = meter
        self._audit = audit
        self._on_accept = on_accept
        self._settled: bytes | None = None  # the session in which nothing is in doubt
        self._peer_last = 0

    async def commit(self, block: KeyBlock, session: PeerSession) -> BlockRecord:
        """Make `block` key on both nodes; returns the record of what now waits for the KMS. Wipes `block.key`.

        Raises CommitRefused, SpoolLimit, StorageFull, StorageFailed before anything is in doubt (abort the block with it),
        PeerAborted when the other side refused (nothing to do), and CommitInDoubt when the session must be closed.
        """
        if self._settled != session.session_id:
            raise CommitInDoubt("a block of an earlier session is not settled yet")
        try:
            if session.role == "alice":
                return await self._coordinate(block, session)
            return await self._follow(block, session)
        finally:
            block.key.wipe()

    async def _coordinate(self, block: KeyBlock, session: PeerSession) -> BlockRecord:
        key = _whole_bytes(block)
        first = self._masks.hash_key() is None
        masks = min(self._masks.needed(self._target), max(0, len(key) - HASH_KEY_BYTES * first) // (2 * MASK_BYTES))
        if first and not masks:
            raise CommitRefused(f"the first block has {len(key)} bytes, too few for a hash key and masks")
        sequence = max(await self._spool.last_sequence(), self._peer_last) + 1
        prepare = Prepare(
            sequence=sequence,
            block_id=uuid.UUID(bytes=secrets.token_bytes(16), version=4).bytes,
            number=block.number,
            size=len(key),
            first=first,
            masks=masks,
            masks_total=self._masks.total,
        )
        await self._prepare(prepare, key, block, session)
        key.wipe()
        self._settled = None
        try:
            await session.send(prepare)
            try:
                _expect(prepare, await session.receive(Prepared))
            except PeerAborted:
                await self._spool.void(prepare.block_id)  # bob aborts only before he wrote anything
                self._settled = session.session_id
                raise
            await self._spool.commit(prepare.block_id)
            await session.send(Commit(prepare.block_id))
            _expect(prepare, await session.receive(Committed))
            await session.seal("commit", block.number)
            return await self._accept(prepare.block_id, session)
        except QkddError as error:
            if self._settled is not None:
                raise
            raise self._in_doubt(prepare, error) from error

    async def _follow(self, block: KeyBlock, session: PeerSession) -> BlockRecord:
        prepare = await session.receive(Prepare)
        key = _whole_bytes(block)
        self._check(prepare, block, key, await self._spool.last_sequence())
        await self._prepare(prepare, key, block, session)
        key.wipe()
        self._settled = None
        try:
            await session.send(Prepared(prepare.block_id))
            _expect(prepare, await session.receive(Commit))
            await self._spool.commit(prepare.block_id)
            await session.send(Committed(prepare.block_id))
            await session.seal("commit", block.number)
            return await self._accept(prepare.block_id, session)
        except QkddError as error:
            raise self._in_doubt(prepare, error) from error

    def _check(self, prepare: Prepare, block: KeyBlock, key: Secret, last: int) -> None:
        first = self._masks.hash_key() is None
        head = HASH_KEY_BYTES * first + 2 * MASK_BYTES * prepare.masks
        for name, theirs, ours in (
            ("number", prepare.number, block.number),
            ("size", prepare.size, len(key)),
            ("first", prepare.first, first),
            ("masks_total", prepare.masks_total, self._masks.total),
            ("length of the id", len(prepare.block_id), 16),
        ):
            if theirs != ours:
                raise CommitRefused(f"the other node's {name} is {theirs}, ours is {ours}")
        if prepare.sequence <= last:
            raise CommitRefused(f"sequence {prepare.sequence} is not above {last}")
        if prepare.masks < 0 or head > len(key) or (first and not prepare.masks):
            raise CommitRefused(f"{prepare.masks} masks cannot be cut from {len(key)} bytes")

    async def _prepare(self, prepare: Prepare, key: Secret, block: KeyBlock, session: PeerSession) -> None:
        details: dict[str, str | float | int | None] = {
            name: getattr(block, name) for name in _DETAILS if hasattr(block, name)
        }
        await self._spool.prepare(
            sequence=prepare.sequence,
            block_id=prepare.block_id,
            number=prepare.number,
            key=key,
            first=prepare.first,
            masks=prepare.masks,
            details={**details, "auth": session.mode},
        )

    async def _accept(self, block_id: bytes, session: PeerSession) -> BlockRecord:
        record = await self._finish(block_id)
        self._settled = session.session_id
        return record

    async def _finish(self, block_id: bytes) -> BlockRecord:
        record = await self._spool.accept(block_id, self._masks.fill)
        await self._masks.refresh()
        self._meter.add("qkdd_keys_blocks_total", 1, outcome="accepted")
        self._write("block accepted", record)
        self._on_accept()
        return record

    def _in_doubt(self, prepare: Prepare, error: QkddError) -> CommitInDoubt:
        self._meter.add("qkdd_keys_blocks_total", 1, outcome="in-doubt")
        return CommitInDoubt(
            f"the commit of block {prepare.number} was interrupted: {error.message}",
            sequence=prepare.sequence,
            cause=error.code,
        )

    async def settle(self, session: PeerSession) -> list[BlockRecord]:
        """Bring every block in doubt on either side to the same end; call it first in each session.

        Returns the blocks that became key here. Raises BlockInconsistent when the two stores cannot belong together,
        ProtocolError when the other side's answers make no sense, and what the session and the spool raise.
        """
        mine = await self._spool.in_doubt()
        await session.send(Settle(await self._spool.last_sequence(), self._masks.total, tuple(r.id for r in mine)))
        theirs = await session.receive(Settle)
        if len(theirs.ids) > _MAX_IN_DOUBT or any(len(i) != 16 for i in theirs.ids):
            raise ProtocolError("the other node's list of blocks in doubt makes no sense")
        accepted: list[BlockRecord] = []
        if mine or theirs.ids:
            states = await self._spool.states(theirs.ids)
            await session.send(SettleStates(tuple(str(states.get(i, _UNKNOWN)) for i in theirs.ids)))
            answer = await session.receive(SettleStates)
            if len(answer.states) != len(mine) or not _STATES.issuperset(answer.states):
                raise ProtocolError("the other node's states of the blocks in doubt make no sense")
            await session.seal("settle", 0)
            verdicts = {record.id: state in _SURVIVES for record, state in zip(mine, answer.states, strict=True)}
            await self._compare(theirs, states, mine, verdicts)
            for record in mine:
                if verdicts[record.id]:
                    accepted.append(await self._finish(record.id))
                else:
                    await self._spool.void(record.id)
                    self._meter.add("qkdd_keys_blocks_total", 1, outcome="voided")
                    self._write("block voided", record)
        else:
            await self._compare(theirs, {}, [], {})
        self._peer_last = theirs.last_sequence
        self._settled = session.session_id
        return accepted

    async def _compare(
        self,
        theirs: Settle,
        states: dict[bytes, BlockState],
        mine: list[BlockRecord],
        verdicts: dict[bytes, bool],
    ) -> None:
        """Both pools must be equally full once both sides did what the settlement says, or the stores do not match."""
        known = {r.id: r for r in mine}
        if missing := [i for i in theirs.ids if i not in known and states.get(i) in HELD]:
            known |= {r.id: r for r in await self._spool.records(HELD) if r.id in missing}
        ours_after = self._masks.total + sum(r.masks for r in mine if verdicts[r.id])
        theirs_after = theirs.masks_total + sum(
            known[i].masks for i in theirs.ids if str(states.get(i, _UNKNOWN)) in _SURVIVES and i in known
        )
        if ours_after != theirs_after:
            raise BlockInconsistent(
                f"this node's blocks filled {ours_after} masks, the other node's {theirs_after}",
                ours=ours_after,
                theirs=theirs_after,
            )

    def _write(self, event: str, record: BlockRecord) -> None:
        fields: dict[str, str | int] = {"sequence": record.sequence, "chunk": record.chunk_id, "block": record.number}
        _LOG.info(event, **fields, bytes=record.bytes, masks=record.masks)
        if self._audit is not None:
            self._audit.write(event, **fields, bytes=record.bytes)


def _whole_bytes(block: KeyBlock) -> Secret:
    """The key without the last `length mod 8` bits, which fill no byte."""
    return Secret(block.key.reveal()[: block.length // 8])


def _expect(prepare: Prepare, answer: Prepared | Commit | Committed) -> None:
    if answer.block_id != prepare.block_id:
        raise ProtocolError("the other node answered for another block")
