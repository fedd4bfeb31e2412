"""Keys that a master obtained, to its slaves: all of a request or none, each once.

A function of a connection, run inside the store's transactions; it has no other effect. Requests that wait at one moment come
together: each draw is looked up once, each chunk opened once, and what was given out is written down with a few statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from qkdd.core.driver_sql import Driver, Prepared
from qkdd.core.sealing import Sealer
from qkdd.kms import allocations
from qkdd.kms.allocation import Allocation, Fetched, FetchRefused, Origin, from_row
from qkdd.kms.key_ids import split
from qkdd.kms.mixing import Mixer
from qkdd.kms.opening import Opener, opened
from qkdd.kms.schema import ALLOCATIONS, DELIVERIES, AllocationState

_ALLOCATION = sa.bindparam("of", type_=sa.LargeBinary)
_NAMES = tuple(column.name for column in ALLOCATIONS.columns)
_GIVEN_OUT = Prepared(sa.select(ALLOCATIONS).where(ALLOCATIONS.c.id == _ALLOCATION))
_FETCHED = Prepared(
    sa.select(DELIVERIES.c.number, DELIVERIES.c.time).where(
        DELIVERIES.c.allocation == _ALLOCATION,
        DELIVERIES.c.number.between(
            sa.bindparam("first", type_=sa.BigInteger), sa.bindparam("last", type_=sa.BigInteger)
        ),
        DELIVERIES.c.sae == sa.bindparam("by", type_=sa.Text),
    )
)
_DELIVERY = Prepared(DELIVERIES.insert())
_COUNTED = Prepared(
    ALLOCATIONS.update().where(ALLOCATIONS.c.id == _ALLOCATION).values(fetched=sa.bindparam("now", type_=sa.BigInteger))
)
_DONE = Prepared(
    ALLOCATIONS.update().where(ALLOCATIONS.c.id == _ALLOCATION).values(done=sa.bindparam("at", type_=sa.Float))
)


_CLOSE = 4  # keys are read together while at most one in so many was asked for


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request: ids are different ones."""

    master: str
    slave: str
    ids: list[str]


@dataclass(slots=True)
class _Draw:
    """A draw that requests of this moment want keys of."""

    allocation: Allocation
    slaves: frozenset[str]
    expected: int
    fetched: int
    origin: Origin
    mixer: Mixer
    given: dict[tuple[int, str], float] = field(default_factory=dict)  # in this transaction: number and slave → time
    changed: bool = False


@dataclass(slots=True)
class _Wanted:
    """What one request wants of one draw."""

    draw: _Draw
    numbers: list[int] = field(default_factory=list)
    given: dict[int, float] = field(default_factory=dict)
    first: int = 0
    text: bytes = b""  # of the keys from `first` on, when they lie close together

    def read(self, opener: Opener) -> None:
        first, amount = min(self.numbers), max(self.numbers) + 1 - min(self.numbers)
        if amount <= _CLOSE * len(self.numbers):
            self.first, self.text = first, opener.text(self.draw.allocation, first, amount)

    def key(self, opener: Opener, key_id: str, number: int) -> Fetched:
        draw, size = self.draw, self.draw.allocation.key_bytes
        if self.text:
            text = self.text[(number - self.first) * size : (number + 1 - self.first) * size]
        else:
            text = opener.text(draw.allocation, number, 1)
        return Fetched(
            key_id,
            draw.mixer.key(key_id, text),
            draw.allocation.slaves,
            number in self.given,
            draw.allocation.key_class,
            draw.origin,
        )


class _Group:
    """One transaction."""

    def __init__(
        self,
        connection: sa.Connection,
        sealer: Sealer,
        own: str,
        now: float,
        window: float,
        opener: Opener,
        driver: Driver,
    ) -> None:
        self._connection, self._sealer, self._own = connection, sealer, own
        self._now, self._window, self._opener, self._driver = now, window, opener, driver
        self._draws: dict[bytes, _Draw | None] = {}
        self._rows: list[dict[str, object]] = []

    def fetch(self, request: Fetch) -> list[Fetched] | FetchRefused:
        slave, wanted, keys, missing = request.slave, dict[bytes, _Wanted](), list[tuple[str, _Wanted, int]](), False
        for text in request.ids:
            parts = split(text)
            draw = self._find(parts[0]) if parts is not None else None
            if parts is None or draw is None or parts[1] >= draw.allocation.amount:
                missing = True
                continue
            if draw.allocation.master != request.master or slave not in draw.slaves:
                return FetchRefused("entitlement")
            of_draw = wanted.get(parts[0])
            if of_draw is None:
                of_draw = wanted[parts[0]] = _Wanted(draw)
            of_draw.numbers.append(parts[1])
            keys.append((text, of_draw, parts[1]))
        for of_draw in wanted.values():
            of_draw.given = given = self._given(of_draw, slave)
            missing = missing or any(
                not (self._window > 0 and self._now - time <= self._window) for time in given.values()
            )
        if missing:
            return FetchRefused("missing")
        for allocation_id, of_draw in wanted.items():
            draw = of_draw.draw
            draw.changed = True
            for number in of_draw.numbers:
                if number not in of_draw.given:
                    row = {"allocation": allocation_id, "number": number, "sae": slave, "time": self._now}
                    self._rows.append(row)
                    draw.given[number, slave] = self._now
                    draw.fetched += 1
        for of_draw in wanted.values():
            of_draw.read(self._opener)
        return [of_draw.key(self._opener, text, number) for text, of_draw, number in keys]

    def write(self) -> None:
        if self._rows:
            self._driver.run(_DELIVERY, self._rows)
        for allocation_id, draw in self._draws.items():
            if draw is None or not draw.changed:
                continue
            self._driver.run(_COUNTED, [{"of": allocation_id, "now": draw.fetched}])
            if draw.fetched < draw.expected:
                continue
            if self._window > 0:  # the janitor finishes it when the window is over
                self._driver.run(_DONE, [{"of": allocation_id, "at": self._now}])
            else:
                allocations.finish(self._connection, draw.allocation)

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

    def _given(self, wanted: _Wanted, slave: str) -> dict[int, float]:
        """Which of the numbers this slave has been given, and when."""
        draw, numbers = wanted.draw, wanted.numbers
        span = {"of": draw.allocation.id, "first": min(numbers), "last": max(numbers), "by": slave}
        found = {number: time for number, time in self._driver.rows(_FETCHED, span)}
        return {
            number: time
            for number in numbers
            if (time := draw.given.get((number, slave), found.get(number))) is not None
        }


def fetch(
    connection: sa.Connection, sealer: Sealer, own: str, requests: Sequence[Fetch], now: float, window: float
) -> list[list[Fetched] | FetchRefused]:
    """For each request, one after another: the keys that its master obtained and its slave may have, all or none
    (ETSI GS QKD 014, 5.4)."""
    driver = Driver(connection)
    with opened(driver, sealer) as opener:
        group = _Group(connection, sealer, own, now, window, opener, driver)
        answers = [group.fetch(request) for request in requests]
        group.write()
    return answers
