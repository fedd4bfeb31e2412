"""Two-phase commit: cut the line or kill a side at every step, and both sides come to the same end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qkdd.core.database import Database
from qkdd.core.errors import QkddError, StorageFull
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.core.sqlite_file import SqliteFile
from qkdd.keys.errors import BlockInconsistent, CommitInDoubt, CommitRefused, SpoolLimit, UnknownBlock
from qkdd.keys.schema import BLOCKS, MIGRATIONS
from qkdd.peer import ALICE_TO_BOB, PeerAborted, Role

from .nodes import MASTER, TARGET, Block, Node, block, both, check_equal, committed, pair, settled, text
from .wire import FakeSession, Wire


def test_the_first_block_fills_the_reserve_and_the_rest_waits(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        first = await committed(a, b, 5)
        assert [r.bytes for r in first] == [700 - 16 - TARGET * 32] * 2
        assert a.masks.available(ALICE_TO_BOB) == TARGET
        second = await committed(a, b, 6)
        assert [(r.sequence, r.bytes, r.masks) for r in second] == [(2, 700, 0)] * 2
        whole = text(5)
        assert (await a.chunks())[first[0].id.hex()] == whole[16 + TARGET * 32 :]
        assert await check_equal(a, b) == 2
        assert (a.accepted, b.accepted) == (2, 2)
        await a.close()
        await b.close()

    asyncio.run(main())


def test_a_first_block_smaller_than_the_reserve_goes_wholly_into_it(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        records = await committed(a, b, 1, 16 + 3 * 32)
        assert [(r.bytes, r.state) for r in records] == [(0, "released")] * 2
        assert await check_equal(a, b) == 0
        await committed(a, b, 2)
        assert a.masks.available(ALICE_TO_BOB) == TARGET
        assert await check_equal(a, b) == 1
        await a.close()
        await b.close()

    asyncio.run(main())


@pytest.mark.parametrize("role", ["alice", "bob"])
@pytest.mark.parametrize("step", range(1, 6))
@pytest.mark.parametrize("number", [1, 2])
def test_cut_at_every_step(tmp_path: Path, role: Role, step: int, number: int) -> None:
    """The process dies there too: stores are closed and opened again before settling. Block 1 carries the masks."""

    async def main() -> None:
        a, b = await pair(tmp_path)
        for earlier in range(1, number):
            await committed(a, b, earlier)
        await settled(a, b)
        wire = Wire()

        async def work(node: Node, session: FakeSession) -> Any:
            await node.committer.settle(session)
            if node.role == role:  # count from the commit on
                wire.cut_role, wire.cut_at = role, wire.operations[role] + step
            return await node.committer.commit(block(number), session)

        results = await both(wire, a, b, work)
        assert wire.was_cut or all(not isinstance(r, BaseException) for r in results)
        await a.close()
        await b.close()
        a, b = await pair(tmp_path)
        await settled(a, b)
        count = await check_equal(a, b)
        assert count in (number - 1, number)
        if not any(isinstance(r, BaseException) for r in results):
            assert count == number
        # a side that was told "accepted" keeps it
        if any(not isinstance(r, BaseException) for r in results):
            assert count == number
        await committed(a, b, number + 1)
        assert await check_equal(a, b) == count + 1
        await a.close()
        await b.close()

    asyncio.run(main())


@pytest.mark.parametrize("role", ["alice", "bob"])
@pytest.mark.parametrize("method", ["prepare", "commit", "accept"])
@pytest.mark.parametrize("after", [False, True])
def test_the_store_fails_at_every_transition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Role, method: str, after: bool
) -> None:
    """Before the write, or after it with the answer lost: as a full disk or a kill would do."""

    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        victim = a if role == "alice" else b
        real = getattr(victim.spool, method)

        async def failing(*args: Any, **kwargs: Any) -> Any:
            if after:
                await real(*args, **kwargs)
            raise StorageFull("no space (test)")

        async def work(node: Node, session: FakeSession) -> Any:
            await node.committer.settle(session)
            monkeypatch.setattr(victim.spool, method, failing)
            try:
                return await node.committer.commit(block(2), session)
            except CommitInDoubt:
                session.wire.was_cut = True  # the link closes the session
                for queue in session.wire.queues.values():
                    queue.put_nowait(None)
                raise
            except Exception as error:
                await session.abort(error)  # type: ignore[arg-type]
                raise

        results = await both(Wire(), a, b, work)
        assert any(isinstance(r, BaseException) for r in results)
        await a.close()
        await b.close()
        a, b = await pair(tmp_path)
        await settled(a, b)
        count = await check_equal(a, b)
        assert count == 1 or method != "prepare" or after
        await committed(a, b, 3)
        assert await check_equal(a, b) == count + 1
        await a.close()
        await b.close()

    asyncio.run(main())


def test_settlement_itself_is_cut(tmp_path: Path) -> None:
    async def main() -> None:
        for cut in range(1, 6):
            root = tmp_path / str(cut)
            a, b = await pair(root)
            await settled(a, b)
            wire = Wire()

            async def work(node: Node, session: FakeSession, wire: Wire = wire) -> Any:
                await node.committer.settle(session)
                if node.role == "alice":
                    wire.cut_role, wire.cut_at = "alice", wire.operations["alice"] + 4
                return await node.committer.commit(block(1), session)

            await both(wire, a, b, work)
            await both(Wire("bob", cut), a, b, lambda n, s: n.committer.settle(s))
            await settled(a, b)
            assert await check_equal(a, b) == 1
            await a.close()
            await b.close()

    asyncio.run(main())


def test_bob_refuses_another_block(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)

        async def work(node: Node, session: FakeSession) -> Any:
            await node.committer.settle(session)
            try:
                return await node.committer.commit(block(1, 700 if node.role == "alice" else 701), session)
            except CommitRefused as error:
                await session.abort(error)
                raise

        results = await both(Wire(), a, b, work)
        assert isinstance(results[0], PeerAborted)
        assert isinstance(results[1], CommitRefused)
        assert await check_equal(a, b) == 0
        await committed(a, b, 2)
        assert await check_equal(a, b) == 1
        await a.close()
        await b.close()

    asyncio.run(main())


def test_commit_needs_a_settlement_and_a_restored_disk_is_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        with pytest.raises(CommitInDoubt):
            await a.committer.commit(block(1), FakeSession(Wire(), "alice"))  # type: ignore[arg-type]
        await committed(a, b, 1)
        await b.close()
        for left in list(tmp_path.glob("b.db*")):  # noqa: ASYNC240  # a test
            left.unlink()
        b = await Node(tmp_path / "b.db", "bob").open()
        results = await both(Wire(), a, b, lambda n, s: n.committer.settle(s))
        assert all(isinstance(r, BlockInconsistent) for r in results)
        await a.close()
        await b.close()

    asyncio.run(main())


def test_the_spool_has_a_limit(tmp_path: Path) -> None:
    async def main() -> None:
        a = await Node(tmp_path / "a.db", "alice", limit=1000).open()
        b = await Node(tmp_path / "b.db", "bob").open()

        async def work(node: Node, session: FakeSession) -> Any:
            await node.committer.settle(session)
            try:
                return await node.committer.commit(block(9, 1200), session)
            except SpoolLimit as error:
                await session.abort(error)
                raise

        results = await both(Wire(), a, b, work)
        assert isinstance(results[0], SpoolLimit)
        assert isinstance(results[1], PeerAborted)
        assert await check_equal(a, b) == 0
        await a.close()
        await b.close()

    asyncio.run(main())


def test_no_key_byte_on_the_wire_or_unsealed_on_the_disk(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        said: list[str] = []
        key = text(1)

        async def work(node: Node, session: FakeSession) -> Any:
            await node.committer.settle(session)
            mine: Block = block(1)
            result = await node.committer.commit(mine, session)
            assert not any(mine.key.reveal())  # wiped
            return result

        class Listening(Wire):
            def step(self, role: Role) -> None:
                said.extend(repr(m) for q in self.queues.values() for m in list(q._queue))  # type: ignore[attr-defined]
                super().step(role)

        await both(Listening(), a, b, work)
        parts = [key[i : i + 8] for i in range(0, len(key) - 8, 8)]
        assert not any(repr(p)[2:-1] in line for p in parts for line in said)
        await a.close()
        for file in list(tmp_path.glob("a.db*")):  # noqa: ASYNC240  # a test
            data = file.read_bytes()
            assert [p for p in parts if p in data] == [], file
        await b.close()

    asyncio.run(main())


def test_steps_that_a_block_cannot_take_are_refused_and_change_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        await committed(a, b, 2)
        chunks = await a.chunks()
        (held,) = [bytes.fromhex(chunk) for chunk in list(chunks)[:1]]
        for step in (
            a.spool.void(held),  # it is key already
            a.spool.commit(held),
            a.spool.accept(held, lambda record: lambda connection, head: None),
            a.spool.accept(bytes(16), lambda record: lambda connection, head: None),  # nobody knows this one
            a.spool.commit(bytes(16)),
        ):
            with pytest.raises(UnknownBlock) as caught:
                await step
            assert caught.value.code == "QKD-KEYS-UNKNOWN-BLOCK"
        await a.spool.void(bytes(16))  # an unknown block stays unknown
        assert await a.chunks() == chunks
        await check_equal(a, b)
        await a.close()
        await b.close()

    asyncio.run(main())


@pytest.mark.parametrize("role", ["alice", "bob"])
def test_the_disk_is_really_full_and_becomes_free(tmp_path: Path, role: Role) -> None:
    """SQLite's own "disk is full" (PRAGMA max_page_count) on one node: no key on either, and key again afterwards."""

    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        before = {**await a.chunks()}
        victim = a if role == "alice" else b
        pages = await victim.database.run(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
        await victim.database.run(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())

        async def work(node: Node, session: FakeSession) -> Any:
            await node.committer.settle(session)
            try:
                return await node.committer.commit(block(2, 200_000), session)
            except QkddError as error:
                await session.abort(error)
                raise

        results = await both(Wire(), a, b, work)
        assert StorageFull in {type(result) for result in results}
        assert all(isinstance(result, QkddError) for result in results)
        await victim.database.run(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000").scalar())
        await settled(a, b)
        assert await a.chunks() == before
        await check_equal(a, b)
        await committed(a, b, 3, 200_000)
        assert len(await a.chunks()) == len(before) + 1
        await check_equal(a, b)
        await a.close()
        await b.close()

    asyncio.run(main())


def test_a_store_of_version_2_keeps_its_chunks_and_settles_what_is_in_doubt(tmp_path: Path) -> None:
    """One chunk waits and one block is in doubt on both nodes, each with its key whole in the row."""

    async def main() -> None:
        for role in ("alice", "bob"):
            old = Database(SqliteFile(tmp_path / f"{role[0]}.db"), MIGRATIONS[:2])
            await old.open()
            sealer = Sealer(Secret(MASTER), "spool")

            def work(connection: sa.Connection, sealer: Sealer = sealer) -> None:
                connection.execute(sa.text("DROP TABLE chunks"))  # made from today's tables by version 1
                for number, state, kind in ((1, "sealed", "chunk"), (2, "committed", "block")):
                    name = bytes([number]) * 16
                    connection.execute(
                        BLOCKS.insert().values(
                            sequence=number,
                            id=name,
                            number=number,
                            state=state,
                            bytes=700,
                            first=number == 2,
                            masks=TARGET * (number == 2),
                            details="{}",
                            created=0.0,
                            sealed=sealer.seal(text(number), f"{kind}/{number}/{name.hex()}"),
                        )
                    )

            await old.run(work)
            await old.close()
        a, b = await pair(tmp_path)
        await settled(a, b)
        assert await a.chunks() == {"01" * 16: text(1), "02" * 16: text(2)[16 + TARGET * 32 :]}
        assert await check_equal(a, b) == 2
        assert a.masks.available(ALICE_TO_BOB) == TARGET
        await a.close()
        await b.close()

    asyncio.run(main())
