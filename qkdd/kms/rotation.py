"""A new master key while the KMS runs: every sealed record is sealed anew, in small transactions, and survives a crash anywhere.

The new key stands beside the old one (`….next`) from before the first record changes until the last one has, and both are
loaded for as long. At the end it takes the old one's name, and the old one is overwritten.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.database import Database
from qkdd.core.errors import StorageFailed
from qkdd.core.sealing import Sealer, create_successor, load_master_key
from qkdd.core.zeroise import erase_file
from qkdd.kms import chunks
from qkdd.kms.hybrid import exchange_place
from qkdd.kms.mixing import mix_place
from qkdd.kms.schema import ALLOCATIONS, CHUNKS, EXCHANGES, MATERIAL

_LOG = log.get("kms")
_BATCH = 64


def siblings(path: Path) -> tuple[Path, Path]:
    """Where a rotation keeps the next master key, and for a moment the old one."""
    return path.with_name(path.name + ".next"), path.with_name(path.name + ".old")


@dataclass(slots=True)
class Progress:
    """Records that were looked at, of how many. `state`: idle, running or done."""

    state: str = "idle"
    done: int = 0
    total: int = 0


class Rotation:
    """Of one KMS with one process. `path`: the master key's file."""

    def __init__(self, path: Path, database: Database, sealer: Sealer, audit: AuditLog) -> None:
        self._path = path
        self._next, self._old = siblings(path)
        self._database, self._sealer, self._audit = database, sealer, audit
        self.progress = Progress()

    def resume(self) -> bool:
        """At the start, before the store is read: whether a rotation was under way. Raises CredentialError."""
        if not self._next.exists():
            if self._old.exists():  # the new key has its place
                erase_file(self._old)
            return False
        self._old.unlink(missing_ok=True)  # a second name of the key that is still in use
        self._sealer.add_master(load_master_key(self._next))
        return True

    def begin(self) -> None:
        """Make the new key and seal under it from now on. Raises StorageFailed."""
        try:
            create_successor(self._next, self._path)
        except OSError as error:
            raise StorageFailed(f"{self._next}: {error.strerror}") from None
        self.progress = Progress("running")
        self._sealer.add_master(load_master_key(self._next))
        self._audit.write("master key rotation began")

    async def run(self) -> None:
        """Seal every record anew, then let the new key take the old one's place. Raises StorageFull, StorageFailed."""
        self.progress = Progress("running", 0, await self._database.run(_count))
        for table in (_material, _mixes, _exchanges):
            after: object = None
            while True:
                step = partial(table, sealer=self._sealer, after=after)
                seen, after = await self._database.run(step)
                self.progress.done += seen
                if seen < _BATCH:
                    break
        await asyncio.to_thread(self._replace)
        self._sealer.drop_earlier()
        self.progress.state = "done"
        self._audit.write("master key rotated", records=self.progress.done)
        _LOG.info("master key rotated", records=self.progress.done)

    def _replace(self) -> None:
        os.link(self._path, self._old)
        os.rename(self._next, self._path)
        erase_file(self._old)


def _count(connection: sa.Connection) -> int:
    mixes = sa.select(sa.func.count()).select_from(ALLOCATIONS).where(ALLOCATIONS.c.mix.is_not(None))
    others = [sa.select(sa.func.count()).select_from(table) for table in (MATERIAL, EXCHANGES)]
    return sum(int(connection.execute(query).scalar_one()) for query in (mixes, *others))


def _material(connection: sa.Connection, sealer: Sealer, after: object) -> tuple[int, object]:
    query = sa.select(MATERIAL.c.row, MATERIAL.c.sealed, CHUNKS.c.chunk_id).join(CHUNKS, CHUNKS.c.row == MATERIAL.c.row)
    if after is not None:
        query = query.where(MATERIAL.c.row > after)
    rows = connection.execute(query.order_by(MATERIAL.c.row).limit(_BATCH)).all()
    for row in rows:
        fresh = sealer.renew(row.sealed, chunks.place(row.chunk_id))
        if fresh is not None:
            connection.execute(MATERIAL.update().where(MATERIAL.c.row == row.row).values(sealed=fresh))
    return len(rows), rows[-1].row if rows else after


def _mixes(connection: sa.Connection, sealer: Sealer, after: object) -> tuple[int, object]:
    query = sa.select(ALLOCATIONS.c.id, ALLOCATIONS.c.mix).where(ALLOCATIONS.c.mix.is_not(None))
    if after is not None:
        query = query.where(ALLOCATIONS.c.id > after)
    rows = connection.execute(query.order_by(ALLOCATIONS.c.id).limit(_BATCH)).all()
    for row in rows:
        fresh = sealer.renew(row.mix, mix_place(row.id))
        if fresh is not None:
            connection.execute(ALLOCATIONS.update().where(ALLOCATIONS.c.id == row.id).values(mix=fresh))
    return len(rows), rows[-1].id if rows else after


def _exchanges(connection: sa.Connection, sealer: Sealer, after: object) -> tuple[int, object]:
    query = sa.select(EXCHANGES.c.id, EXCHANGES.c.sealed)
    if after is not None:
        query = query.where(EXCHANGES.c.id > after)
    rows = connection.execute(query.order_by(EXCHANGES.c.id).limit(_BATCH)).all()
    for row in rows:
        fresh = sealer.renew(row.sealed, exchange_place(row.id))
        if fresh is not None:
            connection.execute(EXCHANGES.update().where(EXCHANGES.c.id == row.id).values(sealed=fresh))
    return len(rows), rows[-1].id if rows else after
