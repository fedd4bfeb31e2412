"""Keys that a master obtained, to its slaves: all of a request or none, each once.

A function of a connection, run inside the store's transactions; it has no other effect. Requests that wait at one moment come
together: each draw is looked up once, each chunk opened once, and what was given out is written down with a few statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa

from qkdd.core.driver_sql import Driver, Prepared
from qkdd.core.sealing import Sealer
from qkdd.kms import allocations
from qkdd.kms.allocation import Allocation, FetchRefused, Origin, from_row
from qkdd.kms.batch import KeyBatch
from qkdd.kms.key_ids import Run, key_ids
from qkdd.kms.mixing import Mixer
from qkdd.kms.opening import Kept, Opener, opened
from qkdd.kms.schema import ALLOCATIONS, DELIVERIES, AllocationState

_ALLOCATION = sa.bindparam("of", type_=sa.LargeBinary)
_NAMES = tuple(column.name for column in ALLOCATIONS.columns)
_GIVEN_OUT = Prepared(sa.select(ALLOCATIONS).where(ALLOCATIONS.c.id == _ALLOCATION))
_FIRST, _LAST = sa.bindparam("first", type_=sa.BigInteger), sa.bindparam("last", type_=sa.BigInteger)
_SAE = sa.bindparam("by", type_=sa.Text)
_BEFORE = DELIVERIES.alias(
    "before"
)  # runs of one slave do not overlap: only the last one that begins before can reach in
_FETCHED = Prepared(
    sa.select(DELIVERIES.c.number, DELIVERIES.c.amount, DELIVERIES.c.time).where(
        DELIVERIES.c.allocation == _ALLOCATION,
        DELIVERIES.c.sae == _SAE,
        DELIVERIES.c.number <= _LAST,
        DELIVERIES.c.number
        >= sa.func.coalesce(
            sa.select(_BEFORE.c.number)
            .where(_BEFORE.c.allocation == _ALLOCATION, _BEFORE.c.sae == _SAE, _BEFORE.c.number <= _FIRST)
            .order_by(_BEFORE.c.number.desc())
            .limit(sa.literal_column("1"))
            .scalar_subquery(),
            _FIRST,
        ),
    )
)
_DELIVERY = Prepared(DELIVERIES.insert())
_COUNTED = Prepared(
    ALLOCATIONS.update().where(ALLOCATIONS.c.id == _ALLOCATION).values(fetched=sa.bindparam("now", type_=sa.BigInteger))
)


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request. runs: they do not overlap."""

    master: str
    slave: str
    runs: list[Run]


@dataclass(frozen=True, slots=True)
class Fetched:
    """Keys of each run, in the order of the request; `again` of them are redelivered inside the window."""

    batches: list[KeyBatch]
    again: int


class _Given(NamedTuple):
    """Keys that a slave has been given."""

    first: int
    amount: int
    time: float


@dataclass(slots=True)
class _Draw:
    """A draw that requests of this moment want keys of."""

    allocation: Allocation
    slaves: frozenset[str]
    expected: int
    fetched: int
    origin: Origin
    mixer: Mixer
    given: dict[str, list[_Given]] = field(default_factory=dict)  # in this transaction, by slave
    changed: bool = False


class _Group:
    """One transaction."""

    def __init__(
        self,
        connection: sa.Connection,
        sealer: Sealer,
        own: str,
        now: float,
        window: float,
        synthetic: bool,
        opener: Opener,
        driver: Driver,
    ) -> None:
        self._connection, self._sealer, self._own, self._synthetic = connection, sealer, own, synthetic
        self._now, self._window, self._opener, self._driver = now, window, opener, driver
        self._draws: dict[bytes, _Draw | None] = {}

    def fetch(self, request: Fetch) -> Fetched | FetchRefused:
        slave, wanted, missing = request.slave, list[tuple[_Draw, int, int]](), False
        for allocation_id, first, amount in request.runs:
            draw = self._find(allocation_id)
            if draw is None or first >= draw.allocation.amount:
                missing = True
                continue
            if draw.allocation.master != request.master or slave not in draw.slaves:
                return FetchRefused("entitlement")
            missing = missing or first + amount > draw.allocation.amount
            wanted.append((draw, first, amount))
        if missing:
            return FetchRefused("missing")
        earlier = [self._given(draw, first, amount, slave) for draw, first, amount in wanted]
        if any(not (self._window > 0 and self._now - one.time <= self._window) for given in earlier for one in given):
            return FetchRefused("missing")
        batches, again = [], 0
        for (draw, first, amount), given in zip(wanted, earlier, strict=True):
            draw.changed = True
            fresh = 0
            for begin, count in _gaps(first, amount, given):
                draw.given.setdefault(slave, []).append(_Given(begin, count, self._now))
                fresh += count
            draw.fetched += fresh
            again += amount - fresh
            batches.append(self._read(draw, first, amount))
        return Fetched(batches, again)

    def _read(self, draw: _Draw, first: int, amount: int) -> KeyBatch:
        allocation = draw.allocation
        text = self._opener.text(allocation, first, amount)
        if allocation.mix is not None:
            size = allocation.key_bytes
            text = b"".join(
                draw.mixer.key(name, text[at * size : (at + 1) * size])
                for at, name in enumerate(key_ids(allocation.id, first, amount))
            )
        return KeyBatch(allocation, text, self._synthetic, draw.origin, first, amount)

    def write(self) -> None:
        rows = [
            {"allocation": name, "number": first, "amount": amount, "sae": slave, "time": self._now}
            for name, draw in self._draws.items()
            if draw is not None
            for slave, given in draw.given.items()
            for first, amount in _joined(given)
        ]
        if rows:
            self._driver.run(_DELIVERY, rows)
        for allocation_id, draw in self._draws.items():
            if draw is None or not draw.changed:
                continue
            self._driver.run(_COUNTED, [{"of": allocation_id, "now": draw.fetched}])
            if draw.fetched >= draw.expected:
                allocations.completed(self._connection, draw.allocation, self._now, self._window)

    def _find(self, allocation_id: bytes) -> _Draw | None:
        if allocation_id in self._draws:
            return self._draws[allocation_id]
        draw, rows = None, self._driver.rows(_GIVEN_OUT, {"of": allocation_id})
        if rows:
            row = dict(zip(_NAMES, rows[0], strict=True))
            if row["state"] in (AllocationState.DELIVERED, AllocationState.RECORDED):
                allocation, recorded = from_row(row), row["state"] == AllocationState.RECORDED
                sites = (row["peer"], self._own) if recorded else (self._own, row["peer"])
                draw = _Draw(
                    allocation,
                    frozenset(allocation.slaves),
                    row["expected"],
                    row["fetched"],
                    self._opener.origin(allocation),
                    Mixer(self._sealer, sites[0], sites[1], allocation),
                )
        self._draws[allocation_id] = draw
        return draw

    def _given(self, draw: _Draw, first: int, amount: int, slave: str) -> list[_Given]:
        """What this slave has been given of the run, in order."""
        span = {"of": draw.allocation.id, "first": first, "last": first + amount - 1, "by": slave}
        before = [_Given(*row) for row in self._driver.rows(_FETCHED, span)]
        found = [*before, *draw.given.get(slave, ())]
        return sorted(one for one in found if one.first < first + amount and first < one.first + one.amount)


def _gaps(first: int, amount: int, given: list[_Given]) -> list[tuple[int, int]]:
    """What of a run was not given."""
    gaps, at = [], first
    for one in given:
        if one.first > at:
            gaps.append((at, one.first - at))
        at = max(at, one.first + one.amount)
    if at < first + amount:
        gaps.append((at, first + amount - at))
    return gaps


def _joined(given: list[_Given]) -> list[tuple[int, int]]:
    """Runs of one moment that lie side by side are one."""
    joined: list[tuple[int, int]] = []
    for first, amount, _ in sorted(given):
        if joined and sum(joined[-1]) == first:
            joined[-1] = (joined[-1][0], joined[-1][1] + amount)
        else:
            joined.append((first, amount))
    return joined


def fetch(
    connection: sa.Connection,
    sealer: Sealer,
    own: str,
    requests: Sequence[Fetch],
    now: float,
    window: float,
    synthetic: bool,
    kept: Kept,
) -> list[Fetched | FetchRefused]:
    """For each request, one after another: the keys that its master obtained and its slave may have, all or none
    (ETSI GS QKD 014, 5.4)."""
    driver = Driver(connection)
    with opened(driver, sealer, kept) as opener:
        group = _Group(connection, sealer, own, now, window, synthetic, opener, driver)
        answers = [group.fetch(request) for request in requests]
        group.write()
    return answers
