"""Keys that a master obtained, to its slaves: all of a request or none, each once.

A function of a connection, run inside the store's transactions; it has no other effect. Statements are one a draw, not one a
key: a request usually asks for keys of one draw.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import sqlalchemy as sa

from qkdd.core.sealing import Sealer
from qkdd.kms import allocations
from qkdd.kms.allocation import Fetched, FetchRefused, from_row
from qkdd.kms.classes import KeyClass
from qkdd.kms.key_ids import split
from qkdd.kms.mixing import Mixer
from qkdd.kms.schema import ALLOCATIONS, DELIVERIES, AllocationState

_GIVEN_OUT = sa.select(ALLOCATIONS).where(
    ALLOCATIONS.c.id == sa.bindparam("of"),
    ALLOCATIONS.c.state.in_([AllocationState.DELIVERED, AllocationState.RECORDED]),
)
_FETCHED = sa.select(DELIVERIES.c.number, DELIVERIES.c.time).where(
    DELIVERIES.c.allocation == sa.bindparam("of"),
    DELIVERIES.c.number.between(sa.bindparam("first"), sa.bindparam("last")),
    DELIVERIES.c.sae == sa.bindparam("by"),
)
_DELIVERY = DELIVERIES.insert()
_COUNT = (
    ALLOCATIONS.update()
    .where(ALLOCATIONS.c.id == sa.bindparam("of"))
    .values(fetched=ALLOCATIONS.c.fetched + sa.bindparam("more"))
    .returning(ALLOCATIONS.c.fetched)
)
_DONE = ALLOCATIONS.update().where(ALLOCATIONS.c.id == sa.bindparam("of")).values(done=sa.bindparam("at"))


@dataclass(slots=True)
class _Draw:
    """What a request wants of one draw."""

    row: sa.Row[tuple[object, ...]]
    slaves: tuple[str, ...]
    numbers: list[int] = field(default_factory=list)
    given: set[int] = field(default_factory=set)


def fetch(
    connection: sa.Connection,
    sealer: Sealer,
    own: str,
    master: str,
    slave: str,
    ids: list[str],
    now: float,
    window: float,
) -> list[Fetched] | FetchRefused:
    """The keys that `master` obtained and `slave` may have, all or none (ETSI GS QKD 014, 5.4). ids: different ones."""
    draws: dict[bytes, _Draw] = {}
    wanted: list[tuple[str, bytes, int]] = []
    missing = False
    for text in ids:
        parts = split(text)
        draw = None
        if parts is not None:
            draw = draws.get(parts[0]) or _find(connection, parts[0])
        if parts is None or draw is None or parts[1] >= draw.row.amount:
            missing = True
            continue
        if draw.row.master != master or slave not in draw.slaves:
            return FetchRefused("entitlement")
        draws[parts[0]] = draw
        draw.numbers.append(parts[1])
        wanted.append((text, *parts))
    for allocation_id, draw in draws.items():
        span = {"of": allocation_id, "first": min(draw.numbers), "last": max(draw.numbers), "by": slave}
        times = {number: time for number, time in connection.execute(_FETCHED, span)}
        draw.given = times.keys() & set(draw.numbers)
        missing = missing or any(not (window > 0 and now - times[number] <= window) for number in draw.given)
    if missing:
        return FetchRefused("missing")
    found: dict[str, Fetched] = {}
    for allocation_id, draw in draws.items():
        found |= _keys(connection, sealer, own, draw, [(t, n) for t, a, n in wanted if a == allocation_id])
        fresh = [number for number in draw.numbers if number not in draw.given]
        if fresh:
            rows = [{"allocation": allocation_id, "number": number, "sae": slave, "time": now} for number in fresh]
            connection.execute(_DELIVERY, rows)
        fetched = connection.execute(_COUNT, {"of": allocation_id, "more": len(fresh)}).scalar_one()
        if fetched < draw.row.expected:
            continue
        if window > 0:  # the janitor finishes it when the window is over
            connection.execute(_DONE, {"of": allocation_id, "at": now})
        else:
            allocations.finish(connection, from_row(draw.row))
    return [found[text] for text in ids]


def _find(connection: sa.Connection, allocation_id: bytes) -> _Draw | None:
    row = connection.execute(_GIVEN_OUT, {"of": allocation_id}).one_or_none()
    return _Draw(row, tuple(json.loads(row.slaves))) if row is not None else None


def _keys(
    connection: sa.Connection, sealer: Sealer, own: str, draw: _Draw, wanted: list[tuple[str, int]]
) -> dict[str, Fetched]:
    """By key ID."""
    row, allocation = draw.row, from_row(draw.row)
    text, _, origin = allocations.text_of(connection, sealer, allocation)
    drawing, recording = (own, row.peer) if row.state == AllocationState.DELIVERED else (row.peer, own)
    mixer, size, key_class = (
        Mixer(sealer, drawing, recording, allocation),
        allocation.key_bytes,
        KeyClass(row.key_class),
    )
    return {
        key_id: Fetched(
            key_id,
            mixer.key(key_id, text[number * size : (number + 1) * size]),
            draw.slaves,
            number in draw.given,
            key_class,
            origin,
        )
        for key_id, number in wanted
    }
