"""Draws while calls get lost, disks fill, stores are restored: no byte in two keys, none lost that could be kept."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.core.errors import StorageFull
from qkdd.core.secret import Secret
from qkdd.kms import allocations, together, upkeep
from qkdd.kms.errors import KeysNotFound, KmsError, NotEnoughKey, PeerDisagrees, PeerKmsDown
from qkdd.kms.plane import Announce, Void

from .local import SITES, World, service_config, world

Scenario = Callable[[World], Awaitable[None]]


def play(root: Path, scenario: Scenario, **limits: object) -> None:
    async def main() -> None:
        async with world(root, **limits) as made:
            await scenario(made)

    asyncio.run(main())


async def drain(made: World, site: str, key_bytes: int = 32) -> dict[str, bytes]:
    """Every key that the site can still draw."""
    keys: dict[str, bytes] = {}
    while True:
        try:
            keys |= await made.draw(site, 1, key_bytes)
        except NotEnoughKey:
            return keys


def places(made: World, keys: dict[str, bytes]) -> set[int]:
    """Where the keys' 32-byte words stand in the fed chunks; fails when one stands in two keys."""
    words = [text[i : i + 32] for text in made.chunks.values() for i in range(0, len(text), 32)]
    found = [words.index(key[i : i + 32]) for key in keys.values() for i in range(0, len(key), 32)]
    assert len(set(found)) == len(found)
    return set(found)


@pytest.mark.parametrize("lost", ["before", "after"])
def test_an_abandoned_draw_of_a_rare_shape_comes_back_to_the_pool(tmp_path: Path, lost: str) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0, 320)
        await made.feed(2, 320)
        await made.sync()
        made.lines["alice"].script = [lost]
        with pytest.raises(PeerKmsDown):
            await made.draw("alice", 3, 128)
        announced = made.lines["alice"].sent[-1]
        assert isinstance(announced, Announce)
        await made.sync()
        assert (await made.pools())["alice"]["kms-alice"] == 640 - 384  # too young: a request may take it again
        await made.clock.advance(upkeep.ABANDONED + 1)
        for step in ("before", "after"):  # giving back meets the same bad line
            made.lines["alice"].script = [step]
            with pytest.raises(PeerKmsDown):
                await made.services["alice"].sync_once()
        await made.restart("alice")
        await made.sync()
        assert await made.agree() == 640
        assert made.meters["alice"].counters  # and it is counted
        late = await made.services["bob"].on_announce("kms-alice", announced)  # was on the way all the time
        assert not late.recorded
        keys = await drain(made, "alice")
        assert len(places(made, keys)) == 20
        ids = list(keys)
        assert await made.fetch("bob", ids) == keys
        assert await made.agree() == 0

    play(tmp_path, scenario)


def test_an_abandoned_draw_is_taken_by_the_next_request_of_its_shape(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0, 320)
        await made.sync()
        for step in ("before", "after", "after"):
            made.lines["alice"].script = [step]
            with pytest.raises(PeerKmsDown):
                await made.draw("alice", 2)
        keys = await made.draw("alice", 2)
        assert await made.agree() == 320 - 64
        assert await made.fetch("bob", list(keys)) == keys

    play(tmp_path, scenario)


def test_what_was_delivered_or_fetched_is_never_forgotten(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0, 320)
        await made.sync()
        keys = await made.draw("alice", 2)
        announced = made.lines["alice"].sent[-1]
        await made.fetch("bob", [next(iter(keys))])
        bob = made.services["bob"]
        assert not (await bob.on_void("kms-alice", Void(announced.id, announced.pieces))).reusable
        rest = list(keys)[1:]
        assert await made.fetch("bob", rest) == {i: keys[i] for i in rest}
        assert not (await bob.on_void("kms-alice", Void(announced.id, announced.pieces))).reusable
        assert not (await bob.on_void("kms-carol", Void("0" * 24, announced.pieces))).reusable

    play(tmp_path, scenario)


def test_a_pair_that_only_one_site_knows_costs_no_key(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0, 320)
        await made.sync()
        await made.stop("bob")
        await made.start("bob", msgspec.structs.replace(service_config("bob", tmp_path), pairs=()))
        for amount in (1, 2, 3):
            with pytest.raises(PeerDisagrees):
                await made.draw("alice", amount)
        await made.restart("bob")
        await made.clock.advance(upkeep.ABANDONED + 1)
        await made.sync()
        assert await made.agree() == 320
        assert len(places(made, await drain(made, "alice"))) == 10

    play(tmp_path, scenario)


def test_a_restored_store_burns_what_is_gone_and_goes_on(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        for index in range(4):
            await made.feed(index, 320)
        await made.sync()
        await made.stop("alice")
        shutil.copy(made.store("alice"), tmp_path / "backup.db")
        await made.start("alice")
        before = await made.draw("alice", 5) | await made.draw("alice", 7)
        assert await made.fetch("bob", list(before)) == before
        await made.stop("alice")
        for old in made.store("alice").parent.glob("kms.db*"):
            old.unlink()
        shutil.copy(tmp_path / "backup.db", made.store("alice"))
        await made.start("alice")
        after = await drain(made, "alice")
        assert len(after) >= 20
        places(made, before | after)
        for chunk in range(0, len(after), 10):
            ids = list(after)[chunk : chunk + 10]
            assert await made.fetch("bob", ids) == {i: after[i] for i in ids}
        assert made.meters["alice"].counters[("qkdd_kms_conflicts_total", ())] >= 1

    play(tmp_path, scenario)


def test_chunks_that_a_restored_site_lacks_are_skipped_at_once(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await made.stop("bob")
        shutil.copy(made.store("bob"), tmp_path / "backup.db")
        await made.start("bob")
        await made.feed(0, 6400)
        await made.sync()
        await made.stop("bob")
        for old in made.store("bob").parent.glob("kms.db*"):
            old.unlink()
        shutil.copy(tmp_path / "backup.db", made.store("bob"))
        await made.start("bob")
        await made.feed(2, 320)
        await made.sync()
        assert await made.draw("alice")
        assert made.meters["alice"].counters[("qkdd_kms_conflicts_total", ())] == 1

    play(tmp_path, scenario)


@pytest.mark.parametrize("site", SITES)
def test_a_full_disk_refuses_and_heals(tmp_path: Path, site: str) -> None:
    """`max_page_count` is what SQLite has for a full disk; it is moved so that each step of a draw meets it."""

    async def limit(made: World, pages: int) -> None:
        await made.databases[site].run(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())

    async def scenario(made: World) -> None:
        for index in range(0, 8, 2):
            await made.feed(index, 640)
        await made.sync()
        keys: dict[str, bytes] = {}
        refused = 0
        for slack in range(4):
            used = await made.databases[site].run(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
            await limit(made, used + slack)
            for _ in range(4):
                try:
                    keys |= await made.draw("alice", 2)
                except (StorageFull, PeerKmsDown):
                    refused += 1
            with pytest.raises(StorageFull):
                await made.services[site].ingest(
                    site, "00000000-0000-4000-8000-000000000001", "a-b", 99, Secret(bytes(1 << 20)), {}
                )
            await limit(made, 1 << 20)
        keys |= await made.draw("alice", 2)
        await made.clock.advance(upkeep.ABANDONED + 1)
        await made.sync()
        keys |= await drain(made, "alice")
        assert len(places(made, keys)) == 80  # every byte that was handed over
        for start in range(0, len(keys), 20):
            ids = list(keys)[start : start + 20]
            assert await made.fetch("bob", ids) == {i: keys[i] for i in ids}

    play(tmp_path, scenario)


def test_the_disk_is_full_between_announcement_and_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0, 320)
        await made.sync()

        def full(*_: object, **__: object) -> None:
            raise StorageFull("no space (test)")

        monkeypatch.setattr(together, "deliver", full)
        monkeypatch.setattr(allocations, "unclaim", full)
        with pytest.raises(StorageFull):
            await made.draw("alice", 2)
        monkeypatch.undo()
        await made.sync()  # what could not be set free then is free now
        keys = await drain(made, "alice")
        assert len(places(made, keys)) == 8
        await made.clock.advance(upkeep.ABANDONED + 1)
        await made.sync()
        keys |= await drain(made, "alice")
        assert len(places(made, keys)) == 10

    play(tmp_path, scenario)


def test_a_stepped_wall_clock_changes_no_lifetime(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await made.feed(0, 640)
        await made.sync()
        keys = await made.draw("alice", 4)
        ids = list(keys)
        for step in (10 * 365 * 86_400.0, -20 * 365 * 86_400.0):
            made.clock.step_wall(step)
            for service in made.services.values():
                await service.clean()
            assert await made.fetch("bob", [ids.pop()])
        made.clock.step_wall(10 * 365 * 86_400.0)
        first = ids.pop()
        assert await made.fetch("bob", [first])
        assert await made.fetch("bob", [first])  # inside the window
        await made.clock.advance(10.0)
        with pytest.raises(KeysNotFound):
            await made.fetch("bob", [first])
        await made.clock.advance(8 * 86_400.0)
        for service in made.services.values():
            await service.clean()
        with pytest.raises(KeysNotFound):
            await made.fetch("bob", ids)

    play(tmp_path, scenario, redelivery_window="5 s")


def test_thousands_of_concurrent_draws(tmp_path: Path) -> None:
    """1200 draws by 64 masters on both sites while calls get lost and ownership moves: each byte at most once."""

    async def scenario(made: World) -> None:
        for index in range(32):
            await made.feed(index, 1600)
        await made.sync()
        chance = random.Random(7)
        drawn: dict[str, dict[str, bytes]] = {site: {} for site in SITES}
        left = {"alice": 750, "bob": 450}

        async def master(site: str) -> None:
            while left[site] > 0:
                left[site] -= 1
                if chance.random() < 0.02:
                    made.lines[site].script.append(chance.choice(["before", "after"]))
                try:
                    drawn[site] |= await made.draw(site)
                except PeerKmsDown:
                    left[site] += 1
                except NotEnoughKey:
                    await asyncio.sleep(0)

        await asyncio.gather(*(master(site) for site in SITES for _ in range(32)))
        both = drawn["alice"] | drawn["bob"]
        assert len(both) == len(drawn["alice"]) + len(drawn["bob"])
        assert len(places(made, both)) >= 1100
        for site, other in (SITES, SITES[::-1]):
            ids = list(drawn[site])
            parts = [ids[i : i + 100] for i in range(0, len(ids), 100)]
            for part, got in zip(parts, await asyncio.gather(*(made.fetch(other, p) for p in parts)), strict=True):
                assert got == {i: drawn[site][i] for i in part}
        await made.clock.advance(upkeep.ABANDONED + 1)
        await made.sync()
        await made.agree()

    play(tmp_path, scenario)


STEPS = st.one_of(
    st.tuples(
        st.sampled_from(SITES), st.integers(1, 3), st.sampled_from([32, 96]), st.sampled_from(["ok", "before", "after"])
    ),
    st.tuples(st.just("restart"), st.sampled_from(SITES)),
    st.tuples(st.just("sync"), st.sampled_from(["ok", "before", "after"])),
)


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(STEPS, max_size=25))
def test_any_sequence_of_faults(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]) -> None:
    """Whatever happens: no byte twice, every drawn key can be fetched, and in the end no byte is missing."""

    async def scenario(made: World) -> None:
        for index in range(6):
            await made.feed(index, 320)
        await made.sync()
        drawn: dict[str, dict[str, bytes]] = {site: {} for site in SITES}
        for step in steps:
            if step[0] == "restart":
                await made.restart(str(step[1]))
            elif step[0] == "sync":
                await made.clock.advance(upkeep.ABANDONED + 1)
                made.lines["alice"].script = [str(step[1])]
                with contextlib.suppress(PeerKmsDown):
                    await made.sync()
            else:
                site, amount, size, fate = step
                made.lines[str(site)].script = [str(fate)]
                with contextlib.suppress(KmsError):
                    drawn[str(site)] |= await made.draw(str(site), int(str(amount)), int(str(size)))
            for line in made.lines.values():
                line.script = []
        await made.clock.advance(1000.0)  # a restart without clean-up sets the service time back
        await made.sync()
        await made.agree()
        drawn["alice"] |= await drain(made, "alice")
        drawn["bob"] |= await drain(made, "bob")
        assert len(places(made, drawn["alice"] | drawn["bob"])) == 60
        for site, other in (SITES, SITES[::-1]):
            if drawn[site]:
                assert await made.fetch(other, list(drawn[site])) == drawn[site]

    play(tmp_path_factory.mktemp("w"), scenario)


def test_a_grant_whose_answer_was_lost_is_heard_later_without_asking_for_more(tmp_path: Path) -> None:
    """Until then nobody draws from it: the granter has given it away, the asker does not know."""

    async def scenario(made: World) -> None:
        for index in (0, 2, 4, 6):  # all of alice's
            await made.feed(index)
        await made.sync()
        draws = made.services["bob"]._upkeep._draws
        await draws.hear_grants("kms-alice")  # as the janitor after a start; nothing was granted
        made.lines["bob"].script = ["after"]
        with pytest.raises(PeerKmsDown):
            await made.draw("bob")
        pools = await made.pools()
        assert pools["alice"]["kms-bob"] > 0 == pools["bob"].get("kms-bob", 0)
        asked = len(made.lines["bob"].sent)
        await draws.hear_grants("kms-alice")
        assert [type(m).__name__ for m in made.lines["bob"].sent[asked:]] == ["Borrow"]
        assert (await made.pools())["bob"]["kms-bob"] == pools["alice"]["kms-bob"]
        await made.agree()
        await draws.hear_grants("kms-alice")
        assert len(made.lines["bob"].sent) == asked + 1  # heard: not asked again
        assert len(await made.draw("bob")) == 1

    play(tmp_path, scenario)
