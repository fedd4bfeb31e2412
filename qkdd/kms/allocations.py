"""Allocations: cutting keys off chunks, so that no byte is ever part of two keys, on both sites.

Functions of a connection, run inside the store's transactions; they have no other effect. The drawing site reserves
(cursor moved, durable), tells the other site, which records, and only then delivers.
"""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import sqlalchemy as sa

from qkdd.core.database import is_alive, owner
from qkdd.core.driver_sql import Driver
from qkdd.core.errors import StorageFailed
from qkdd.core.sealing import Sealer
from qkdd.kms import chunks
from qkdd.kms.allocation import EVERYTHING, Allocation, Conflict, Origin, Piece, from_row
from qkdd.kms.key_ids import key_id
from qkdd.kms.mixing import Mixer
from qkdd.kms.opening import opened
from qkdd.kms.origin import ANY, Only, fits, take
from qkdd.kms.schema import (
    ALLOCATIONS,
    CHUNKS,
    DELIVERIES,
    DRAWABLE,
    RESERVED,
    RETURNED,
    AllocationState,
    ChunkState,
)

_CHUNKS_AT_ONCE = 64
_SMALL_CHUNK = 4096  # bytes; a first look for this size finds enough chunks of a usual block

_BY_ID = sa.select(CHUNKS).where(CHUNKS.c.chunk_id.in_(sa.bindparam("ids", expanding=True)))
_LEFT_OVER = (
    sa.select(ALLOCATIONS)
    .where(
        RESERVED,
        ALLOCATIONS.c.claimant.is_(None),
        *(
            ALLOCATIONS.c[name] == sa.bindparam(name)
            for name in ("peer", "master", "slaves", "key_bytes", "amount", "key_class")
        ),
    )
    .limit(1)
)
_NEXT_CHUNKS = (
    sa.select(CHUNKS.c.row, CHUNKS.c.chunk_id, CHUNKS.c.bytes, CHUNKS.c.cursor)
    .where(CHUNKS.c.peer == sa.bindparam("peer"), CHUNKS.c.owner == sa.bindparam("owner"), DRAWABLE)
    .order_by(CHUNKS.c.row)
    .limit(sa.bindparam("most"))
)
_CAME_BACK = (
    sa.select(RETURNED, CHUNKS.c.chunk_id)
    .join(CHUNKS, CHUNKS.c.row == RETURNED.c.row)
    .where(RETURNED.c.peer == sa.bindparam("of"))
    .order_by(RETURNED.c.row, RETURNED.c.start)
    .limit(_CHUNKS_AT_ONCE)
)
_NEW = ALLOCATIONS.insert()
_DELIVERED = (
    ALLOCATIONS.update()
    .where(
        ALLOCATIONS.c.id == sa.bindparam("of"),
        ALLOCATIONS.c.state == AllocationState.RESERVED,
        ALLOCATIONS.c.claimant == sa.bindparam("by"),
    )
    .values(state=AllocationState.DELIVERED, claimant=None)
    .returning(ALLOCATIONS.c.expected)
)
_GONE = ALLOCATIONS.delete().where(ALLOCATIONS.c.id == sa.bindparam("of"))
_NO_DELIVERIES = DELIVERIES.delete().where(DELIVERIES.c.allocation == sa.bindparam("of"))


def chunk_rows(connection: sa.Connection, pieces: tuple[Piece, ...]) -> dict[str, sa.Row[tuple[object, ...]]]:
    ids = {chunk_id for chunk_id, _, _ in pieces}
    return {c.chunk_id: c for c in connection.execute(_BY_ID, {"ids": list(ids)})}


def reserve(
    connection: sa.Connection,
    own: str,
    peer: str,
    wanted: Allocation,
    expected: int,
    now: float,
    only: Only = ANY,
) -> Allocation | None:
    """Cut `wanted` (its pieces are still empty) off our own chunks; None if we own too little, or too little that fits `only`.

    A reservation of the same shape that a failed announcement left over is taken instead: it never left this KMS.
    """
    shape = {
        "peer": peer,
        "master": wanted.master,
        "slaves": json.dumps(wanted.slaves),
        "key_bytes": wanted.key_bytes,
        "amount": wanted.amount,
        "key_class": wanted.key_class,
    }
    left_over = connection.execute(_LEFT_OVER, shape).one_or_none()
    if left_over is not None and (only.all or fits(connection, from_row(left_over).pieces, only)):
        connection.execute(
            ALLOCATIONS.update().where(ALLOCATIONS.c.id == left_over.id).values(claimant=owner(connection))
        )
        return from_row(left_over)
    need = wanted.quantum_bytes
    if chunks.pool_bytes(connection, peer).get(own, 0) < need:
        return None
    if need and not only.all:
        fitting = take(connection, own, peer, need, only)
        if fitting is None:
            return None
        pieces = fitting
    else:
        pieces = _take_returned(connection, peer, need) if need else []
    left = need - sum(stop - start for _, start, stop in pieces)
    most = 1 + left // _SMALL_CHUNK
    while left:
        next_chunks = {"peer": peer, "owner": own, "most": min(most, _CHUNKS_AT_ONCE)}
        cuts: list[chunks.Cut] = []
        for row, chunk_id, size, cursor in connection.execute(_NEXT_CHUNKS, next_chunks).all():
            stop = min(size, cursor + left)
            pieces.append((chunk_id, cursor, stop))
            cuts.append((row, cursor, stop))
            left -= stop - cursor
            if not left:
                break
        if not cuts:
            raise AssertionError("the pool's counter and its chunks disagree")
        chunks.cut(connection, cuts)
        most = _CHUNKS_AT_ONCE
    if need:
        chunks.add_to_pool(connection, peer, own, -need)
    result = replace(wanted, pieces=tuple(pieces))
    _insert(connection, peer, result, AllocationState.RESERVED, expected, now, owner(connection))
    return result


def _take_returned(connection: sa.Connection, peer: str, need: int) -> list[Piece]:
    """Up to `need` bytes of what abandoned reservations gave back, oldest chunk first."""
    rows = connection.execute(_CAME_BACK, {"of": peer}).all()
    pieces: list[Piece] = []
    for row in rows:
        if not need:
            break
        stop = min(row.stop, row.start + need)
        connection.execute(RETURNED.delete().where(RETURNED.c.row == row.row, RETURNED.c.start == row.start))
        if stop < row.stop:
            connection.execute(RETURNED.insert().values(row=row.row, start=stop, stop=row.stop, peer=peer))
        chunks.use(connection, row.row, row.start, stop, opened=True)
        pieces.append((row.chunk_id, row.start, stop))
        need -= stop - row.start
    return pieces


def _insert(
    connection: sa.Connection,
    peer: str,
    allocation: Allocation,
    state: AllocationState,
    expected: int,
    now: float,
    claimant: int | None = None,
) -> None:
    connection.execute(
        _NEW,
        {
            "id": allocation.id,
            "peer": peer,
            "master": allocation.master,
            "slaves": json.dumps(allocation.slaves),
            "key_bytes": allocation.key_bytes,
            "amount": allocation.amount,
            "pieces": json.dumps(allocation.pieces),
            "state": state,
            "claimant": claimant,
            "expected": expected,
            "fetched": 0,
            "created": now,
            "key_class": allocation.key_class,
            "offer": msgspec.json.encode(allocation.offer).decode() if allocation.offer is not None else None,
            "mix": allocation.mix,
        },
    )


def unclaim(connection: sa.Connection, allocation_id: bytes) -> None:
    """Make a reservation that a request of this process gave up free for the next one of its shape."""
    query = ALLOCATIONS.update().where(RESERVED, ALLOCATIONS.c.id == allocation_id)
    connection.execute(query.where(ALLOCATIONS.c.claimant == owner(connection)).values(claimant=None))


def unclaim_dead(connection: sa.Connection) -> None:
    """The same for all reservations of processes that died, or lost their line to the store."""
    claimants = connection.execute(
        sa.select(ALLOCATIONS.c.claimant).distinct().where(RESERVED, ALLOCATIONS.c.claimant.is_not(None))
    ).scalars()
    for claimant in claimants.all():
        if not is_alive(connection, claimant):
            query = ALLOCATIONS.update().where(RESERVED, ALLOCATIONS.c.claimant == claimant)
            connection.execute(query.values(claimant=None))


_LEASED = sa.select(ALLOCATIONS).where(ALLOCATIONS.c.state == AllocationState.DELIVERED, ALLOCATIONS.c.expected == 0)


def close_lease(connection: sa.Connection, draw: Allocation) -> None:
    """A lease is over: its draw is kept for it no longer. Idempotent."""
    if connection.execute(_LEASED.where(ALLOCATIONS.c.id == draw.id)).one_or_none() is not None:
        finish(connection, draw)


def end_dead_leases(connection: sa.Connection) -> None:
    """At the start: the leases were in a memory that is gone. Their bytes stay used."""
    for row in connection.execute(_LEASED).all():
        finish(connection, from_row(row))


def give_up(connection: sa.Connection, allocation_id: bytes) -> None:
    """A reservation that the other site refused for its offer: `qkdd.kms.voiding` brings its bytes back."""
    connection.execute(
        ALLOCATIONS.update()
        .where(RESERVED, ALLOCATIONS.c.id == allocation_id, ALLOCATIONS.c.claimant == owner(connection))
        .values(state=AllocationState.VOIDING, claimant=None)
    )


def deliver(
    connection: sa.Connection, sealer: Sealer, own: str, peer: str, allocation: Allocation
) -> tuple[bytes, Origin]:
    """`reserved → delivered`: the keys for the master, one behind the other. To be called once the other site has recorded
    the allocation.

    Raises StorageFailed when this process lost its store in between: another one may have taken the reservation.
    """
    changed = connection.execute(_DELIVERED, {"of": allocation.id, "by": owner(connection)}).one_or_none()
    if changed is None:
        raise StorageFailed("the store was lost while a draw was under way; its reservation is no longer ours")
    with opened(Driver(connection), sealer) as opener:
        text, origin = opener.text(allocation, 0, allocation.amount), opener.origin(allocation)
        rows = [opener.row(chunk_id) for chunk_id, _, _ in allocation.pieces]
    if allocation.mix is not None:
        mixer, size = Mixer(sealer, own, peer, allocation), allocation.key_bytes
        text = b"".join(
            mixer.key(key_id(allocation.id, n), text[n * size : (n + 1) * size]) for n in range(allocation.amount)
        )
    if not changed.expected:  # every slave is at the other site
        _finish(connection, allocation.id, rows)
    return text, origin


def burn(connection: sa.Connection, own: str, peer: str, allocation: Allocation, conflict: Conflict) -> None:
    """The other site has given out bytes of this range already: give up the reservation and skip what it has seen."""
    finish(connection, allocation)
    chunk = chunk_rows(connection, ((conflict.chunk_id, 0, 0),)).get(conflict.chunk_id)
    if chunk is None or chunk.owner != own or not chunk.cursor < (cursor := min(conflict.cursor, chunk.bytes)):
        return
    connection.execute(CHUNKS.update().where(CHUNKS.c.row == chunk.row).values(cursor=cursor))
    chunks.use(connection, chunk.row, chunk.cursor, cursor, opened=False)
    if chunk.state == ChunkState.LIVE:
        chunks.add_to_pool(connection, peer, own, chunk.cursor - cursor)
    chunks.erase(connection, {chunk.row})


def record(connection: sa.Connection, peer: str, allocation: Allocation, expected: int, now: float) -> Conflict | None:
    """Write down what the other site is about to give to its master; idempotent. Nothing is recorded on a conflict."""
    known = connection.execute(sa.select(ALLOCATIONS).where(ALLOCATIONS.c.id == allocation.id)).one_or_none()
    if known is not None:
        same = known.peer == peer and from_row(known) == allocation and known.state == AllocationState.RECORDED
        return None if same else Conflict("", "the allocation is known otherwise", 0)
    rows = chunk_rows(connection, allocation.pieces)
    for chunk_id, start, stop in allocation.pieces:
        chunk = rows.get(chunk_id)
        if chunk is None or chunk.peer != peer:
            return Conflict(chunk_id, "the chunk is not here", EVERYTHING)
        if chunk.owner != peer:
            return Conflict(chunk_id, "the chunk is not yours", EVERYTHING)
        if not 0 <= start < stop <= chunk.bytes or chunks.overlap(connection, chunk, start, stop):
            return Conflict(chunk_id, "the range is used already", chunk.cursor)
    for chunk_id, start, stop in allocation.pieces:
        chunk = rows[chunk_id]
        chunks.make_live(connection, chunk)
        chunks.use(connection, chunk.row, start, stop, opened=True)
        connection.execute(CHUNKS.update().where(CHUNKS.c.row == chunk.row).values(cursor=max(chunk.cursor, stop)))
        chunks.add_to_pool(connection, peer, peer, start - stop)
    _insert(connection, peer, allocation, AllocationState.RECORDED, expected, now)
    if not expected:
        finish(connection, allocation)
    return None


def finish(connection: sa.Connection, allocation: Allocation) -> None:
    """No one here needs this allocation any more; chunks that are used up with it are erased."""
    rows = chunk_rows(connection, allocation.pieces)
    _finish(connection, allocation.id, [rows[chunk_id].row for chunk_id, _, _ in allocation.pieces])


def _finish(connection: sa.Connection, allocation_id: bytes, rows: list[int]) -> None:
    """rows: of the chunks, one for each piece."""
    if connection.execute(_GONE, {"of": allocation_id}).rowcount:
        connection.execute(_NO_DELIVERIES, {"of": allocation_id})
        if rows:
            chunks.close(connection, rows)


def completed(connection: sa.Connection, allocation: Allocation, now: float, window: float) -> None:
    """Everything that the applications of this site may fetch of it was fetched."""
    if window > 0:  # the janitor finishes it when the window is over
        connection.execute(ALLOCATIONS.update().where(ALLOCATIONS.c.id == allocation.id).values(done=now))
    else:
        finish(connection, allocation)


def expire(connection: sa.Connection, now: float, lifetime: float, window: float) -> tuple[int, int]:
    """Finish what was fetched completely (window over) and what no one fetched in its lifetime; returns both counts."""
    given = AllocationState.DELIVERED, AllocationState.RECORDED
    connection.execute(
        ALLOCATIONS.delete().where(
            ALLOCATIONS.c.created < now - lifetime, ALLOCATIONS.c.state == AllocationState.VOIDED
        )
    )
    done = connection.execute(
        sa.select(ALLOCATIONS).where(ALLOCATIONS.c.done.is_not(None), ALLOCATIONS.c.done < now - window).limit(1000)
    ).all()
    old = connection.execute(
        sa.select(ALLOCATIONS).where(ALLOCATIONS.c.created < now - lifetime, ALLOCATIONS.c.state.in_(given)).limit(1000)
    ).all()
    for row in done:
        finish(connection, from_row(row))
    for row in old:
        finish(connection, from_row(row))
    return len(done), len(old)
