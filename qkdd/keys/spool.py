"""Durable, sealed waiting room of blocks: each transition is on disk before anyone hears of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.database import Database
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.keys.errors import SpoolLimit, UnknownBlock
from qkdd.keys.schema import BLOCKS, CHUNKS, HELD, IN_DOUBT, WAITING, BlockState

_KEEP_FINISHED = 1000  # rows without key that stay for settling and for `qkdctl blocks`

Carve = Callable[[sa.Connection, memoryview], None]


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """What the spool knows of a block; never its key. `bytes` is the size of what it holds or held last."""

    sequence: int
    id: bytes
    number: int
    state: BlockState
    bytes: int
    first: bool
    masks: int
    details: dict[str, str | float | int | None]
    created: float
    target: str | None = None
    withdrawn: bool = False

    @property
    def chunk_id(self) -> str:
        """The UUID under which the block's key goes to the KMS, equal on both nodes."""
        return str(uuid.UUID(bytes=self.id))

    @property
    def auth_bytes(self) -> int:
        """Bytes at the head of the key that pay for authentication."""
        return 16 * self.first + 32 * self.masks


def _place(kind: str, sequence: int, block_id: bytes) -> str:
    return f"{kind}/{sequence}/{block_id.hex()}"


_COLUMNS = [c for c in BLOCKS.c if c.name != "sealed"]


def _record(row: sa.Row[tuple[object, ...]]) -> BlockRecord:
    values = dict(row._mapping)
    return BlockRecord(
        **{**values, "state": BlockState(values["state"]), "details": json.loads(values["details"])},
    )


def _erase(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> None:
    """The chunks of these blocks; the store overwrites what it deletes."""
    connection.execute(CHUNKS.delete().where(CHUNKS.c.sequence.in_(sa.select(BLOCKS.c.sequence).where(*which))))


class Spool:
    """States of a block: see `qkdd.keys.schema.BlockState`. All calls raise StorageFull or StorageFailed."""

    def __init__(
        self, database: Database, master: Secret, clock: Clock, meter: Meter, *, limit_bytes: int = 1 << 30
    ) -> None:
        self._database = database
        self._sealer = Sealer(master, "spool")
        self._clock = clock
        self._meter = meter
        self._limit = limit_bytes

    async def last_sequence(self) -> int:
        """Highest sequence number ever used here; 0 before the first block."""
        return await self._database.run(lambda c: c.execute(sa.select(sa.func.max(BLOCKS.c.sequence))).scalar() or 0)

    async def prepare(
        self,
        *,
        sequence: int,
        block_id: bytes,
        number: int,
        key: Secret,
        first: bool,
        masks: int,
        details: dict[str, str | float | int | None],
    ) -> None:
        """Store a block as `prepared`. Raises SpoolLimit when too much key waits for the KMS."""
        view = key.reveal()
        cut = min(16 * first + 32 * masks, len(view))
        head = self._sealer.seal(view[:cut], _place("block", sequence, block_id))
        chunk = self._sealer.seal(view[cut:], _place("chunk", sequence, block_id))
        created, limit = self._clock.wall(), self._limit

        def work(connection: sa.Connection) -> None:
            waiting = connection.execute(
                sa.select(sa.func.coalesce(sa.func.sum(BLOCKS.c.bytes), 0)).where(BLOCKS.c.state.in_(WAITING))
            ).scalar_one()
            if waiting + len(key) > limit:
                raise SpoolLimit(f"{waiting} bytes of key wait for the KMS, the limit is {limit}", waiting=waiting)
            connection.execute(
                BLOCKS.insert().values(
                    sequence=sequence,
                    id=block_id,
                    number=number,
                    state=BlockState.PREPARED,
                    bytes=len(key),
                    first=first,
                    masks=masks,
                    details=json.dumps(details, sort_keys=True),
                    created=created,
                    sealed=head,
                )
            )
            connection.execute(CHUNKS.insert().values(sequence=sequence, sealed=chunk))

        await self._database.run(work)

    async def commit(self, block_id: bytes) -> None:
        """`prepared → committed`: the decision; idempotent."""
        await self._move(block_id, (BlockState.PREPARED, BlockState.COMMITTED), BlockState.COMMITTED)

    async def accept(self, block_id: bytes, carve: Callable[[BlockRecord], Carve]) -> BlockRecord:
        """`prepared | committed → sealed`: the head of the key becomes masks, the rest waits for the KMS.

        `carve(record)` gives the function that stores the head's `auth_bytes` in the same transaction. A block that is
        all head goes straight to `released`.
        """

        def work(connection: sa.Connection) -> BlockRecord:
            row = connection.execute(sa.select(BLOCKS).where(BLOCKS.c.id == block_id)).one_or_none()
            if row is None or row.state not in IN_DOUBT:
                raise UnknownBlock(f"block {block_id.hex()} cannot be accepted", state=row.state if row else None)
            record = _record(connection.execute(sa.select(*_COLUMNS).where(BLOCKS.c.id == block_id)).one())
            key = self._sealer.open(row.sealed, _place("block", row.sequence, block_id))
            size = record.bytes - record.auth_bytes
            try:
                view = key.reveal()
                carve(record)(connection, view[: record.auth_bytes])
                if len(view) > record.auth_bytes:  # written whole, before there was a table of chunks
                    chunk = self._sealer.seal(view[record.auth_bytes :], _place("chunk", row.sequence, block_id))
                    connection.execute(CHUNKS.insert().values(sequence=row.sequence, sealed=chunk))
            finally:
                key.wipe()
            state = BlockState.SEALED if size else BlockState.RELEASED
            if not size:
                connection.execute(CHUNKS.delete().where(CHUNKS.c.sequence == row.sequence))
            connection.execute(
                BLOCKS.update().where(BLOCKS.c.id == block_id).values(state=state, sealed=None, bytes=size)
            )
            return BlockRecord(
                record.sequence,
                record.id,
                record.number,
                state,
                size,
                record.first,
                record.masks,
                record.details,
                record.created,
            )

        return await self._database.run(work)

    async def void(self, block_id: bytes) -> None:
        """`prepared | committed → voided`, key erased; idempotent, and an unknown block stays unknown."""

        def work(connection: sa.Connection) -> None:
            state = connection.execute(sa.select(BLOCKS.c.state).where(BLOCKS.c.id == block_id)).scalar()
            if state in HELD:
                raise UnknownBlock(f"block {block_id.hex()} is key already and cannot be voided", state=state)
            _erase(connection, BLOCKS.c.id == block_id)
            connection.execute(
                BLOCKS.update()
                .where(BLOCKS.c.id == block_id)
                .values(state=BlockState.VOIDED, sealed=None, bytes=0, masks=0)
            )

        await self._database.run(work)

    async def in_doubt(self) -> list[BlockRecord]:
        """Blocks that are prepared or committed, oldest first."""
        return await self.records(IN_DOUBT)

    async def waiting(self, limit: int, target: str | None = None) -> list[BlockRecord]:
        """The oldest blocks that the KMS has not acknowledged; with `target` only those that may go there."""
        query = sa.select(*_COLUMNS).where(BLOCKS.c.state.in_(WAITING), ~BLOCKS.c.withdrawn)
        if target is not None:
            query = query.where(sa.or_(BLOCKS.c.target.is_(None), BLOCKS.c.target == target))
        query = query.order_by(BLOCKS.c.sequence).limit(limit)
        return await self._database.run(lambda c: [_record(row) for row in c.execute(query)])

    async def elsewhere(self, target: str) -> dict[str, int]:
        """Chunks that were offered to others than `target` and not acknowledged there: place → how many."""
        query = (
            sa.select(BLOCKS.c.target, sa.func.count())
            .where(BLOCKS.c.state.in_(WAITING), BLOCKS.c.target.is_not(None), BLOCKS.c.target != target)
            .group_by(BLOCKS.c.target)
        )
        return await self._database.run(lambda c: {place: count for place, count in c.execute(query)})

    async def withdraw(self, target: str, ids: list[bytes]) -> list[BlockRecord]:
        """Give up those of `ids` that `target` has not acknowledged: erased here, to be voided there.

        Returns everything that is to be voided, durably: it is never offered again.
        """

        def work(connection: sa.Connection) -> list[BlockRecord]:
            mine = (BLOCKS.c.state == BlockState.OFFERED, BLOCKS.c.target == target)
            _erase(connection, *mine, BLOCKS.c.id.in_(ids))
            connection.execute(BLOCKS.update().where(*mine, BLOCKS.c.id.in_(ids)).values(withdrawn=True))
            query = sa.select(*_COLUMNS).where(*mine, BLOCKS.c.withdrawn).order_by(BLOCKS.c.sequence)
            return [_record(row) for row in connection.execute(query)]

        return await self._database.run(work)

    async def voided_there(self, block_id: bytes) -> None:
        """`offered → released` of a withdrawn chunk: nobody gets its keys any more who has not got them."""

        def work(connection: sa.Connection) -> None:
            connection.execute(
                BLOCKS.update().where(BLOCKS.c.id == block_id, BLOCKS.c.withdrawn).values(state=BlockState.RELEASED)
            )

        await self._database.run(work)

    async def records(self, states: Iterable[BlockState], limit: int = -1) -> list[BlockRecord]:
        """Blocks in one of `states`, oldest first."""
        query = sa.select(*_COLUMNS).where(BLOCKS.c.state.in_(list(states))).order_by(BLOCKS.c.sequence).limit(limit)
        return await self._database.run(lambda c: [_record(row) for row in c.execute(query)])

    async def recent(self, limit: int) -> list[BlockRecord]:
        """The newest blocks of any state, newest first."""
        query = sa.select(*_COLUMNS).order_by(BLOCKS.c.sequence.desc()).limit(limit)
        return await self._database.run(lambda c: [_record(row) for row in c.execute(query)])

    async def states(self, ids: Iterable[bytes]) -> dict[bytes, BlockState]:
        """States of those of `ids` that are known."""
        query = sa.select(BLOCKS.c.id, BLOCKS.c.state).where(BLOCKS.c.id.in_(list(ids)))
        return await self._database.run(lambda c: {row.id: BlockState(row.state) for row in c.execute(query)})

    async def offer(self, ids: list[bytes], target: str) -> list[tuple[BlockRecord, Secret]]:
        """`sealed → offered` for all of `ids`, durable before it returns their chunks (the intent precedes the sending).

        From then on they may be stored at `target`, and go nowhere else.
        """

        def work(connection: sa.Connection) -> list[tuple[BlockRecord, Secret]]:
            connection.execute(
                BLOCKS.update()
                .where(BLOCKS.c.id.in_(ids), BLOCKS.c.state == BlockState.SEALED)
                .values(state=BlockState.OFFERED)
            )
            connection.execute(
                BLOCKS.update()
                .where(BLOCKS.c.id.in_(ids), BLOCKS.c.state == BlockState.OFFERED, BLOCKS.c.target.is_(None))
                .values(target=target)
            )
            rows = connection.execute(
                sa.select(*_COLUMNS, CHUNKS.c.sealed)
                .join(CHUNKS, CHUNKS.c.sequence == BLOCKS.c.sequence)
                .where(
                    BLOCKS.c.id.in_(ids),
                    BLOCKS.c.state == BlockState.OFFERED,
                    BLOCKS.c.target == target,
                    ~BLOCKS.c.withdrawn,
                )
                .order_by(BLOCKS.c.sequence)
            ).all()
            found = []
            for row in rows:
                values = {k: v for k, v in row._mapping.items() if k != "sealed"}
                values |= {"state": BlockState.OFFERED, "details": json.loads(row.details)}
                found.append(
                    (BlockRecord(**values), self._sealer.open(row.sealed, _place("chunk", row.sequence, row.id)))
                )
            return found

        return await self._database.run(work)

    async def acknowledge(self, ids: list[bytes]) -> None:
        """`offered → acknowledged`: the KMS holds them durably."""
        for block_id in ids:
            await self._move(block_id, (BlockState.OFFERED, BlockState.ACKNOWLEDGED), BlockState.ACKNOWLEDGED)

    async def refuse(self, ids: list[bytes], *, fresh: bool = False) -> None:
        """`offered → sealed`: the KMS proved that this call stored nothing. fresh: it was the first, so nothing is there."""
        for block_id in ids:
            await self._move(block_id, (BlockState.OFFERED, BlockState.SEALED), BlockState.SEALED)
        if fresh:
            free = BLOCKS.update().where(BLOCKS.c.id.in_(ids), BLOCKS.c.state == BlockState.SEALED).values(target=None)
            await self._database.run(lambda c: c.execute(free).rowcount)

    async def release(self) -> int:
        """`acknowledged → released`, this node's copies erased; returns how many. Old finished rows go."""

        def work(connection: sa.Connection) -> int:
            done = BLOCKS.c.state == BlockState.ACKNOWLEDGED
            _erase(connection, done)
            count = connection.execute(BLOCKS.update().where(done).values(state=BlockState.RELEASED)).rowcount
            last = connection.execute(sa.select(sa.func.max(BLOCKS.c.sequence))).scalar() or 0
            connection.execute(
                BLOCKS.delete().where(
                    BLOCKS.c.sequence < last - _KEEP_FINISHED,
                    BLOCKS.c.state.in_([BlockState.RELEASED, BlockState.VOIDED]),
                )
            )
            return count

        return await self._database.run(work)

    async def totals(self) -> dict[str, tuple[int, int]]:
        """State → (blocks, bytes), for status and metrics."""
        query = sa.select(BLOCKS.c.state, sa.func.count(), sa.func.sum(BLOCKS.c.bytes)).group_by(BLOCKS.c.state)
        totals = await self._database.run(lambda c: {row[0]: (row[1], row[2]) for row in c.execute(query)})
        for state in (*IN_DOUBT, *WAITING):
            self._meter.set("qkdd_spool_bits", totals.get(state, (0, 0))[1] * 8, state=state)
        return totals

    async def _move(self, block_id: bytes, allowed: tuple[BlockState, ...], target: BlockState) -> None:
        def work(connection: sa.Connection) -> None:
            changed = connection.execute(
                BLOCKS.update().where(BLOCKS.c.id == block_id, BLOCKS.c.state.in_(allowed)).values(state=target)
            ).rowcount
            if changed != 1:
                state = connection.execute(sa.select(BLOCKS.c.state).where(BLOCKS.c.id == block_id)).scalar()
                raise UnknownBlock(f"block {block_id.hex()} cannot become {target}", state=state)

        await self._database.run(work)
