"""Abandoned reservations: both sites forget them, and their bytes can be drawn again.

Functions of a connection, run inside the store's transactions. The drawing site marks (`begin`), the other site forgets and
remembers that it did (`forget`), and only then the bytes come back (`end`). Each step may be repeated; an announcement that
was still on the way is refused by what `forget` left behind.
"""

from __future__ import annotations

import json

import sqlalchemy as sa

from qkdd.kms import allocations, chunks
from qkdd.kms.allocation import Allocation, Piece, from_row
from qkdd.kms.schema import ALLOCATIONS, RESERVED, RETURNED, VOIDING, AllocationState


def begin(connection: sa.Connection, peer: str, before: float, limit: int) -> list[Allocation]:
    """Give up reservations that no request has taken since `before` (service time); all that wait for `forget`."""
    connection.execute(
        ALLOCATIONS.update()
        .where(
            RESERVED,
            ALLOCATIONS.c.claimant.is_(None),
            ALLOCATIONS.c.peer == peer,
            ALLOCATIONS.c.created < before,
        )
        .values(state=AllocationState.VOIDING)
    )
    rows = connection.execute(sa.select(ALLOCATIONS).where(VOIDING, ALLOCATIONS.c.peer == peer).limit(limit))
    return [from_row(row) for row in rows]


def forget(connection: sa.Connection, peer: str, allocation_id: bytes, pieces: tuple[Piece, ...], now: float) -> bool:
    """The other site abandoned this draw. False if its bytes cannot be used again: someone may have been given them."""
    known = connection.execute(sa.select(ALLOCATIONS).where(ALLOCATIONS.c.id == allocation_id)).one_or_none()
    if known is not None and known.peer != peer:
        return False
    if known is not None and known.state == AllocationState.VOIDED:
        return True
    if known is None:
        rows = allocations.chunk_rows(connection, pieces)
        for chunk_id, start, stop in pieces:
            chunk = rows.get(chunk_id)
            if chunk is None or chunk.owner != peer or chunks.overlap(connection, chunk, start, stop):
                return False  # recorded here once and finished since
        _remember(connection, peer, allocation_id, now)
        return True
    if known.state != AllocationState.RECORDED or known.fetched:
        return False
    recorded = from_row(known)
    rows = allocations.chunk_rows(connection, recorded.pieces)
    for chunk_id, start, stop in recorded.pieces:
        chunks.unuse(connection, rows[chunk_id].row, start, stop)
        chunks.add_to_pool(connection, peer, peer, stop - start)
    connection.execute(ALLOCATIONS.delete().where(ALLOCATIONS.c.id == allocation_id))
    _remember(connection, peer, allocation_id, now)
    return True


def _remember(connection: sa.Connection, peer: str, allocation_id: bytes, now: float) -> None:
    connection.execute(
        ALLOCATIONS.insert().values(
            id=allocation_id,
            peer=peer,
            master="",
            slaves=json.dumps([]),
            key_bytes=0,
            amount=0,
            pieces=json.dumps([]),
            state=AllocationState.VOIDED,
            expected=0,
            fetched=0,
            created=now,
        )
    )


def end(connection: sa.Connection, own: str, peer: str, allocation: Allocation, reusable: bool) -> int:
    """What the other site said about an allocation that is `voiding`: bytes that came back to the pool. Idempotent."""
    state = connection.execute(sa.select(ALLOCATIONS.c.state).where(ALLOCATIONS.c.id == allocation.id)).scalar()
    if state != AllocationState.VOIDING:
        return 0
    if not reusable:
        allocations.finish(connection, allocation)
        return 0
    rows = allocations.chunk_rows(connection, allocation.pieces)
    size = 0
    for chunk_id, start, stop in allocation.pieces:
        chunks.unuse(connection, rows[chunk_id].row, start, stop)
        connection.execute(RETURNED.insert().values(row=rows[chunk_id].row, start=start, stop=stop, peer=peer))
        size += stop - start
    connection.execute(ALLOCATIONS.delete().where(ALLOCATIONS.c.id == allocation.id))
    if size:
        chunks.add_to_pool(connection, peer, own, size)
    return size
