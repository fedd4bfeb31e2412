"""Key that somebody else brought: voiding it, and which site may draw from it.

Functions of a connection, run inside the store's transactions.
"""

from __future__ import annotations

import json
import uuid

import sqlalchemy as sa

from qkdd.core.etsi020 import AckStatus
from qkdd.kms import chunks
from qkdd.kms.schema import CHUNKS, RETURNED, ChunkState


def index_of(chunk_id: str) -> int:
    """A chunk's index when its maker numbers nothing: decided by its id, so both sites give it to the same owner."""
    return uuid.UUID(chunk_id).int & ((1 << 59) - 1)


def void_one(connection: sa.Connection, source: str, peer: str, link: str, chunk_id: str) -> AckStatus:
    """Give a chunk of `source` up for good; idempotent. What was drawn from it, here or at the other site, cannot be voided.

    A chunk that is not here leaves a mark, so that its key is refused when it comes late: the first answer stays true.
    """
    chunk = connection.execute(sa.select(CHUNKS).where(CHUNKS.c.chunk_id == chunk_id)).one_or_none()
    if chunk is None:
        connection.execute(
            CHUNKS.insert().values(
                peer=peer,
                chunk_id=chunk_id,
                link=link,
                idx=index_of(chunk_id),
                bytes=0,
                cursor=0,
                used=0,
                open=0,
                owner=peer,
                epoch=0,
                state=ChunkState.SPENT,
                about=json.dumps({"source": source, "voided": True}),
                source=source,
            )
        )
        return AckStatus.NOT_PRESENT
    about = json.loads(chunk.about)
    if chunk.source != source:
        return AckStatus.NOT_PRESENT
    if about.get("voided"):
        return AckStatus.VOIDED if chunk.bytes else AckStatus.NOT_PRESENT
    if chunk.used or chunk.cursor or chunk.state == ChunkState.SPENT:
        return AckStatus.FAILED_TO_VOID
    connection.execute(RETURNED.delete().where(RETURNED.c.row == chunk.row))
    chunks.use(connection, chunk.row, 0, chunk.bytes, opened=False)
    if chunk.state == ChunkState.LIVE:
        chunks.add_to_pool(connection, chunk.peer, chunk.owner, -chunk.bytes)
    connection.execute(
        CHUNKS.update()
        .where(CHUNKS.c.row == chunk.row)
        .values(cursor=chunk.bytes, state=ChunkState.LIVE, about=json.dumps({**about, "voided": True}))
    )
    chunks.erase(connection, {chunk.row})
    return AckStatus.VOIDED


def not_drawn(connection: sa.Connection, source: str) -> list[str]:
    """Ids of all chunks of a source from which nothing was drawn yet."""
    rows = connection.execute(
        sa.select(CHUNKS.c.chunk_id)
        .where(CHUNKS.c.source == source, CHUNKS.c.used == 0, CHUNKS.c.cursor == 0, CHUNKS.c.state != ChunkState.SPENT)
        .order_by(CHUNKS.c.row)
    )
    return list(rows.scalars())
