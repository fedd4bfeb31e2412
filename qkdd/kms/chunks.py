"""Chunks: taking them in, learning that the other site has them, who owns which, and erasing them.

Functions of a connection, run inside the store's transactions; they have no other effect.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from qkdd.core.database import Upsert
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.kms.errors import ChunkConflict, ChunkVoided, PoolFull
from qkdd.kms.schema import CHUNKS, DRAWABLE, MATERIAL, PIECES, POOLS, ChunkState
from qkdd.kms.source_config import OWN

_GRANTS = 64  # most chunks in one change of ownership


@dataclass(frozen=True, slots=True)
class NewChunk:
    """What a node pushes. `about` (class, authentication, proof, epsilon) is kept with it."""

    peer: str
    chunk_id: str
    link: str
    index: int
    material: Secret
    about: dict[str, object]


def first_owner(a: str, b: str, index: int) -> str:
    """Who draws from a chunk, decided by both sites alike: even indices belong to the KMS whose id sorts first."""
    return sorted((a, b))[index % 2]


def place(chunk_id: str) -> str:
    return f"chunk/{chunk_id}"


_ADD_TO_POOL = Upsert(POOLS, ("peer", "owner"), lambda old, new: {"bytes": old.c.bytes + new.bytes})


def add_to_pool(connection: sa.Connection, peer: str, owner: str, amount: int) -> None:
    _ADD_TO_POOL(connection, {"peer": peer, "owner": owner, "bytes": amount})


_POOL = sa.select(POOLS.c.owner, POOLS.c.bytes).where(POOLS.c.peer == sa.bindparam("of"))


def pool_bytes(connection: sa.Connection, peer: str) -> dict[str, int]:
    """Owner → bytes that it can still draw."""
    return {owner: size for owner, size in connection.execute(_POOL, {"of": peer})}


def ingest(connection: sa.Connection, own: str, new: NewChunk, sealer: Sealer, limit: int) -> bool:
    """Store a chunk; False if it was known. Raises ChunkConflict if it is known otherwise, ChunkVoided, PoolFull."""
    known = connection.execute(
        sa.select(CHUNKS, MATERIAL.c.sealed)
        .join(MATERIAL, MATERIAL.c.row == CHUNKS.c.row, isouter=True)
        .where(CHUNKS.c.chunk_id == new.chunk_id)
    ).one_or_none()
    if known is not None:
        if json.loads(known.about).get("voided"):
            raise ChunkVoided(f"chunk {new.chunk_id} was voided", chunk=new.chunk_id)
        if (known.peer, known.link, known.idx, known.bytes) != (new.peer, new.link, new.index, len(new.material)):
            raise ChunkConflict(f"chunk {new.chunk_id} is known with other facts", chunk=new.chunk_id)
        if known.sealed is not None and not sealer.open(known.sealed, place(new.chunk_id)).same_as(new.material):
            raise ChunkConflict(f"chunk {new.chunk_id} is known with another value", chunk=new.chunk_id)
        return False
    held = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(POOLS.c.bytes), 0))).scalar_one()
    if held + len(new.material) > limit:
        raise PoolFull(f"the pool holds {held} bytes, its limit is {limit}", held=held)
    result = connection.execute(
        CHUNKS.insert().values(
            peer=new.peer,
            chunk_id=new.chunk_id,
            link=new.link,
            idx=new.index,
            bytes=len(new.material),
            cursor=0,
            used=0,
            open=0,
            owner=first_owner(own, new.peer, new.index),
            epoch=0,
            state=ChunkState.WAITING,
            about=json.dumps(new.about, sort_keys=True),
            source=new.about.get("source") or OWN,
            epsilon=new.about.get("epsilon"),
        )
    )
    (row,) = result.inserted_primary_key or (None,)
    connection.execute(MATERIAL.insert().values(row=row, sealed=sealer.seal(new.material, place(new.chunk_id))))
    return True


def make_live(connection: sa.Connection, chunk: sa.Row[tuple[object, ...]]) -> None:
    """The other site has this chunk too."""
    if chunk.state != ChunkState.WAITING:
        return
    connection.execute(CHUNKS.update().where(CHUNKS.c.row == chunk.row).values(state=ChunkState.LIVE))
    add_to_pool(connection, chunk.peer, chunk.owner, chunk.bytes - chunk.cursor)


def confirm(connection: sa.Connection, peer: str, chunks: list[tuple[str, int]]) -> list[str]:
    """The other site says that it holds these (id, bytes): the ones that are here too go live; returns their ids."""
    here = []
    for chunk_id, size in chunks:
        chunk = connection.execute(sa.select(CHUNKS).where(CHUNKS.c.chunk_id == chunk_id)).one_or_none()
        if chunk is None or chunk.peer != peer or chunk.bytes != size:
            continue
        make_live(connection, chunk)
        here.append(chunk_id)
    return here


def waiting(connection: sa.Connection, peer: str, after: int, limit: int) -> list[tuple[int, str, int]]:
    """(row, id, bytes) of chunks whose presence at the other site is unknown, behind row `after`."""
    rows = connection.execute(
        sa.select(CHUNKS.c.row, CHUNKS.c.chunk_id, CHUNKS.c.bytes)
        .where(CHUNKS.c.state == ChunkState.WAITING, CHUNKS.c.peer == peer, CHUNKS.c.row > after)
        .order_by(CHUNKS.c.row)
        .limit(limit)
    )
    return [(row.row, row.chunk_id, row.bytes) for row in rows]


def grant(
    connection: sa.Connection, own: str, peer: str, want: int, fitting: Sequence[sa.ColumnElement[bool]] = ()
) -> list[tuple[str, int]]:
    """Give the other site untouched chunks of ours, at most half of them and about `want` bytes. fitting: conditions on them.

    Returns (id, epoch) of every untouched chunk that it owns by a grant, so a lost answer heals with the next request.
    """
    untouched = (CHUNKS.c.peer == peer, DRAWABLE, CHUNKS.c.cursor == 0)
    earlier = connection.execute(
        sa.select(CHUNKS.c.chunk_id, CHUNKS.c.epoch)
        .where(*untouched, CHUNKS.c.owner == peer, CHUNKS.c.epoch > 0)
        .order_by(CHUNKS.c.row)
        .limit(_GRANTS)
    ).all()
    granted = [(row.chunk_id, row.epoch) for row in earlier]
    mine = connection.execute(
        sa.select(CHUNKS)
        .where(*untouched, CHUNKS.c.owner == own, *fitting)
        .order_by(CHUNKS.c.row.desc())  # the newest: our own draws take the oldest
        .limit(2 * _GRANTS)
    ).all()
    given = 0
    for chunk in mine[: (len(mine) + 1) // 2]:
        if given >= want:
            break
        connection.execute(CHUNKS.update().where(CHUNKS.c.row == chunk.row).values(owner=peer, epoch=chunk.epoch + 1))
        add_to_pool(connection, peer, own, -chunk.bytes)
        add_to_pool(connection, peer, peer, chunk.bytes)
        granted.append((chunk.chunk_id, chunk.epoch + 1))
        given += chunk.bytes
    return granted


def take_over(connection: sa.Connection, own: str, peer: str, granted: list[tuple[str, int]]) -> int:
    """Own what the other site granted; returns the bytes gained. An older grant than the one known changes nothing."""
    gained = 0
    for chunk_id, epoch in granted:
        chunk = connection.execute(sa.select(CHUNKS).where(CHUNKS.c.chunk_id == chunk_id)).one_or_none()
        if chunk is None or chunk.peer != peer or chunk.owner != peer or epoch <= chunk.epoch or chunk.cursor:
            continue
        make_live(connection, chunk)
        connection.execute(CHUNKS.update().where(CHUNKS.c.row == chunk.row).values(owner=own, epoch=epoch))
        add_to_pool(connection, peer, peer, -chunk.bytes)
        add_to_pool(connection, peer, own, chunk.bytes)
        gained += chunk.bytes
    return gained


# Statements of the hot path are made once: building one costs more than running it.
_NEW_PIECE = PIECES.insert()
_USED = (
    CHUNKS.update()
    .where(CHUNKS.c.row == sa.bindparam("of"))
    .values(used=CHUNKS.c.used + sa.bindparam("size"), open=CHUNKS.c.open + sa.bindparam("opened"))
)
_CUT = _USED.values(cursor=sa.bindparam("to"))
_CLOSED = CHUNKS.update().where(CHUNKS.c.row == sa.bindparam("of")).values(open=CHUNKS.c.open - 1)
_DRAWN_UP = sa.select(CHUNKS.c.row).where(
    CHUNKS.c.row.in_(sa.bindparam("rows", expanding=True)), CHUNKS.c.used == CHUNKS.c.bytes, CHUNKS.c.open == 0
)
_SPENT = CHUNKS.update().where(CHUNKS.c.row.in_(sa.bindparam("rows", expanding=True))).values(state=ChunkState.SPENT)
_NO_MATERIAL = MATERIAL.delete().where(MATERIAL.c.row.in_(sa.bindparam("rows", expanding=True)))
_NO_PIECES = PIECES.delete().where(PIECES.c.row.in_(sa.bindparam("rows", expanding=True)))

Cut = tuple[int, int, int]  # row of a chunk, first byte, byte after the last


def use(connection: sa.Connection, row: int, start: int, stop: int, *, opened: bool) -> None:
    """Account for a piece: its bytes are used, and still needed here if `opened`."""
    connection.execute(_NEW_PIECE, {"row": row, "start": start, "stop": stop})
    connection.execute(_USED, {"of": row, "size": stop - start, "opened": int(opened)})


def cut(connection: sa.Connection, cuts: list[Cut]) -> None:
    """Account for pieces at the cursors of different chunks, which move behind them."""
    connection.execute(_NEW_PIECE, [{"row": row, "start": start, "stop": stop} for row, start, stop in cuts])
    connection.execute(_CUT, [{"of": row, "size": stop - start, "opened": 1, "to": stop} for row, start, stop in cuts])


def overlap(connection: sa.Connection, chunk: sa.Row[tuple[object, ...]], start: int, stop: int) -> bool:
    """Is any byte of this range part of a piece already? All are once the chunk is spent, whose pieces are gone."""
    if chunk.state == ChunkState.SPENT:
        return True
    last = connection.execute(
        sa.select(PIECES.c.stop)
        .where(PIECES.c.row == chunk.row, PIECES.c.start < stop)
        .order_by(PIECES.c.start.desc())
        .limit(1)
    ).scalar()
    return last is not None and last > start


def unuse(connection: sa.Connection, row: int, start: int, stop: int) -> None:
    """Take back `use` of a piece that no one was given."""
    connection.execute(PIECES.delete().where(PIECES.c.row == row, PIECES.c.start == start))
    connection.execute(
        CHUNKS.update().where(CHUNKS.c.row == row).values(used=CHUNKS.c.used - (stop - start), open=CHUNKS.c.open - 1)
    )


def part(connection: sa.Connection, row: int, start: int, stop: int) -> None:
    """The piece that ends at `stop` becomes two where it begins before `start`."""
    behind = connection.execute(
        PIECES.update().where(PIECES.c.row == row, PIECES.c.start < start, PIECES.c.stop == stop).values(stop=start)
    )
    if behind.rowcount:
        connection.execute(_NEW_PIECE, {"row": row, "start": start, "stop": stop})


def reopen(connection: sa.Connection, row: int) -> None:
    """One allocation more needs the material here."""
    connection.execute(CHUNKS.update().where(CHUNKS.c.row == row).values(open=CHUNKS.c.open + 1))


def close(connection: sa.Connection, rows: list[int]) -> None:
    """An allocation with a piece in each of these chunks is finished: erase what nobody needs any more."""
    connection.execute(_CLOSED, [{"of": row} for row in rows])
    erase(connection, set(rows))


def erase(connection: sa.Connection, rows: set[int]) -> None:
    """Erase the material of those chunks that are used up and needed by no allocation. The row stays: its id is known."""
    spent = connection.execute(_DRAWN_UP, {"rows": list(rows)}).scalars().all()
    if spent:
        for statement in (_SPENT, _NO_MATERIAL, _NO_PIECES):
            connection.execute(statement, {"rows": spent})
