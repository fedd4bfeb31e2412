"""The pool of one-time masks that pays for Wegman-Carter tags: filled from accepted key, never used twice.

Implements `qkdd.peer.contract.MaskStore`. Both nodes fill it from the same blocks in the same order, so index i of a
direction is the same mask on both. What was reserved before a crash is never given out again.
"""

from __future__ import annotations

import threading

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from qkdd.core.database import Database
from qkdd.core.errors import InternalError
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.keys.schema import HASH_KEY, MASK_STATE, MASKS
from qkdd.keys.spool import BlockRecord, Carve
from qkdd.peer.contract import ALICE_TO_BOB, BOB_TO_ALICE, DIRECTIONS, HASH_KEY_BYTES, MASK_BYTES


def _state(connection: sa.Connection) -> dict[str, int]:
    return {row.name: row.value for row in connection.execute(sa.select(MASK_STATE))}


def _put(connection: sa.Connection, name: str, value: int) -> None:
    statement = insert(MASK_STATE).values(name=name, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


class MaskPool:
    """Open it before use. Thread-safe; lookups never touch the disk, `reserve` does once per batch."""

    def __init__(self, database: Database, master: Secret) -> None:
        self._database = database
        self._sealer = Sealer(master, "masks")
        self._lock = threading.Lock()
        self._hash_key: Secret | None = None
        self._established = False
        self._total = 0  # masks ever filled, equal in both directions
        self._reserved = dict.fromkeys(DIRECTIONS, 0)
        self._spent = dict.fromkeys(DIRECTIONS, 0)  # first index that is not spent
        self._masks: dict[str, dict[int, Secret]] = {d: {} for d in DIRECTIONS}

    async def open(self) -> None:
        """Load the pool; what was reserved and not spent before is burnt."""
        await self._database.run(self._burn)
        await self.refresh()

    async def refresh(self) -> None:
        """Take over what `fill` stored since."""
        await self._database.run(self._load)

    def hash_key(self) -> Secret | None:
        return self._hash_key

    @property
    def established(self) -> bool:
        return self._established

    @property
    def total(self) -> int:
        """Masks ever filled in each direction; both nodes must agree on it before a block adds to it."""
        return self._total

    def available(self, direction: str) -> int:
        with self._lock:
            return self._total - max(self._reserved[direction], self._spent[direction])

    def reserve(self, direction: str, count: int) -> range:
        with self._lock:
            start = max(self._reserved[direction], self._spent[direction])
            stop = min(start + max(count, 0), self._total)
        if stop <= start:
            return range(start, start)
        spent = dict(self._spent)

        def work(connection: sa.Connection) -> None:
            _put(connection, f"reserved {direction}", stop)
            _put(connection, "established", 1)
            for name, value in spent.items():
                _put(connection, f"spent {name}", value)
                self._erase(connection, name, value)

        self._database.run_blocking(work)
        with self._lock:
            self._reserved[direction] = stop
            self._established = True
        return range(start, stop)

    def mask(self, direction: str, index: int) -> Secret:
        with self._lock:
            return self._masks[direction][index]

    def spent(self, direction: str, index: int) -> None:
        with self._lock:
            self._established = True
            for number in range(self._spent[direction], min(index + 1, self._total)):
                self._masks[direction].pop(number, Secret(b"")).wipe()
            self._spent[direction] = max(self._spent[direction], index + 1)

    def rebootstrap(self) -> None:
        def work(connection: sa.Connection) -> None:
            for table in (MASKS, MASK_STATE, HASH_KEY):
                connection.execute(table.delete())

        self._database.run_blocking(work)
        self._database.run_blocking(self._load)

    def needed(self, target: int) -> int:
        """Masks per direction that bring the scarcer direction back to `target`."""
        return max(0, target - min(self.available(d) for d in DIRECTIONS))

    def fill(self, record: BlockRecord) -> Carve:
        """The step of `Spool.accept` that turns a block's head into masks.

        Head: hash key (first block only), masks alice→bob, masks bob→alice. A later block that meets an empty pool (after
        a re-bootstrap) gives its head away unused, so that the rest of the key stays the same on both nodes.
        """

        def carve(connection: sa.Connection, head: memoryview) -> None:
            state = _state(connection)
            has_key = connection.execute(sa.select(sa.func.count()).select_from(HASH_KEY)).scalar_one() > 0
            if record.first:
                if has_key:
                    raise InternalError("a first block came to a mask pool that is filled")
                sealed = self._sealer.seal(head[:HASH_KEY_BYTES], "hash key")
                connection.execute(HASH_KEY.insert().values(id=1, sealed=sealed))
                head = head[HASH_KEY_BYTES:]
            elif not has_key:
                return
            if record.masks == 0:
                return
            start, size = state.get("total", 0), record.masks * MASK_BYTES
            for direction, part in ((ALICE_TO_BOB, head[:size]), (BOB_TO_ALICE, head[size:])):
                sealed = self._sealer.seal(part, f"masks/{direction}/{start}")
                connection.execute(
                    MASKS.insert().values(direction=direction, start=start, length=record.masks, sealed=sealed)
                )
            _put(connection, "total", start + record.masks)

        return carve

    def _burn(self, connection: sa.Connection) -> None:
        state = _state(connection)
        for direction in DIRECTIONS:
            gone = max(state.get(f"reserved {direction}", 0), state.get(f"spent {direction}", 0))
            _put(connection, f"spent {direction}", gone)
            self._erase(connection, direction, gone)

    @staticmethod
    def _erase(connection: sa.Connection, direction: str, below: int) -> None:
        connection.execute(
            MASKS.delete().where(MASKS.c.direction == direction, MASKS.c.start + MASKS.c.length <= below)
        )

    def _load(self, connection: sa.Connection) -> None:
        state = _state(connection)
        sealed_key = connection.execute(sa.select(HASH_KEY.c.sealed)).scalar()
        rows = connection.execute(sa.select(MASKS)).all()
        with self._lock:
            fresh = state.get("total", 0) < self._total  # re-bootstrapped: what memory knows is of another pool
            for direction in DIRECTIONS:
                reserved = state.get(f"reserved {direction}", 0)
                spent = state.get(f"spent {direction}", 0)
                self._reserved[direction] = reserved if fresh else max(reserved, self._reserved[direction])
                self._spent[direction] = spent if fresh else max(spent, self._spent[direction])
                if fresh:
                    self._masks[direction].clear()
            self._hash_key = self._sealer.open(sealed_key, "hash key") if sealed_key is not None else None
            self._total = state.get("total", 0)
            self._established = bool(state.get("established", 0)) or (self._established and not fresh)
            for row in rows:
                known = self._masks[row.direction]
                if row.start + row.length <= self._spent[row.direction] or row.start + row.length - 1 in known:
                    continue
                block = self._sealer.open(row.sealed, f"masks/{row.direction}/{row.start}")
                view = block.reveal()
                for i in range(max(0, self._spent[row.direction] - row.start), row.length):
                    known[row.start + i] = Secret(view[i * MASK_BYTES : (i + 1) * MASK_BYTES])
                view.release()
                block.wipe()
