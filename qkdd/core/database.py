"""A durable store behind one worker thread: the event loop never waits for a disk.

Work is handed over as a function of a SQLAlchemy connection and runs in a transaction; the awaiting caller goes on only
after the commit is durable. Work that arrives while a commit is under way is committed together (group commit), so many
concurrent callers share one fsync. A work function may run twice (alone, after a neighbour in its group failed) and so must
have no effect but on the connection.

Transactions of one store never overlap, whoever makes them: a work function sees the store as if it were alone. SQLite has
one owner process; PostgreSQL may have several (replicas), which take turns.

A store with a deadline does not keep a caller waiting: work that was not begun by then never runs; what is under way is cut off
and is in doubt, as when the line to the store is lost. The opening of the store ends with it, so that nothing which it had
reserved is taken for alive. Until a transaction succeeds again one caller at a time tries, and the others are told at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from qkdd.core.clock import Clock, SystemClock
from qkdd.core.errors import QkddError, StorageFailed, StorageSilent

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
Migration = Callable[[sa.Connection], None]

_GROUP = 256  # most pieces of work in one commit
_VERSION = sa.table("schema_version", sa.column("version", sa.Integer))


@dataclass
class _Job(Generic[T]):
    work: Work[T]
    future: Future[T]


class Place(Protocol):
    """Where a store lives: `qkdd.core.sqlite_file.SqliteFile` or `qkdd.core.postgres.Postgres`."""

    @property
    def name(self) -> str:
        """For messages and the worker's name; without credentials."""

    def open(self) -> sa.Connection:
        """Connect; `connection.info["owner"]` is a number that no other opening has. Raises StorageFailed."""

    def close(self) -> None:
        """Idempotent."""

    def interrupt(self) -> None:
        """From any thread: end what the connection waits for, with an error; nothing when it is not open."""

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

    def __init__(
        self,
        place: Place,
        migrations: Sequence[Migration],
        *,
        deadline: float | None = None,
        clock: Clock | None = None,
        on_silence: Callable[[bool], object] = lambda _silent: None,
    ) -> None:
        """deadline: s for `open` (migrations apart) and for each `run`. on_silence: called from any thread with True when the
        store missed one, with False when it answers again."""
        self.place = place
        self._migrations = migrations
        self._deadline, self._clock, self._on_silence = deadline, clock or SystemClock(), on_silence
        self._guard = threading.Lock()  # of the three below
        self._running: list[_Job[Any]] = []  # what the worker has in hand
        self._late = False  # a caller of it has gone
        self._silent = False
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sa.Connection | None = None

    async def open(self) -> None:
        """Create or migrate the tables and start the worker. Raises StorageFailed (also when another process has the file)."""
        if self._thread is not None:
            return
        try:
            await self._connect()
            await asyncio.to_thread(self._migrate_all)
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"store-{self.place.name}", daemon=True)
        self._thread.start()

    async def _connect(self) -> None:
        opening = asyncio.ensure_future(asyncio.to_thread(self.place.open))
        try:
            if self._deadline is None:
                self._connection = await opening
                return
            async with self._clock.deadline(self._deadline):
                self._connection = await asyncio.shield(opening)
        except TimeoutError:
            self.place.interrupt()
            await asyncio.wait([opening])
            opening.exception()  # of the cut line
            raise self._no_answer() from None

    async def close(self) -> None:
        """Finish the work that was handed over, then close. Idempotent. What has no end is cut off after the deadline."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join, self._deadline)
            if thread.is_alive():
                self.place.interrupt()
                await asyncio.to_thread(thread.join, self._deadline)
            if thread.is_alive():  # a disk that hangs: it holds the connection until the process ends
                return
        self._release()

    async def run(self, work: Work[T]) -> T:
        """Run `work` in a transaction; returns its result once it is durable.

        An exception of `work` rolls its own changes back and is raised here. Raises StorageFull, StorageFailed, StorageSilent.
        """
        job = self._submit(work)
        if self._deadline is None:
            return await asyncio.wrap_future(job.future)
        try:
            async with self._clock.deadline(self._deadline):
                return await asyncio.wrap_future(job.future)
        except TimeoutError:
            raise self._give_up(job) from None

    def run_blocking(self, work: Work[T]) -> T:
        """As `run`, for worker threads and for callers whose contract is synchronous."""
        job = self._submit(work)
        try:
            return job.future.result(self._deadline)
        except TimeoutError:
            job.future.cancel()  # unless it runs
            raise self._give_up(job) from None

    def _submit(self, work: Work[T]) -> _Job[T]:
        if self._thread is None:
            raise StorageFailed(f"{self.place.name}: the store is not open")
        with self._guard:
            wait = self._silent and (bool(self._running) or not self._jobs.empty())
            late = self._late
        if late:  # cut off before it had a line to cut
            self.place.interrupt()
        if wait:
            raise StorageSilent(f"{self.place.name}: no answer since a while; another request tries it now")
        job = _Job(work, Future())
        self._jobs.put(job)
        return job

    def _give_up(self, job: _Job[Any]) -> StorageSilent:
        """The deadline of a job has passed: it never runs, or is cut off."""
        with self._guard:
            self._late = late = self._late or any(one is job for one in self._running)
        if late:
            self.place.interrupt()
        return self._no_answer()

    def _no_answer(self) -> StorageSilent:
        self._note(True)
        return StorageSilent(f"{self.place.name}: no answer within {self._deadline:g} s")

    def _note(self, silent: bool) -> None:
        with self._guard:
            changed, self._silent = self._silent != silent, silent
        if changed:
            self._on_silence(silent)

    def _migrate_all(self) -> None:
        connection = self._connection
        if connection is None:
            raise AssertionError("connected before")
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
        if version < len(self._migrations) and connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large table may take its time
        for step in self._migrations[version:]:
            step(connection)
        connection.execute(_VERSION.update().values(version=len(self._migrations)))

    def _release(self) -> None:
        self._connection = None
        self.place.close()

    def _serve(self) -> None:
        last = False
        while not last:
            group: list[_Job[Any]] = []
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
                with self._guard:
                    self._running = group
                self._commit(group)
                with self._guard:
                    late, self._running, self._late = self._late, [], False
                if late:
                    self._release()

    def _commit(self, group: list[_Job[Any]]) -> None:
        try:
            if self._connection is None:  # lost before
                self._connection = self.place.open()
            transaction = self._connection.begin()
        except BaseException as error:  # no server, or no turn: asked once for the whole group, not once for each of it
            if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
                self._release()
            self._fail(group, self._told(error))
            return
        try:
            with transaction:
                results = [job.work(self._connection) for job in group]
        except BaseException as error:
            lost = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
            if lost:
                self._release()
            if (
                lost or self._late
            ):  # whether the transaction was committed is unknown, so none of it may run again by itself
                self._fail(group, self._told(error))
                return
            if len(group) > 1:  # one member failed: each alone, so that only the guilty one sees it
                for job in group:
                    self._commit([job])
                return
            self._fail(group, self._told(error))
            return
        self._note(False)
        for job, result in zip(group, results, strict=True):
            job.future.set_result(result)

    def _told(self, error: BaseException) -> BaseException:
        return self.place.error(error) if isinstance(error, sa.exc.DBAPIError) else error

    def _fail(self, group: list[_Job[Any]], error: BaseException) -> None:
        if isinstance(error, StorageSilent):
            self._note(True)
        for job in group:
            job.future.set_exception(error)
