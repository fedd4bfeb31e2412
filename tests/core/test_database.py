"""The store: durable when it returns, groups do not share fate, a full disk has its own error."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qkdd.core.database import Database
from qkdd.core.errors import StorageFailed, StorageFull
from qkdd.core.sqlite_file import SqliteFile

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
