"""The store: durable when it returns, groups do not share fate, a full disk has its own error."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qkdd.core.database import Database, is_alive, owner
from qkdd.core.errors import StorageFailed, StorageFull, StorageSilent
from qkdd.core.sqlite_file import SqliteFile
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S

META = sa.MetaData()
ITEMS = sa.Table("items", META, sa.Column("id", sa.Integer, primary_key=True), sa.Column("data", sa.LargeBinary))


def _first(connection: sa.Connection) -> None:
    META.create_all(connection)


def _store(tmp_path: Path) -> Database:
    return Database(SqliteFile(tmp_path / "s.db"), [_first])


def _insert(number: int, size: int = 1) -> Any:
    return lambda c: c.execute(ITEMS.insert().values(id=number, data=bytes(size))).rowcount


def test_durable_and_reopened(tmp_path: Path) -> None:
    async def main() -> None:
        store = _store(tmp_path)
        await store.open()
        await store.run(_insert(1))
        with sqlite3.connect(tmp_path / "s.db") as other:  # seen by another connection as soon as run() returned
            assert other.execute("SELECT count(*) FROM items").fetchone() == (1,)
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.close()
        await store.close()
        await store.close()
        again = _store(tmp_path)
        await again.open()
        assert await again.run(lambda c: c.execute(sa.select(sa.func.count()).select_from(ITEMS)).scalar()) == 1
        await again.close()

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before


def test_a_failing_neighbour_fails_alone(tmp_path: Path) -> None:
    async def main() -> None:
        store = _store(tmp_path)
        await store.open()
        gate = threading.Event()
        first = asyncio.create_task(store.run(lambda c: gate.wait(10)))
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(store.run(_insert(n))) for n in (1, 2, 2, 3)]
        await asyncio.sleep(0)
        gate.set()
        await first
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(r, StorageFailed) for r in results] == [False, False, True, False]
        ids = await store.run(lambda c: list(c.execute(sa.select(ITEMS.c.id).order_by(ITEMS.c.id)).scalars()))
        assert ids == [1, 2, 3]
        await store.close()

    asyncio.run(main())


def test_the_disk_is_full_and_becomes_free(tmp_path: Path) -> None:
    async def main() -> None:
        store = _store(tmp_path)
        await store.open()
        await store.run(_insert(1))
        # PRAGMA max_page_count makes SQLite report a full disk without one
        pages = await store.run(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
        await store.run(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())
        with pytest.raises(StorageFull, match="disk is full"):
            await store.run(_insert(2, 100_000))
        await store.run(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 100000").scalar())
        await store.run(_insert(2, 100_000))
        ids = await store.run(lambda c: list(c.execute(sa.select(ITEMS.c.id)).scalars()))
        assert sorted(ids) == [1, 2]
        await store.close()

    asyncio.run(main())


def test_one_owner_and_no_newer_schema(tmp_path: Path) -> None:
    async def main() -> None:
        store = _store(tmp_path)
        await store.open()
        with pytest.raises(StorageFailed, match="another process"):
            await _store(tmp_path).open()
        await store.close()
        newer = Database(SqliteFile(tmp_path / "s.db"), [_first, lambda c: None])
        await newer.open()
        await newer.close()
        with pytest.raises(StorageFailed, match="newer"):
            await _store(tmp_path).open()
        with pytest.raises(StorageFailed, match="not open"):
            await store.run(lambda c: None)

    asyncio.run(main())


def test_a_file_that_another_program_locks(tmp_path: Path) -> None:
    """All that waits is told at once and together, and the store goes on when the lock is gone."""

    async def main() -> None:
        seen: list[bool] = []
        store = Database(SqliteFile(tmp_path / "s.db", 0.2), [_first], deadline=30.0, on_silence=seen.append)
        await store.open()
        with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            tries: list[BaseException] = []
            true_error = store.place.error
            store.place.error = lambda error: tries.append(error) or true_error(error)  # type: ignore[method-assign,func-returns-value]
            results = await asyncio.gather(*(store.run(_insert(n)) for n in range(100)), return_exceptions=True)
            assert len(tries) < 5  # not one after the other
            assert {type(r) for r in results} == {StorageSilent}
            other.execute("ROLLBACK")
        await store.run(_insert(1))
        assert seen == [True, False]
        await store.close()

    asyncio.run(main())


def test_a_store_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    """After the deadline all are told; what had not begun never runs; one at a time tries, the others are told at once."""

    async def main() -> None:
        clock, seen, ran = FakeClock(), list[bool](), list[str]()
        store = Database(SqliteFile(tmp_path / "s.db"), [_first], deadline=10.0, clock=clock, on_silence=seen.append)
        await store.open()
        first, gate = await store.run(owner), threading.Event()

        def hangs(connection: sa.Connection) -> None:
            _insert(1)(connection)
            begun.set()
            gate.wait(30)

        begun = threading.Event()
        hanging = asyncio.create_task(store.run(hangs))
        await asyncio.to_thread(begun.wait)
        waiting = asyncio.create_task(store.run(lambda c: ran.append("waiting")))
        await clock.advance(9.9)
        assert not hanging.done()
        await clock.advance(0.1)
        for task in (hanging, waiting):
            with pytest.raises(StorageSilent, match="no answer within 10 s"):
                await task
        with pytest.raises(StorageSilent, match="another request"):
            await store.run(lambda c: ran.append("at once"))
        assert seen == [True]
        gate.set()  # its transaction may be there or not: in doubt
        while True:
            try:
                fresh = await store.run(owner)
                break
            except StorageSilent:
                await asyncio.sleep(0)
        assert fresh != first  # what the hanging one had reserved is nobody's
        assert not await store.run(lambda c: is_alive(c, first))
        assert (ran, seen) == ([], [True, False])
        await store.close()

    asyncio.run(main())


def test_closing_does_not_wait_for_a_store_that_hangs(tmp_path: Path) -> None:
    async def main() -> None:
        store = Database(SqliteFile(tmp_path / "s.db"), [_first], deadline=PATIENCE_S)
        await store.open()
        store._deadline = 0.1  # a busy machine may need longer to open it
        gate = threading.Event()
        with pytest.raises(StorageSilent):
            await store.run(lambda c: gate.wait(PATIENCE_S))
        worker = store._thread
        await store.close()
        assert worker is not None
        assert worker.is_alive()
        gate.set()
        await asyncio.to_thread(worker.join)
        store.place.close()

    asyncio.run(main())
