"""Streams in the store: functions of a connection, run inside its transactions.

End 0 opened the stream and its KMS cuts the keys; when both ends opened the same agreed id at once, the KMS whose id sorts
first does (`swap` at the other).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec
import sqlalchemy as sa

from qkdd.kms import allocations
from qkdd.kms.allocation import from_row
from qkdd.kms.key_ids import split
from qkdd.kms.schema import ALLOCATIONS, STREAM_ENDS, STREAM_KEYS, STREAMS
from qkdd.kms.stream_messages import Qos


class EndState(StrEnum):
    ABSENT = "absent"
    OPEN = "open"
    CLOSING = "closing"  # closed here, the other KMS has not heard of it
    CLOSED = "closed"


@dataclass(frozen=True)
class End:
    number: int
    sae: str
    state: EndState
    next: int


@dataclass(frozen=True)
class Stream:
    ksid: str
    peer: str
    drawing: str
    qos: Qos
    ends: tuple[End, End]

    @property
    def initiator(self) -> str:
        return self.ends[0].sae

    def end(self, sae: str) -> End | None:
        return next((end for end in self.ends if end.sae == sae), None)

    def other(self, sae: str) -> End:
        return next(end for end in self.ends if end.sae != sae)


def find(connection: sa.Connection, ksid: str) -> Stream | None:
    row = connection.execute(sa.select(STREAMS).where(STREAMS.c.ksid == ksid)).one_or_none()
    if row is None:
        return None
    ends = connection.execute(
        sa.select(STREAM_ENDS).where(STREAM_ENDS.c.ksid == ksid).order_by(STREAM_ENDS.c.end)
    ).all()
    first, second = (End(e.end, e.sae, EndState(e.state), e.next) for e in ends)
    return Stream(ksid, row.peer, row.drawing, msgspec.json.decode(row.qos, type=Qos), (first, second))


def create(
    connection: sa.Connection, ksid: str, peer: str, drawing: str, qos: Qos, saes: tuple[str, str], now: float
) -> Stream | None:
    """saes: who opens it, and the other end. None when it was made; otherwise what stood there: both ends may open at once."""
    standing = find(connection, ksid)
    if standing is not None:
        return standing
    qos_text = msgspec.json.encode(qos).decode()
    connection.execute(STREAMS.insert().values(ksid=ksid, peer=peer, drawing=drawing, qos=qos_text, created=now))
    for number, (sae, state) in enumerate(zip(saes, (EndState.OPEN, EndState.ABSENT), strict=True)):
        connection.execute(
            STREAM_ENDS.insert().values(ksid=ksid, end=number, sae=sae, state=state, next=0, touched=now)
        )
    return None


def count_open(connection: sa.Connection, sae: str) -> int:
    query = sa.select(sa.func.count()).where(STREAM_ENDS.c.sae == sae, STREAM_ENDS.c.state == EndState.OPEN)
    return int(connection.execute(query).scalar_one())


def set_end(connection: sa.Connection, ksid: str, sae: str, state: EndState, now: float) -> None:
    """An end that is closed stays so. A stream whose ends are both closed goes, and the keys that nobody got with it."""
    over = (EndState.CLOSING, EndState.CLOSED)
    query = STREAM_ENDS.update().where(STREAM_ENDS.c.ksid == ksid, STREAM_ENDS.c.sae == sae)
    if state not in over:
        query = query.where(STREAM_ENDS.c.state.not_in(over))
    connection.execute(query.values(state=state, touched=now))
    stream = find(connection, ksid)
    if stream is not None and all(end.state is EndState.CLOSED for end in stream.ends):
        remove(connection, ksid)


def remove(connection: sa.Connection, ksid: str) -> None:
    query = sa.select(STREAM_KEYS.c.key_id).where(STREAM_KEYS.c.ksid == ksid)
    _forget(connection, list(connection.execute(query).scalars()))
    for table in (STREAM_KEYS, STREAM_ENDS, STREAMS):
        connection.execute(table.delete().where(table.c.ksid == ksid))


def swap(connection: sa.Connection, ksid: str, drawing: str, qos: Qos) -> None:
    """Both ends opened it at once and the other KMS cuts its keys: our end is the second one. Idempotent."""
    stream = find(connection, ksid)
    if stream is None or stream.drawing == drawing:
        return
    for old, new in ((0, 2), (1, 0), (2, 1)):
        where = (STREAM_ENDS.c.ksid == ksid, STREAM_ENDS.c.end == old)
        connection.execute(STREAM_ENDS.update().where(*where).values(end=new))
    connection.execute(STREAM_ENDS.update().where(STREAM_ENDS.c.ksid == ksid).values(state=EndState.OPEN))
    text = msgspec.json.encode(qos).decode()
    connection.execute(STREAMS.update().where(STREAMS.c.ksid == ksid).values(drawing=drawing, qos=text))


def key_of(connection: sa.Connection, ksid: str, index: int, before: float) -> tuple[str | None, bool]:
    """The key that is this chunk, and whether it may still be had: one that was cut before `before` may not."""
    query = sa.select(STREAM_KEYS).where(STREAM_KEYS.c.ksid == ksid, STREAM_KEYS.c.idx == index)
    row = connection.execute(query).one_or_none()
    return (None, True) if row is None else (row.key_id, row.created >= before)


def note_key(connection: sa.Connection, ksid: str, index: int, key_id: str, now: float) -> str:
    """This key is that chunk, unless another is: then that one's id."""
    known, _ = key_of(connection, ksid, index, 0.0)
    if known is not None:
        return known
    connection.execute(STREAM_KEYS.insert().values(ksid=ksid, idx=index, key_id=key_id, created=now))
    return key_id


def got(connection: sa.Connection, ksid: str, sae: str, index: int, now: float) -> None:
    """An end has this chunk: its next one is behind it."""
    where = (STREAM_ENDS.c.ksid == ksid, STREAM_ENDS.c.sae == sae)
    connection.execute(STREAM_ENDS.update().where(*where).values(touched=now))
    connection.execute(STREAM_ENDS.update().where(*where, STREAM_ENDS.c.next <= index).values(next=index + 1))


def expire(connection: sa.Connection, now: float, idle: float, here: list[str]) -> int:
    """Ends of applications `here` that did not call for `idle` seconds are closed; keys past their TTL go. How many ends."""
    old = connection.execute(
        STREAM_ENDS.update()
        .where(STREAM_ENDS.c.state == EndState.OPEN, STREAM_ENDS.c.touched < now - idle, STREAM_ENDS.c.sae.in_(here))
        .values(state=EndState.CLOSING)
    ).rowcount
    late = connection.execute(
        sa.select(STREAM_KEYS.c.key_id, STREAM_KEYS.c.created, STREAMS.c.qos)
        .join(STREAMS, STREAMS.c.ksid == STREAM_KEYS.c.ksid)
        .order_by(STREAM_KEYS.c.created)
        .limit(1000)
    ).all()
    _forget(connection, [k for k, made, qos in late if made < now - msgspec.json.decode(qos, type=Qos).TTL])
    gone = connection.execute(sa.select(STREAMS.c.ksid).where(STREAMS.c.created < now - 30 * idle)).scalars().all()
    for ksid in gone:
        stream = find(connection, ksid)
        if stream is not None and all(end.state is not EndState.OPEN or end.sae not in here for end in stream.ends):
            remove(connection, ksid)
    return old


def closing(connection: sa.Connection) -> list[tuple[str, str, str]]:
    """(stream, application, other KMS) of ends whose closing the other KMS has not heard of."""
    rows = connection.execute(
        sa.select(STREAM_ENDS.c.ksid, STREAM_ENDS.c.sae, STREAMS.c.peer)
        .join(STREAMS, STREAMS.c.ksid == STREAM_ENDS.c.ksid)
        .where(STREAM_ENDS.c.state == EndState.CLOSING)
        .limit(256)
    )
    return [(row.ksid, row.sae, row.peer) for row in rows]


def _forget(connection: sa.Connection, key_ids: list[str]) -> None:
    for key_id in key_ids:
        parts = split(key_id)
        row = None
        if parts is not None:
            row = connection.execute(sa.select(ALLOCATIONS).where(ALLOCATIONS.c.id == parts[0])).one_or_none()
        if row is not None:
            allocations.finish(connection, from_row(row))
