"""Abandoned reservations: both sites forget them, and their bytes can be drawn again.

Functions of a connection, run inside the store's transactions. The drawing site marks (`begin`), the other site forgets and
remembers that it did (`forget`), and only then the bytes come back (`end`). Each step may be repeated; an announcement that
was still on the way is refused by what `forget` left behind.

The same with the rest of a lease, keys `kept` and following of a draw, of which the first ones were given out: `give_back` marks
it, the other site takes the rest off what it recorded (`shorten`), then `end`. While a rest is `voiding` its row has the draw's
id, and in `fetched` the number `kept`.
"""

from __future__ import annotations

import json
from dataclasses import replace

import sqlalchemy as sa

from qkdd.kms import allocations, chunks
from qkdd.kms.allocation import Allocation, Piece, from_row, parted
from qkdd.kms.schema import ALLOCATIONS, DELIVERIES, RESERVED, RETURNED, VOIDING, AllocationState


def begin(connection: sa.Connection, peer: str, before: float, limit: int) -> list[tuple[Allocation, int]]:
    """Give up reservations that no request has taken since `before` (service time); all that wait for `forget` (0) or, with the
    number of keys that were kept, for `shorten`."""
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
    return [(from_row(row), row.fetched) for row in rows]


def give_back(connection: sa.Connection, draw: Allocation, kept: int) -> bool:
    """Keys `kept` and following of a delivered draw were given to nobody and never will be: mark them. False where the draw was
    revoked, or an application of this site is to fetch its keys; then they stay used."""
    known = connection.execute(sa.select(ALLOCATIONS).where(ALLOCATIONS.c.id == draw.id)).one_or_none()
    if known is None or known.state != AllocationState.DELIVERED or known.expected:
        return False
    head, rest = parted(draw.pieces, kept * draw.key_bytes)
    rows = allocations.chunk_rows(connection, draw.pieces)
    for chunk_id, start, stop in rest:
        chunks.part(connection, rows[chunk_id].row, start, stop)
    values = {
        "amount": draw.amount - kept,
        "pieces": json.dumps(rest),
        "state": AllocationState.VOIDING,
        "fetched": kept,
    }
    connection.execute(ALLOCATIONS.update().where(ALLOCATIONS.c.id == draw.id).values(**values))
    whole = set(draw.pieces)
    if given := [rows[piece[0]].row for piece in head if piece in whole]:  # of one in two parts the rest keeps it open
        chunks.close(connection, given)
    return True


def shorten(
    connection: sa.Connection, peer: str, draw: bytes, kept: int, pieces: tuple[Piece, ...], now: float, window: float
) -> bool:
    """The other site gave nobody the keys `kept` and following of this draw, which are `pieces`. False if their bytes cannot be
    used again: a slave has been given one of them, or the draw is over here."""
    known = connection.execute(sa.select(ALLOCATIONS).where(ALLOCATIONS.c.id == draw)).one_or_none()
    if known is not None and known.amount > kept:
        recorded = from_row(known)
        head, rest = parted(recorded.pieces, kept * recorded.key_bytes)
        taken = (
            sa.select(DELIVERIES.c.number)
            .where(DELIVERIES.c.allocation == draw, DELIVERIES.c.number + DELIVERIES.c.amount > kept)
            .limit(1)
        )
        if known.peer != peer or known.state != AllocationState.RECORDED or rest != pieces or recorded.mix is not None:
            return False  # a post-quantum share is bound to the whole draw
        if connection.execute(taken).one_or_none() is not None:
            return False
        rows = allocations.chunk_rows(connection, rest)
        whole = set(recorded.pieces)
        for piece in rest:
            chunk_id, start, stop = piece
            chunks.part(connection, rows[chunk_id].row, start, stop)
            if piece not in whole:  # the draw keeps the chunk open with the other part of it
                chunks.reopen(connection, rows[chunk_id].row)
            chunks.unuse(connection, rows[chunk_id].row, start, stop)
            chunks.add_to_pool(connection, peer, peer, stop - start)
        expected = known.expected // known.amount * kept
        connection.execute(
            ALLOCATIONS.update()
            .where(ALLOCATIONS.c.id == draw)
            .values(amount=kept, pieces=json.dumps(head), expected=expected)
        )
        if known.fetched >= expected:
            allocations.completed(connection, replace(recorded, amount=kept, pieces=head), now, window)
    rows = allocations.chunk_rows(connection, pieces)
    return all(
        chunk_id in rows
        and rows[chunk_id].owner == peer
        and not chunks.overlap(connection, rows[chunk_id], start, stop)
        for chunk_id, start, stop in pieces
    )


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
