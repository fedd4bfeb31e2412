"""A durable SQLite store behind one worker thread: the event loop never waits for a disk.

Work is handed over as a function of a SQLAlchemy connection and runs in a transaction; the awaiting caller goes on only
after the commit reached the disk (WAL, synchronous=FULL). Work that arrives while a commit is under way is committed
together (group commit), so many concurrent callers share one fsync. A work function may run twice (alone, after a
neighbour in its group failed) and so must have no effect but on the connection.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from qkdd.core.errors import QkddError, StorageFailed, StorageFull

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
Migration = Callable[[sa.Connection], None]

_GROUP = 256  # most pieces of work in one commit
_VERSION = sa.table("schema_version", sa.column("version", sa.Integer))


@dataclass
class _Job:
    work: Work[Any]
    future: Future[Any]


def storage_error(path: Path, error: BaseException) -> QkddError:
    """What a driver's exception means to an operator: StorageFull or StorageFailed."""
    text = str(getattr(error, "orig", None) or error)
    if "disk is full" in text or "No space left" in text:
        return StorageFull(f"{path}: {text}")
    return StorageFailed(f"{path}: {text}")


class Database:
    """One SQLite file, one owner process, one thread. `migrations[i]` brings the schema from version i to i+1."""

    def __init__(self, path: Path, migrations: Sequence[Migration]) -> None:
        self.path = path
        self._migrations = migrations
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = -1
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None

    async def open(self) -> None:
        """Create or migrate the file and start the worker. Raises StorageFailed (also when another process has it)."""
        if self._thread is not None:
            return
        try:
            await asyncio.to_thread(self._open)
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"store-{self.path.name}", daemon=True)
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
            raise StorageFailed(f"{self.path}: the store is not open")
        job = _Job(work, Future())
        self._jobs.put(job)
        return job.future

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except BlockingIOError:
            raise StorageFailed(
                f"{self.path}: another process has the store open", remedy="stop the other process; one owner per store"
            ) from None
        except OSError as error:
            raise storage_error(self.path, error) from None
        engine = sa.create_engine(
            "sqlite+pysqlite://",
            creator=self._connect,
            poolclass=StaticPool,
        )
        sa.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        self._engine = engine
        try:
            self._connection = engine.connect()
            with self._connection.begin():
                self._migrate(self._connection)
        except sa.exc.DBAPIError as error:
            raise storage_error(self.path, error) from None

    def _connect(self) -> Any:
        import sqlite3

        raw = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        for pragma in (
            "busy_timeout = 5000",
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",
            "foreign_keys = ON",
            "temp_store = MEMORY",
        ):
            raw.execute(f"PRAGMA {pragma}")
        return raw

    def _migrate(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        version = connection.execute(sa.select(_VERSION.c.version)).scalar()
        if version is None:
            connection.execute(_VERSION.insert().values(version=0))
            version = 0
        if version > len(self._migrations):
            raise StorageFailed(
                f"{self.path}: schema {version} is newer than this program's {len(self._migrations)}",
                remedy="run the program version that wrote the store, or a newer one",
            )
        for step in self._migrations[version:]:
            step(connection)
        connection.execute(_VERSION.update().values(version=len(self._migrations)))

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

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
            results = self._transaction(group)
        except BaseException as error:
            if len(group) > 1:  # one member failed: each alone, so that only the guilty one sees it
                for job in group:
                    self._commit([job])
                return
            if isinstance(error, sa.exc.DBAPIError):
                error = storage_error(self.path, error)
            group[0].future.set_exception(error)
            return
        for job, result in zip(group, results, strict=True):
            job.future.set_result(result)

    def _transaction(self, group: list[_Job]) -> list[Any]:
        connection = self._connection
        if connection is None:
            raise StorageFailed(f"{self.path}: the store is closed")
        with connection.begin():
            return [job.work(connection) for job in group]
