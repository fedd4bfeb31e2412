"""Draws of several pairs in one: one transaction to cut their key off, one to deliver it.

Functions of a connection, run inside the store's transactions; they have no other effect. What each row means, and in which
order rows change, is `qkdd.kms.allocations`'; here the same is done for many draws with a few statements, run by the driver.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from qkdd.core.database import owner
from qkdd.core.driver_sql import Driver, Prepared
from qkdd.core.errors import StorageFailed
from qkdd.core.sealing import Sealer
from qkdd.kms import chunks
from qkdd.kms.allocation import Allocation, Origin, Piece, from_row
from qkdd.kms.opening import opened
from qkdd.kms.schema import ALLOCATIONS, CHUNKS, DRAWABLE, PIECES, POOLS, RESERVED, RETURNED, AllocationState

_CHUNKS_AT_ONCE = 16


def _of(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger)


_HAVE = Prepared(
    sa.select(POOLS.c.bytes).where(
        POOLS.c.peer == sa.bindparam("of", type_=sa.Text), POOLS.c.owner == sa.bindparam("by", type_=sa.Text)
    )
)
_CAME_BACK = Prepared(
    sa.select(RETURNED.c.row, CHUNKS.c.chunk_id, RETURNED.c.start, RETURNED.c.stop)
    .join(CHUNKS, CHUNKS.c.row == RETURNED.c.row)
    .where(RETURNED.c.peer == sa.bindparam("of", type_=sa.Text))
    .order_by(RETURNED.c.row, RETURNED.c.start)
    .limit(sa.literal_column(str(_CHUNKS_AT_ONCE)))
)
_LEFT_OVER = Prepared(
    sa.select(
        *(ALLOCATIONS.c[name] for name in ("id", "amount", "master", "slaves", "key_bytes", "key_class")),
    )
    .where(RESERVED, ALLOCATIONS.c.claimant.is_(None), ALLOCATIONS.c.peer == sa.bindparam("of", type_=sa.Text))
    .limit(sa.literal_column("64"))
)
_NEXT_CHUNKS = Prepared(
    sa.select(CHUNKS.c.row, CHUNKS.c.chunk_id, CHUNKS.c.cursor, CHUNKS.c.bytes)
    .where(
        CHUNKS.c.peer == sa.bindparam("of", type_=sa.Text),
        CHUNKS.c.owner == sa.bindparam("by", type_=sa.Text),
        CHUNKS.c.row > _of("after"),
        DRAWABLE,
    )
    .order_by(CHUNKS.c.row)
    .limit(sa.literal_column(str(_CHUNKS_AT_ONCE)))
)
_AGAIN = CHUNKS.update().where(CHUNKS.c.row == _of("of"))
_AGAIN = _AGAIN.values(used=CHUNKS.c.used + _of("size"), open=CHUNKS.c.open + _of("opened"))
_CUT, _CUT_AGAIN = Prepared(_AGAIN.values(cursor=_of("to"))), Prepared(_AGAIN)
_RETURNED = sa.and_(RETURNED.c.row == _of("at_row"), RETURNED.c.start == _of("at"))
_NOT_RETURNED = Prepared(RETURNED.delete().where(_RETURNED))
_LESS_RETURNED = Prepared(RETURNED.update().where(_RETURNED).values(start=_of("to")))
_PIECE = Prepared(PIECES.insert().values(row=_of("at_row"), start=_of("at"), stop=_of("to")))
_TAKEN = Prepared(
    POOLS.update()
    .where(POOLS.c.peer == sa.bindparam("of", type_=sa.Text), POOLS.c.owner == sa.bindparam("by", type_=sa.Text))
    .values(bytes=POOLS.c.bytes - _of("size"))
)
_NEW = Prepared(ALLOCATIONS.insert())
_DELIVERED = Prepared(
    ALLOCATIONS.update()
    .where(
        ALLOCATIONS.c.id == sa.bindparam("of", type_=sa.LargeBinary),
        ALLOCATIONS.c.state == AllocationState.RESERVED.value,
        ALLOCATIONS.c.claimant == _of("by"),
    )
    .values(state=AllocationState.DELIVERED.value, claimant=sa.null())
    .returning(ALLOCATIONS.c.expected)
)
_NOT_FETCHED_HERE = ALLOCATIONS.delete().where(
    ALLOCATIONS.c.id == sa.bindparam("of", type_=sa.LargeBinary),
    ALLOCATIONS.c.state == AllocationState.DELIVERED.value,
    ALLOCATIONS.c.expected == sa.literal_column("0"),
)
_GONE = Prepared(_NOT_FETCHED_HERE)
_CLOSED = Prepared(CHUNKS.update().where(CHUNKS.c.row == _of("of")).values(open=CHUNKS.c.open - _of("closed")))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A draw of class its, without pieces; of no key: only what is drawn ahead. ahead: so many keys more, when the pool is rich,
    in whole steps. here: slaves of this site."""

    draw: Allocation
    ahead: int
    step: int
    here: int


def reserve(
    connection: sa.Connection,
    own: str,
    peer: str,
    wanted: Sequence[Wanted],
    now: float,
    pool_share: int,
) -> list[Allocation | None]:
    """`allocations.reserve` of all of them, in this order; None where too little is left.

    Key ahead takes at most one in `pool_share` bytes of the pool.
    """
    driver = Driver(connection)
    left_over = list(driver.rows(_LEFT_OVER, {"of": peer}))
    found = driver.rows(_HAVE, {"of": peer, "by": own})
    have = found[0][0] if found else 0
    cutter, taken = _Cutter(driver, own, peer), 0
    reserved: list[Allocation | None] = []
    rows = []
    claimant, spare = owner(connection), have // pool_share
    for one in wanted:
        if left_over and (again := _again(connection, left_over, one)) is not None:
            reserved.append(again)
            continue
        need = one.draw.quantum_bytes
        if taken + need > have:
            reserved.append(None)
            continue
        ahead = min(one.ahead, spare // one.draw.key_bytes, (have - taken - need) // one.draw.key_bytes)
        ahead -= ahead % one.step
        spare -= ahead * one.draw.key_bytes
        amount = one.draw.amount + ahead
        if not amount:  # nobody waits for it
            reserved.append(None)
            continue
        taken += amount * one.draw.key_bytes
        cut = replace(one.draw, amount=amount, pieces=tuple(cutter.take(amount * one.draw.key_bytes)))
        reserved.append(cut)
        rows.append(
            {
                "id": cut.id,
                "peer": peer,
                "master": cut.master,
                "slaves": json.dumps(cut.slaves),
                "key_bytes": cut.key_bytes,
                "amount": cut.amount,
                "pieces": json.dumps(cut.pieces),
                "state": AllocationState.RESERVED.value,
                "claimant": claimant,
                "expected": one.here * amount,
                "fetched": 0,
                "created": now,
                "done": None,
                "key_class": cut.key_class.value,
                "offer": None,
                "mix": None,
            }
        )
    if rows:
        cutter.write()
        driver.run(_TAKEN, [{"of": peer, "by": own, "size": taken}])
        driver.run(_NEW, rows)
    return reserved


def _again(connection: sa.Connection, left_over: list[tuple[Any, ...]], wanted: Wanted) -> Allocation | None:
    """The smallest reservation of this shape that a failed announcement left over and that has enough keys, not too many."""
    draw = wanted.draw
    like = (draw.master, json.dumps(draw.slaves), draw.key_bytes, draw.key_class.value)
    fitting = [row for row in left_over if row[2:] == like and draw.amount <= row[1] <= draw.amount + wanted.ahead]
    if not fitting:
        return None
    best = min(fitting, key=lambda row: row[1])
    left_over.remove(best)
    where = ALLOCATIONS.c.id == bytes(best[0])
    connection.execute(ALLOCATIONS.update().where(where).values(claimant=owner(connection)))
    return from_row(connection.execute(sa.select(ALLOCATIONS).where(where)).one())


@dataclass(slots=True)
class _Range:
    """Key that is cut off: bytes from `start` to `at` in so many pieces."""

    row: int
    chunk_id: str
    start: int
    stop: int
    at: int
    pieces: int = 0


class _Cutter:
    """Takes ranges off what came back and then off our chunks, oldest first, and writes them down together."""

    def __init__(self, driver: Driver, own: str, peer: str) -> None:
        self._driver, self._own, self._peer = driver, own, peer
        self._returned = self._ranges(_CAME_BACK, {"of": peer})  # behind a full page: for the next draws
        self._chunks: list[_Range] = []
        self._after = -1
        self._cut_again: list[_Range] = []  # of what came back
        self._cut: list[_Range] = []
        self._pieces: list[dict[str, int]] = []

    def _ranges(self, statement: Prepared, values: dict[str, Any]) -> list[_Range]:
        found = self._driver.rows(statement, values)
        return [_Range(row, chunk_id, start, stop, start) for row, chunk_id, start, stop in reversed(found)]

    def take(self, need: int) -> list[Piece]:
        taken: list[Piece] = []
        while need:
            ranges, begun = self._returned, self._cut_again
            if not ranges:
                ranges, begun = self._chunks or self._load(), self._cut
            one = ranges[-1]
            if not one.pieces:
                begun.append(one)
            one.pieces += 1
            stop = min(one.stop, one.at + need)
            taken.append((one.chunk_id, one.at, stop))
            self._pieces.append({"at_row": one.row, "at": one.at, "to": stop})
            need -= stop - one.at
            one.at = stop
            if stop == one.stop:
                ranges.pop()
        return taken

    def _load(self) -> list[_Range]:
        self._chunks = self._ranges(_NEXT_CHUNKS, {"of": self._peer, "by": self._own, "after": self._after})
        if not self._chunks:
            raise AssertionError("the pool's counter and its chunks disagree")
        self._after = self._chunks[0].row
        return self._chunks

    def write(self) -> None:
        run = self._driver.run
        run(_PIECE, self._pieces)
        if self._cut:
            run(_CUT, [{"of": c.row, "size": c.at - c.start, "opened": c.pieces, "to": c.at} for c in self._cut])
        if not self._cut_again:
            return
        run(_CUT_AGAIN, [{"of": c.row, "size": c.at - c.start, "opened": c.pieces} for c in self._cut_again])
        for cut in self._cut_again:
            if cut.at == cut.stop:
                run(_NOT_RETURNED, [{"at_row": cut.row, "at": cut.start}])
            else:
                run(_LESS_RETURNED, [{"at_row": cut.row, "at": cut.start, "to": cut.at}])


def deliver(
    connection: sa.Connection,
    sealer: Sealer,
    reserved: Sequence[tuple[Allocation, bool]],
    over: Sequence[Allocation] = (),
) -> list[tuple[bytes, Origin]]:
    """`allocations.deliver` of all of them, class its: their keys, one behind the other, and where those come from.

    reserved: (draw, whether a lease is made of it: then the draw is kept until the lease is over). over: such draws.
    Raises StorageFailed when this process lost its store in between.
    """
    driver, claimant = Driver(connection), owner(connection)
    with opened(driver, sealer) as opener:
        made = []
        gone = [one for one in over if driver.run(_GONE, [{"of": one.id}])]
        for one, leased in reserved:
            changed = driver.rows(_DELIVERED, {"of": one.id, "by": claimant})
            if not changed:
                raise StorageFailed("the store was lost while a draw was under way; its reservation is no longer ours")
            made.append((opener.text(one, 0, one.amount), opener.origin(one)))
            if not changed[0][0] and not leased:  # every slave is at the other site
                driver.run(_GONE, [{"of": one.id}])
                gone.append(one)
        if gone:
            closed = Counter(opener.row(chunk_id) for one in gone for chunk_id, _, _ in one.pieces)
            driver.run(_CLOSED, [{"of": row, "closed": count} for row, count in closed.items()])
            chunks.erase(connection, set(closed))
    return made
