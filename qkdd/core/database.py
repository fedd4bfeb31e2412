"""A durable store behind one worker thread: the event loop never waits for a disk.

Work is handed over as a function of a SQLAlchemy connection and runs in a transaction; the awaiting caller goes on only
after the commit is durable. Work that arrives while a commit is under way is committed together (group commit), so many
concurrent callers share one fsync. A work function may run twice (alone, after a neighbour in its group failed) and so must
have no effect but on the connection.

Transactions of one store never overlap, whoever makes them: a work function sees the store as if it were alone. SQLite has
one owner process; PostgreSQL may have several (replicas), which take turns.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from qkdd.core.errors import QkddError, StorageFailed

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
Migration = Callable[[sa.Connection], None]

_GROUP = 256  # most pieces of work in one commit
_VERSION = sa.table("schema_version", sa.column("version", sa.Integer))


@dataclass
class _Job:
    work: Work[Any]
    future: Future[Any]


class Place(Protocol):
    """Where a store lives: `qkdd.core.sqlite_file.SqliteFile` or `qkdd.core.postgres.Postgres`."""

    @property
    def name(self) -> str:
        """For messages and the worker's name; without credentials."""

    def open(self) -> sa.Connection:
        """Connect; `connection.info["owner"]` is a number that no other opening has. Raises StorageFailed."""

    def close(self) -> None:
        """Idempotent."""

    def reading(self) -> sa.URL:
        """For looking at the tables from outside, whether a service has the store open or not."""

    def error(self, error: BaseException) -> QkddError:
        """What a driver's exception means to an operator: StorageFull or StorageFailed."""


def owner(connection: sa.Connection) -> int:
    """The number of this opening of the store; a reservation that is marked with it dies with it."""
    return int(connection.info["owner"])


def is_alive(connection: sa.Connection, number: int) -> bool:
    """Whether the opening of the store with this number is still connected."""
    if number == owner(connection):
        return True
    if connection.dialect.name == "sqlite":
        return False  # one owner process: whoever it was has gone
    free = connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(number))).scalar_one()
    return not free  # every opening holds the lock of its number for as long as it is connected


class Upsert:
    """Insert a row; where one with this key is there already, set what `changed(old, new)` says (column → expression)."""

    def __init__(self, table: sa.Table, key: Sequence[str], changed: Callable[[sa.Table, Any], dict[str, Any]]) -> None:
        self._made: dict[str, sa.Executable] = {}
        for name, insert in (("sqlite", sqlite.insert(table)), ("postgresql", postgresql.insert(table))):
            self._made[name] = insert.on_conflict_do_update(
                index_elements=list(key), set_=changed(table, insert.excluded)
            )

    def __call__(self, connection: sa.Connection, values: dict[str, Any]) -> None:
        connection.execute(self._made[connection.dialect.name], values)


class Database:
    """One store, one thread. `migrations[i]` brings the schema from version i to i+1."""

    def __init__(self, place: Place, migrations: Sequence[Migration]) -> None:
        self.place = place
        self._migrations = migrations
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sa.Connection | None = None

    async def open(self) -> None:
        """Create or migrate the tables and start the worker. Raises StorageFailed (also when another process has the file)."""
        if self._thread is not None:
            return
        try:
            await asyncio.to_thread(self._open)
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"store-{self.place.name}", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Finish the work that was handed over, then close. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)
        self._release()

    async def run(self, work: Work[T]) -> T:
        """Run `work` in a transaction; returns its result once it is durable.

        An exception of `work` rolls its own changes back and is raised here. Raises StorageFull, StorageFailed.
        """
        return await asyncio.wrap_future(self._submit(work))

    def run_blocking(self, work: Work[T]) -> T:
        """As `run`, for worker threads and for callers whose contract is synchronous."""
        return self._submit(work).result()

    def _submit(self, work: Work[T]) -> Future[T]:
        if self._thread is None:
            raise StorageFailed(f"{self.place.name}: the store is not open")
        job = _Job(work, Future())
        self._jobs.put(job)
        return job.future

    def _open(self) -> None:
        self._connection = connection = self.place.open()
        try:
            with connection.begin():
                self._migrate(connection)
        except sa.exc.DBAPIError as error:
            raise self.place.error(error) from None

    def _migrate(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        version = connection.execute(sa.select(_VERSION.c.version)).scalar()
        if version is None:
            connection.execute(_VERSION.insert().values(version=0))
            version = 0
        if version > len(self._migrations):
            raise StorageFailed(
                f"{self.place.name}: schema {version} is newer than this program's {len(self._migrations)}",
                remedy="run the program version that wrote the store, or a newer one",
            )
        for step in self._migrations[version:]:
            step(connection)
        connection.execute(_VERSION.update().values(version=len(self._migrations)))

    def _release(self) -> None:
        self._connection = None
        self.place.close()

    def _serve(self) -> None:
        last = False
        while not last:
            group: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                group.append(job)
                if len(group) == _GROUP or self._jobs.empty():
                    break
                job = self._jobs.get()
            last = job is None
            # a caller that was cancelled while its work waited is dropped; from here on work is not cancelled
            group = [job for job in group if job.future.set_running_or_notify_cancel()]
            if group:
                self._commit(group)

    def _commit(self, group: list[_Job]) -> None:
        try:
            if self._connection is None:  # lost before
                self._connection = self.place.open()
        except BaseException as error:  # no server: asked once for the whole group, not once for each of it
            for job in group:
                job.future.set_exception(error)
            return
        try:
            results = self._transaction(group, self._connection)
        except BaseException as error:
            if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
                # whether the transaction was committed is unknown, so none of it may run again by itself
                self._release()
                for job in group:
                    job.future.set_exception(self.place.error(error))
                return
            if len(group) > 1:  # one member failed: each alone, so that only the guilty one sees it
                for job in group:
                    self._commit([job])
                return
            if isinstance(error, sa.exc.DBAPIError):
                error = self.place.error(error)
            group[0].future.set_exception(error)
            return
        for job, result in zip(group, results, strict=True):
            job.future.set_result(result)

    @staticmethod
    def _transaction(group: list[_Job], connection: sa.Connection) -> list[Any]:
        with connection.begin():
            return [job.work(connection) for job in group]
