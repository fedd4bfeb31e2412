"""A new master key while the KMS runs: every sealed record is sealed anew, in small transactions, and survives a crash anywhere.

With the embedded store the new key stands beside the old one (`….next`) from before the first record changes until the last one
has, and both are loaded for as long. At the end it takes the old one's name, and the old one is overwritten.

A store that several processes share is sealed anew by one of them when all of them have the new key: the operator lays it beside
the old one on each machine, lets them change places, and starts the processes one after another each time (decision 0202). A
process that is given its key by systemd, in a folder that it cannot write to, has the new one from the operator too (0241).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.database import Database
from qkdd.core.errors import Kind, SealError, StorageFailed
from qkdd.core.sealing import Sealer, create_successor, load_master_key
from qkdd.core.sqlite_file import SqliteFile
from qkdd.core.zeroise import erase_file
from qkdd.kms import chunks
from qkdd.kms.errors import KmsError
from qkdd.kms.hybrid import exchange_place
from qkdd.kms.mixing import mix_place
from qkdd.kms.schema import ALLOCATIONS, CHUNKS, EXCHANGES, MATERIAL

_LOG = log.get("kms")
_BATCH = 64
_SAMPLE = 4
_NOT_SET = b"none"  # what the units give for a credential that is not there


class NoEarlierKey(KmsError):
    code = "QKD-KMS-ROTATION"
    kind = Kind.PERMANENT
    meaning = (
        "This process cannot make a new master key itself (systemd gives it the key, or others share its store), and it has not "
        "been given a new one beside the earlier one."
    )
    default_remedy = (
        "Let the new key and the earlier one change places (MASTER, MASTER.old) and restart, then rotate; processes that share a "
        "store all get the new key as MASTER.next first. docs/master-key.md has the commands."
    )


def siblings(path: Path) -> tuple[Path, Path]:
    """Where a rotation keeps the next master key, and for a moment the old one."""
    return path.with_name(path.name + ".next"), path.with_name(path.name + ".old")


@dataclass(slots=True)
class Progress:
    """Records that were looked at, of how many. `state`: idle, running or done. `then`: what is left for the operator."""

    state: str = "idle"
    done: int = 0
    total: int = 0
    then: str = ""


class Rotation:
    """Of one KMS. `path`: the master key's file.

    `given`: the new key comes from outside, because the store is shared with other processes or because the key's folder is not
    ours to write to (systemd's credentials).
    """

    def __init__(self, path: Path, database: Database, sealer: Sealer, audit: AuditLog) -> None:
        self._path = path
        self._next, self._old = siblings(path)
        self._database, self._sealer, self._audit = database, sealer, audit
        self._store = database.place.name
        self.given = not isinstance(database.place, SqliteFile) or not os.access(path.parent, os.W_OK)
        self.progress = Progress()

    def resume(self) -> bool:
        """At the start, before the store is read: whether a rotation was under way. Raises CredentialError."""
        if self.given:
            for other in (self._next, self._old):
                if _is_there(other):
                    self._sealer.also_opens(load_master_key(other))
            return False
        if not self._next.exists():
            if self._old.exists():  # the new key has its place
                erase_file(self._old)
            return False
        self._old.unlink(missing_ok=True)  # a second name of the key that is still in use
        self._sealer.add_master(load_master_key(self._next))
        return True

    def begin(self) -> None:
        """Make the new key and seal under it from now on; where it is given that is so already.

        Raises StorageFailed, NoEarlierKey.
        """
        if self.given:
            if not _is_there(self._old):
                raise NoEarlierKey(f"{self._old} is not there: no earlier master key was replaced on this machine")
            self.progress = Progress("running")
            self._audit.write("master key rotation began")
            return
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
        if not self.given:  # others may still have to open what was sealed a moment ago
            await asyncio.to_thread(self._replace)
            self._sealer.drop_earlier()
        self.progress.state = "done"
        self.progress.then = f"erase {self._old.name} at its source and restart" if self.given else ""
        self._audit.write("master key rotated", records=self.progress.done)
        _LOG.info("master key rotated", records=self.progress.done)

    async def check(self) -> None:
        """At the start: whether the records open at all. Raises SealError when none of the oldest and newest does."""
        tried, opened = await self._database.run(partial(_sample, sealer=self._sealer))
        if tried and not opened:
            raise SealError(
                f"{self._store} was not sealed under this master key: none of {tried} records opens",
                remedy=(
                    "Give it the master key that it was made with (MASTER, or the earlier one as MASTER.old); when that is lost "
                    "with its TPM or board see docs/master-key.md."
                ),
            )

    def _replace(self) -> None:
        os.link(self._path, self._old)
        os.rename(self._next, self._path)
        erase_file(self._old)


def _is_there(path: Path) -> bool:
    return path.exists() and path.read_bytes() != _NOT_SET


def _sample(connection: sa.Connection, sealer: Sealer) -> tuple[int, int]:
    """How many of the oldest and newest records were tried, and how many opened."""
    query = sa.select(MATERIAL.c.row, MATERIAL.c.sealed, CHUNKS.c.chunk_id).join(CHUNKS, CHUNKS.c.row == MATERIAL.c.row)
    found = {}
    for order in (MATERIAL.c.row, MATERIAL.c.row.desc()):
        found.update({row.row: row for row in connection.execute(query.order_by(order).limit(_SAMPLE))})
    opened = 0
    for row in found.values():
        with suppress(SealError):
            sealer.open(row.sealed, chunks.place(row.chunk_id))
            opened += 1
    return len(found), opened


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
            unchanged = (MATERIAL.c.row == row.row, MATERIAL.c.sealed == row.sealed)  # since it was read
            connection.execute(MATERIAL.update().where(*unchanged).values(sealed=fresh))
    return len(rows), rows[-1].row if rows else after


def _mixes(connection: sa.Connection, sealer: Sealer, after: object) -> tuple[int, object]:
    query = sa.select(ALLOCATIONS.c.id, ALLOCATIONS.c.mix).where(ALLOCATIONS.c.mix.is_not(None))
    if after is not None:
        query = query.where(ALLOCATIONS.c.id > after)
    rows = connection.execute(query.order_by(ALLOCATIONS.c.id).limit(_BATCH)).all()
    for row in rows:
        fresh = sealer.renew(row.mix, mix_place(row.id))
        if fresh is not None:
            unchanged = (ALLOCATIONS.c.id == row.id, ALLOCATIONS.c.mix == row.mix)  # since it was read
            connection.execute(ALLOCATIONS.update().where(*unchanged).values(mix=fresh))
    return len(rows), rows[-1].id if rows else after


def _exchanges(connection: sa.Connection, sealer: Sealer, after: object) -> tuple[int, object]:
    query = sa.select(EXCHANGES.c.id, EXCHANGES.c.sealed)
    if after is not None:
        query = query.where(EXCHANGES.c.id > after)
    rows = connection.execute(query.order_by(EXCHANGES.c.id).limit(_BATCH)).all()
    for row in rows:
        fresh = sealer.renew(row.sealed, exchange_place(row.id))
        if fresh is not None:
            unchanged = (EXCHANGES.c.id == row.id, EXCHANGES.c.sealed == row.sealed)  # since it was read
            connection.execute(EXCHANGES.update().where(*unchanged).values(sealed=fresh))
    return len(rows), rows[-1].id if rows else after
