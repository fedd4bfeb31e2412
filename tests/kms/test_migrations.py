"""A store of an earlier version is brought up to date with what it holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa

from qkdd.core.database import Database
from qkdd.core.sqlite_file import SqliteFile
from qkdd.kms.schema import MIGRATIONS, RETURNED

from .local import World


def test_from_version_1(tmp_path: Path) -> None:
    async def main() -> None:
        made = World(tmp_path)
        old = Database(SqliteFile(made.store("alice")), MIGRATIONS[:1])
        await old.open()
        await old.run(RETURNED.drop)  # version 1 had none
        await old.close()
        for site in ("alice", "bob"):
            await made.start(site)
        await made.feed(0)
        await made.sync()
        keys = await made.draw("alice", 3)
        assert await made.fetch("bob", list(keys)) == keys
        plan = await made.databases["alice"].run(
            lambda c: c.exec_driver_sql(
                "EXPLAIN QUERY PLAN SELECT * FROM chunks WHERE peer = ? AND owner = ? AND chunks.state = 'live' "
                "AND chunks.cursor < chunks.bytes ORDER BY row LIMIT 1",
                ("kms-bob", "kms-alice"),
            ).fetchall()
        )
        assert any("chunks_drawable" in str(row) for row in plan), plan
        for site in ("alice", "bob"):
            await made.stop(site)

    asyncio.run(main())


def test_a_draw_scans_nothing(tmp_path: Path) -> None:
    """Every query of a draw uses an index: its cost does not grow with what waits to be fetched."""

    async def main() -> None:
        made = World(tmp_path)
        for site in ("alice", "bob"):
            await made.start(site)
        await made.feed(0, 3200)
        await made.sync()
        statements: list[tuple[str, object]] = []

        def watch(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            statements.append((statement, parameters))

        for site in ("alice", "bob"):
            connection = made.databases[site]._connection
            assert connection is not None
            sa.event.listen(connection.engine, "before_cursor_execute", watch)
        await made.draw("alice")
        seen = [s for s in statements if s[0].startswith(("SELECT", "UPDATE", "DELETE"))]
        assert len(seen) > 5
        for statement, parameters in seen:
            plan = await made.databases["alice"].run(
                lambda c, s=statement, p=parameters: c.exec_driver_sql("EXPLAIN QUERY PLAN " + s, p).fetchall()
            )
            scans = [str(row) for row in plan if "SCAN" in str(row) and "pools" not in str(row)]
            assert not scans, (statement, scans)
        for site in ("alice", "bob"):
            await made.stop(site)

    asyncio.run(main())
