"""Revocation: keys that were drawn and not yet fetched, and key that was not yet drawn, are given to nobody any more.

Functions of a connection. What one site revokes the other site's applications cannot be given either: ranges that this site
will not record any more are refused when the other site announces them (it skips them), and drawn keys are named to it.
"""

from __future__ import annotations

import json
from collections.abc import Container

import sqlalchemy as sa

from qkdd.kms import allocations, chunks
from qkdd.kms.allocation import from_row
from qkdd.kms.key_ids import canonical, split
from qkdd.kms.schema import ALLOCATIONS, CHUNKS, DELIVERIES, PIECES, RESERVED, RETURNED, AllocationState, ChunkState

_NEVER = -1e18  # a delivery that no redelivery window reaches
_GIVEN = (AllocationState.DELIVERED, AllocationState.RECORDED)


def _given(connection: sa.Connection, key_id: str) -> tuple[sa.Row[tuple[object, ...]], int] | None:
    parts = split(canonical(key_id))
    if parts is None:
        return None
    row = connection.execute(
        sa.select(ALLOCATIONS).where(ALLOCATIONS.c.id == parts[0], ALLOCATIONS.c.state.in_(_GIVEN))
    ).one_or_none()
    return (row, parts[1]) if row is not None and parts[1] < row.amount else None


def peer_of(connection: sa.Connection, key_id: str) -> str | None:
    """The other KMS that holds a key too; None when it is not here. Raises ValueError for what is no UUID."""
    found = _given(connection, key_id)
    return str(found[0].peer) if found is not None else None


def one_key(connection: sa.Connection, key_id: str, here: Container[str]) -> bool:
    """A single key; whether it was here for anyone to fetch. here: the applications of this site."""
    found = _given(connection, key_id)
    if found is None:
        return False
    row, number = found
    reaching = sa.select(DELIVERIES).where(
        DELIVERIES.c.allocation == row.id,
        DELIVERIES.c.number <= number,
        DELIVERIES.c.number + DELIVERIES.c.amount > number,
    )
    given = {run.sae: run for run in connection.execute(reaching).all()}
    fresh = 0
    for slave in json.loads(row.slaves):
        if slave not in here:
            continue
        parts = [(number, 1, _NEVER)]
        if (run := given.get(slave)) is None:
            fresh += 1
        else:
            where = (DELIVERIES.c.allocation == row.id, DELIVERIES.c.number == run.number, DELIVERIES.c.sae == slave)
            connection.execute(DELIVERIES.delete().where(*where))
            parts += [(run.number, number - run.number, run.time)]
            parts += [(number + 1, run.number + run.amount - number - 1, run.time)]
        rows = [
            {"allocation": row.id, "number": first, "amount": amount, "sae": slave, "time": time}
            for first, amount, time in parts
            if amount
        ]
        connection.execute(DELIVERIES.insert(), rows)
    fetched = row.fetched + fresh
    connection.execute(ALLOCATIONS.update().where(ALLOCATIONS.c.id == row.id).values(fetched=fetched))
    if fetched >= row.expected:
        allocations.finish(connection, from_row(row))
    return fresh > 0


def draws(
    connection: sa.Connection,
    *,
    sae: str | None = None,
    link: str | None = None,
    span: tuple[float, float] | None = None,
    ids: list[str] | None = None,
    peer: str | None = None,
) -> list[tuple[str, str]]:
    """Every draw that fits all given conditions: (hexadecimal id, the other KMS).

    span: service time of the draw; ids: hexadecimal; peer: of the other KMS.
    """
    query = sa.select(ALLOCATIONS).where(ALLOCATIONS.c.state.in_(_GIVEN))
    if span is not None:
        query = query.where(ALLOCATIONS.c.created >= span[0], ALLOCATIONS.c.created <= span[1])
    if ids is not None:
        query = query.where(ALLOCATIONS.c.id.in_([bytes.fromhex(i) for i in ids]))
    if peer is not None:
        query = query.where(ALLOCATIONS.c.peer == peer)
    of_link = None
    if link is not None:
        of_link = set(connection.execute(sa.select(CHUNKS.c.chunk_id).where(CHUNKS.c.link == link)).scalars())
    found = []
    for row in connection.execute(query).all():
        allocation = from_row(row)
        if sae is not None and sae != allocation.master and sae not in allocation.slaves:
            continue
        if of_link is not None and not of_link & {chunk_id for chunk_id, _, _ in allocation.pieces}:
            continue
        allocations.finish(connection, allocation)
        found.append((allocation.id.hex(), row.peer))
    return found


def undrawn(connection: sa.Connection, link: str | None) -> int:
    """Key of a link (of all: None) that was not drawn yet, here or there, is used up by nobody; returns its bytes."""
    query = sa.select(CHUNKS).where(CHUNKS.c.state != ChunkState.SPENT)
    if link is not None:
        query = query.where(CHUNKS.c.link == link)
    total = 0
    rows = connection.execute(query).all()
    _forget_free(connection, {chunk.chunk_id for chunk in rows})
    rows = connection.execute(query).all()
    for chunk in rows:
        connection.execute(RETURNED.delete().where(RETURNED.c.row == chunk.row))
        pieces = connection.execute(
            sa.select(PIECES.c.start, PIECES.c.stop).where(PIECES.c.row == chunk.row).order_by(PIECES.c.start)
        ).all()
        free, at = [], 0
        for start, stop in [*pieces, (chunk.bytes, chunk.bytes)]:
            if start > at:
                free.append((at, start))
            at = stop
        for start, stop in free:
            chunks.use(connection, chunk.row, start, stop, opened=False)
        size = sum(stop - start for start, stop in free)
        if chunk.state == ChunkState.LIVE and size:
            chunks.add_to_pool(connection, chunk.peer, chunk.owner, -size)
        connection.execute(
            CHUNKS.update().where(CHUNKS.c.row == chunk.row).values(cursor=chunk.bytes, state=ChunkState.LIVE)
        )
        total += size
    chunks.erase(connection, {chunk.row for chunk in rows})
    return total


def _forget_free(connection: sa.Connection, ids: set[str]) -> None:
    """Draws that nobody holds, with key of one of these chunks: their bytes neither come back nor are taken by the next draw."""
    free = sa.or_(ALLOCATIONS.c.state == AllocationState.VOIDING, sa.and_(RESERVED, ALLOCATIONS.c.claimant.is_(None)))
    for row in connection.execute(sa.select(ALLOCATIONS).where(free)).all():
        allocation = from_row(row)
        if not ids.isdisjoint(chunk_id for chunk_id, _, _ in allocation.pieces):
            allocations.finish(connection, allocation)


def forget(connection: sa.Connection, states: tuple[AllocationState, ...]) -> None:
    """End every allocation in one of these states; its bytes stay used."""
    for row in connection.execute(sa.select(ALLOCATIONS).where(ALLOCATIONS.c.state.in_(states))).all():
        allocations.finish(connection, from_row(row))
