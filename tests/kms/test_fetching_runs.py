"""Fetches of keys in any order and grouping: each once, whatever runs were asked for before."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.core.database import Place
from qkdd.core.postgres import Postgres
from qkdd.kms.errors import KeysNotFound
from qkdd.kms.key_ids import key_ids, one_run, runs, split
from qkdd.kms.schema import DELIVERIES, MIGRATIONS

from .local import World, world
from .postgres import server

_AMOUNT = 12
_WINDOW = 5.0
_REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, _AMOUNT - 1), min_size=1, max_size=_AMOUNT, unique=True),
        st.sampled_from([0.0, 2.0, 6.0]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=12, deadline=None)
@given(requests=_REQUESTS, together=st.booleans(), window=st.sampled_from([0.0, _WINDOW]))
def test_each_key_once_or_again_in_the_window(
    requests: list[tuple[list[int], float]], together: bool, window: float
) -> None:
    async def scenario(made: World) -> None:
        for index in range(0, 4, 2):
            await made.feed(index)
        await made.sync()
        keys = await made.draw("alice", _AMOUNT)
        ids, given_at = list(keys), dict[int, float]()
        answers: list[object] = []
        if together:
            answers = list(
                await asyncio.gather(
                    *(made.fetch("bob", [ids[n] for n in wanted]) for wanted, _ in requests), return_exceptions=True
                )
            )
        now = 0.0
        for at, (wanted, wait) in enumerate(requests):
            if not together:
                await made.clock.advance(wait)
                now += wait
                answers += await asyncio.gather(made.fetch("bob", [ids[n] for n in wanted]), return_exceptions=True)
            over = window == 0.0 and len(given_at) == _AMOUNT
            late = any(n in given_at and not (window and now - given_at[n] <= window) for n in wanted)
            if over or late:
                assert isinstance(answers[at], KeysNotFound)
                continue
            assert answers[at] == {ids[n]: keys[ids[n]] for n in wanted}
            assert list(answers[at]) == [ids[n] for n in wanted]  # type: ignore[call-overload]
            for n in wanted:
                given_at.setdefault(n, now)

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with world(Path(folder), redelivery_window=f"{window} s") as made:
                await scenario(made)

    asyncio.run(main())


@given(st.binary(min_size=12, max_size=12), st.integers(0, (1 << 26) - 40), st.integers(1, 30), st.randoms())
def test_runs_name_the_same_keys(allocation: bytes, first: int, amount: int, chance: object) -> None:
    ids = key_ids(allocation, first, amount)
    assert one_run(ids) == (allocation, first, amount)
    assert runs(ids) == [(allocation, first, amount)]
    chance.shuffle(ids)  # type: ignore[attr-defined]
    assert [one for run in runs(ids) for one in key_ids(*run)] == ids
    if one_run(ids) is not None:
        assert ids == key_ids(allocation, first, amount)
    assert one_run([*ids, ids[-1].upper() + "0"]) is None
    foreign = "00000000-0000-4000-8000-000000000001"
    assert split(foreign) is None
    assert runs([foreign, foreign]) == [(b"", 0, 1), (b"", 0, 1)]


async def _from_version_5(made: World) -> None:
    """bob's store as version 5 leaves it: keys 1 and 2 of a draw of four were fetched, with a row each."""
    for site in ("alice", "bob"):
        await made.start(site)
    await made.feed(0)
    await made.sync()
    keys = await made.draw("alice", 4)
    ids = list(keys)
    draw = split(ids[0])
    assert draw is not None

    def back(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE deliveries DROP COLUMN amount")
        for number in (1, 2):
            insert = "INSERT INTO deliveries (allocation, number, sae, time) VALUES (:of, :number, 'sae-bob', 0)"
            connection.execute(sa.text(insert), {"of": draw[0], "number": number})
        connection.execute(sa.text("UPDATE allocations SET fetched = 2"))
        connection.execute(sa.text("UPDATE schema_version SET version = 5"))

    await made.databases["bob"].run(back)
    await made.restart("bob")
    for refused in (ids, ids[1:2], ids[2:3], ids[2:], ids[:2]):
        with pytest.raises(KeysNotFound):
            await made.fetch("bob", refused)
    assert await made.fetch("bob", [ids[3], ids[0]]) == {i: keys[i] for i in (ids[3], ids[0])}
    assert await made.databases["bob"].run(lambda c: c.execute(sa.select(DELIVERIES)).all()) == []  # the draw is over
    version = sa.text("SELECT version FROM schema_version")
    assert await made.databases["bob"].run(lambda c: c.execute(version).scalar()) == len(MIGRATIONS)
    for site in ("alice", "bob"):
        await made.stop(site)


def test_a_store_of_version_5(tmp_path: Path) -> None:
    asyncio.run(_from_version_5(World(tmp_path)))


class _OnServer(World):
    """bob's store is in PostgreSQL."""

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root)
        self._url = url

    def place(self, site: str) -> Place:
        return Postgres(self._url) if site == "bob" else super().place(site)


def test_a_store_of_version_5_in_postgresql(tmp_path: Path) -> None:
    with server() as postgres:
        asyncio.run(_from_version_5(_OnServer(tmp_path, postgres.create("upgrade"))))


def test_one_revoked_key_of_a_run_is_not_redelivered(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, redelivery_window="60 s") as made:
            await made.feed(0)
            await made.sync()
            keys = await made.draw("alice", 6)
            ids = list(keys)
            assert await made.fetch("bob", ids[:5]) == {i: keys[i] for i in ids[:5]}
            await made.services["bob"].revoke(keys=[ids[2]])
            for refused in (ids[:5], ids[2:3], ids[1:3]):
                with pytest.raises(KeysNotFound):
                    await made.fetch("bob", refused)
            for again in (ids[:2], ids[3:5], [*ids[3:], ids[0]]):
                assert await made.fetch("bob", again) == {i: keys[i] for i in again}

    asyncio.run(main())


def test_chunks_stay_open_for_a_second_and_are_wiped(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            await made.feed(0, 3200)
            await made.sync()
            keys = await made.draw("alice", 100)
            ids, bob = list(keys), made.services["bob"]
            kept = bob._draws._fetches._kept
            assert await made.fetch("bob", ids[:2]) == {i: keys[i] for i in ids[:2]}
            [chunk] = kept.open.values()
            assert any(chunk.reveal())
            await made.clock.advance(0.5)
            assert await made.fetch("bob", ids[2:4]) == {i: keys[i] for i in ids[2:4]}
            assert list(kept.open.values()) == [chunk]
            await made.clock.advance(0.6)
            assert await made.fetch("bob", ids[4:6]) == {i: keys[i] for i in ids[4:6]}
            assert not kept.open
            assert not any(chunk.reveal())
            await made.fetch("bob", ids[6:8])
            [chunk] = kept.open.values()
            await bob.revoke(keys=[], sae="sae-alice")  # what is open is given to nobody
            with pytest.raises(KeysNotFound):
                await made.fetch("bob", ids[8:9])
            await bob.sync_once()
            assert not kept.open
            assert not any(chunk.reveal())

    asyncio.run(main())
