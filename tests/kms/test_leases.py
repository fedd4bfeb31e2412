"""Keys drawn together and ahead: each once, none lost that was given, none given that was revoked or left by a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from qkdd.core.errors import StorageFull
from qkdd.core.zeroise import Zeroised
from qkdd.kms import leases, together
from qkdd.kms.config import Pair as PairConfig
from qkdd.kms.errors import KeysNotFound, NotEnoughKey, PeerKmsDown
from qkdd.kms.key_ids import key_id, key_ids, split

from .local import World, service_config, world

Scenario = Callable[[World], Awaitable[None]]
_UNUSED = ("qkdd_kms_lease_unused_keys_total", ())


def play(root: Path, scenario: Scenario) -> None:
    async def main() -> None:
        async with world(root) as made:
            for index in range(0, 8, 2):
                await made.feed(index, 64_000)
            await made.sync()
            await scenario(made)

    asyncio.run(main())


async def busy(made: World, amount: int = 1, requests: int = 320) -> dict[str, bytes]:
    """So many requests of one pair, 16 at a time."""
    keys: dict[str, bytes] = {}

    async def master() -> None:
        nonlocal keys
        for _ in range(requests // 16):
            keys |= await made.draw("alice", amount)

    await asyncio.gather(*(master() for _ in range(16)))
    return keys


async def leased(made: World, requests: int = 288) -> dict[str, bytes]:
    """The same, and on until some key is held in memory."""
    keys = await busy(made, requests=requests)
    for _ in range(1000):
        if held(made):
            break
        keys |= await made.draw("alice")
    assert held(made)
    return keys


async def quiet(made: World) -> None:
    """No draw is under way at alice."""
    await asyncio.gather(*made.services["alice"]._draws._joint._pumps.values())


def held(made: World) -> int:
    """Keys that alice holds in memory for the pair."""
    return sum(lease.left for lease in made.services["alice"]._draws._joint._leases.all())


def drawings(made: World) -> int:
    """Announcements to the other site."""
    return sum(type(message).__name__ == "Announce" for message in made.lines["alice"].sent)


def no_byte_twice(made: World, keys: dict[str, bytes]) -> None:
    assert len(set(keys.values())) == len(keys)
    whole = b"".join(made.chunks.values())
    assert all(whole.find(key) % 32 == 0 for key in list(keys.values())[::37])


def test_requests_that_wait_together_are_one_draw_and_a_lone_one_is_exact(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        keys = await made.draw("alice", 3)
        assert drawings(made) == 1
        more = await asyncio.gather(*(made.draw("alice", 1 + n % 3) for n in range(30)))
        assert drawings(made) == 2
        assert [len(one) for one in more] == [1 + n % 3 for n in range(30)]
        for one in more:
            keys |= one
        assert len(keys) == 3 + 60
        no_byte_twice(made, keys)
        assert (await made.pools())["alice"]["kms-alice"] == 4 * 64_000 - 63 * 32
        assert await made.agree()
        ids = list(keys)
        parts = await asyncio.gather(*(made.fetch("bob", [one]) for one in ids))
        assert {i: key for part in parts for i, key in part.items()} == keys
        again = await asyncio.gather(*(made.fetch("bob", [one]) for one in ids), return_exceptions=True)
        assert all(isinstance(one, KeysNotFound) for one in again)

    play(tmp_path, scenario)


def test_fetches_of_one_moment_answer_each_for_itself(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        keys = await made.draw("alice", 4)
        a, b, c, d = keys
        said = await asyncio.gather(
            *(made.fetch("bob", ids) for ids in ([a, b], [b, c], [c], [key_id(bytes(12), 0)], [d, a], [d])),
            return_exceptions=True,
        )
        assert said[0] == {a: keys[a], b: keys[b]}
        assert isinstance(said[1], KeysNotFound)  # b went to the one before
        assert said[2] == {c: keys[c]}
        assert isinstance(said[3], KeysNotFound)
        assert isinstance(said[4], KeysNotFound)
        assert said[5] == {d: keys[d]}

    play(tmp_path, scenario)


def test_a_busy_pair_is_served_ahead_and_no_key_twice(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        keys = await busy(made, requests=640)
        before = drawings(made)
        keys |= await busy(made, requests=320)
        assert drawings(made) - before < 320 // 16  # one draw for more than one round of requests
        assert len(keys) == 960
        keys |= await leased(made, 16)
        assert held(made) <= len(keys) // 4 + 1
        no_byte_twice(made, keys)
        await made.agree()
        ids = list(keys)
        for at in range(0, len(ids), 100):
            part = ids[at : at + 100]
            assert await made.fetch("bob", part) == {i: keys[i] for i in part}

    play(tmp_path, scenario)


def test_a_crash_voids_what_was_not_given_out(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        keys = await leased(made)
        left = held(made)
        await made.databases["alice"].close()  # nothing is told to anybody
        await made.start("alice")
        more = await busy(made, requests=32)
        assert not keys.keys() & more.keys()
        no_byte_twice(made, keys | more)
        assert await made.agree() <= 4 * 64_000 - 32 * (len(keys) + len(more) + left)
        assert await made.fetch("bob", list(keys)[-50:]) == {i: keys[i] for i in list(keys)[-50:]}

    play(tmp_path, scenario)


@pytest.mark.parametrize("moment", ["reserve", "before", "after", "deliver"])
def test_a_failure_at_each_step_of_a_joint_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    async def scenario(made: World) -> None:
        def full(*_: object, **__: object) -> None:
            raise StorageFull("no space (test)")

        keys = await busy(made)
        await quiet(made)
        made.services["alice"]._draws.end_leases()
        if moment in ("reserve", "deliver"):
            monkeypatch.setattr(together, moment, full)
        else:
            made.lines["alice"].script = [moment]
        failed = await asyncio.gather(*(made.draw("alice") for _ in range(24)), return_exceptions=True)
        assert all(isinstance(one, StorageFull | PeerKmsDown) for one in failed), failed
        monkeypatch.undo()
        more = await busy(made, requests=48)
        no_byte_twice(made, keys | more)
        await quiet(made)
        made.services["alice"]._draws.end_leases()
        await made.clock.advance(60.0)
        await made.sync()
        ends = made.meters["alice"].counters[_UNUSED]
        assert await made.agree() == 4 * 64_000 - 32 * (len(keys) + len(more) + ends)  # what failed came back whole

    play(tmp_path, scenario)


def test_revocation_zeroising_and_age_end_leases(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        alice = made.services["alice"]
        await leased(made)
        await quiet(made)
        left = held(made)
        await alice.revoke(keys=[], sae="sae-alice")
        assert held(made) == 0
        assert made.meters["alice"].counters[_UNUSED] == left
        await made.services["bob"].revoke(keys=[], sae="sae-nobody")
        await leased(made, 16 * (left + 20))
        await quiet(made)
        await made.clock.advance(leases.LIFETIME + 0.1)
        before = drawings(made)
        await made.draw("alice")  # not from what is too old
        assert drawings(made) == before + 1
        await leased(made, 16 * 16 * 8)
        alice.zeroised = True
        with pytest.raises(Zeroised):
            await made.draw("alice")

    play(tmp_path, scenario)


async def all_of(made: World, keys: dict[str, bytes], fetched: int = 0) -> None:
    """Every byte of the pool is drawn in the end, none twice, and bob's application can fetch every key (the first ones were)."""
    alice = made.services["alice"]
    await quiet(made)
    await made.clock.advance(leases.LIFETIME + 0.1)
    await made.sync()
    line = leases.Line("sae-alice", ("sae-bob",), 32)
    alice._draws._joint._demand.unused(line, 1 << 30)  # no more is drawn ahead
    while left := await made.agree() // 32:
        keys |= await made.draw("alice", min(left, 100))
    assert await made.agree() == 0
    no_byte_twice(made, keys)
    assert sorted(keys.values()) == sorted(
        text[at : at + 32] for text in made.chunks.values() for at in range(0, len(text), 32)
    )
    for at in range(fetched, len(keys), 500):
        part = dict(list(keys.items())[at : at + 500])
        assert await made.fetch("bob", list(part)) == part
    assert not await made.databases["alice"].run(lambda c: c.exec_driver_sql("SELECT count(*) FROM material").scalar())
    assert not await made.databases["bob"].run(lambda c: c.exec_driver_sql("SELECT count(*) FROM material").scalar())


@pytest.mark.parametrize("line", ["ok", "before", "after"])
def test_the_rest_of_a_lease_comes_back(tmp_path: Path, line: str) -> None:
    async def scenario(made: World) -> None:
        keys = await leased(made)
        await quiet(made)
        left, pool = held(made), await made.agree()
        await made.clock.advance(leases.LIFETIME + 0.1)
        if line == "ok":
            assert await made.fetch("bob", list(keys)[:7]) == dict(list(keys.items())[:7])
        else:
            made.lines["alice"].script = [line]
            with pytest.raises(PeerKmsDown):
                await made.services["alice"].sync_once()
            assert held(made) == 0
        for _ in range(2):
            await made.sync()
            assert await made.agree() == pool + 32 * left
        assert _UNUSED not in made.meters["alice"].counters
        await all_of(made, keys, 7 if line == "ok" else 0)

    async def main() -> None:
        async with world(tmp_path) as made:
            for index in range(0, 8, 2):
                await made.feed(index, 16_000)
            await made.sync()
            await scenario(made)

    asyncio.run(main())


def test_leases_come_back_over_a_clean_stop_and_not_over_a_crash(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        keys = await leased(made)
        await quiet(made)
        left, pool = held(made), await made.agree()
        await made.restart("alice")
        await made.sync()
        assert await made.agree() == pool + 32 * left
        keys |= await leased(made)
        await quiet(made)
        pool = await made.agree()
        await made.databases["alice"].close()  # nothing is told to anybody
        await made.start("alice")
        await made.sync()
        assert await made.agree() == pool
        more = await busy(made)
        assert not keys.keys() & more.keys()
        no_byte_twice(made, keys | more)

    play(tmp_path, scenario)


def test_a_rest_of_which_a_slave_has_got_a_key_stays_used(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await leased(made)
        await quiet(made)
        lease = next(one for one in made.services["alice"]._draws._joint._leases.all() if one.first and one.left > 1)
        assert len(await made.fetch("bob", [key_id(lease.allocation.id, lease.first + 1)])) == 1  # a guess
        left, pool = lease.left, await made.agree() + 32 * held(made)
        await made.clock.advance(leases.LIFETIME + 0.1)
        await made.sync()
        assert await made.agree() == pool - 32 * left
        assert made.meters["alice"].counters[_UNUSED] == left

    play(tmp_path, scenario)


def test_a_lease_for_an_application_of_the_same_site(tmp_path: Path) -> None:
    async def main() -> None:
        made = World(tmp_path)
        config = service_config("alice", tmp_path)
        pair = PairConfig(master="sae-alice", slave="sae-alice-2", peer="kms-bob")
        both = config.saes | {"sae-alice-2": config.saes["sae-alice"]}
        await made.start("alice", replace(config, saes=both, pairs=[*config.pairs, pair]))
        await made.start("bob")
        for index in range(0, 4, 2):
            await made.feed(index, 64_000)
        await made.sync()
        alice, keys = made.services["alice"], dict[str, bytes]()

        async def master() -> None:
            for _ in range(40):
                keys.update({k.key_id: k.key for k in await alice.draw("sae-alice", ("sae-alice-2",), 1, 32)})

        await asyncio.gather(*(master() for _ in range(16)))
        await quiet(made)
        assert held(made)
        await made.clock.advance(leases.LIFETIME + 0.1)
        await made.sync()
        await made.stop("alice")
        alice = await made.start("alice", alice.config)
        for at in range(0, len(keys), 64):
            part = list(keys)[at : at + 64]
            got = await alice.fetch("sae-alice-2", "sae-alice", part)
            assert {k.key_id: k.key for k in got} == {i: keys[i] for i in part}
        for site in ("alice", "bob"):
            await made.stop(site)

    asyncio.run(main())


def test_a_rest_stays_used_when_the_other_site_does_not_know_the_call(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await leased(made)
        await quiet(made)
        begun = sum(one.left for one in made.services["alice"]._draws._joint._leases.all() if one.first)
        pool, line = await made.agree() + 32 * held(made), made.lines["alice"]
        true_call = line.call

        async def call(name: str, message: object, answer: object) -> object:
            if name == "rest":
                raise PeerKmsDown("an older program", status=404)
            return await true_call(name, message, answer)

        line.call = call  # type: ignore[method-assign]
        await made.clock.advance(leases.LIFETIME + 0.1)
        await made.sync()
        assert begun
        assert await made.agree() == pool - 32 * begun
        assert made.meters["alice"].counters[_UNUSED] == begun

    play(tmp_path, scenario)


def test_what_is_on_its_way_back_is_revoked_with_the_pool(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        await leased(made)
        await quiet(made)
        await made.clock.advance(leases.LIFETIME + 0.1)
        made.lines["alice"].script = ["after"]  # the other site has forgotten the rest
        with pytest.raises(PeerKmsDown):
            await made.services["alice"].sync_once()
        await made.services["alice"].revoke(keys=[], link="a-b", undrawn=True)
        await made.sync()
        assert await made.agree() == 0

    play(tmp_path, scenario)


def test_a_revocation_while_a_draw_is_under_way_lets_it_make_no_lease(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        alice = made.services["alice"]
        await busy(made)
        await quiet(made)
        alice._draws.end_leases()
        line, true_call = made.lines["alice"], made.lines["alice"].call

        async def call(name: str, message: object, answer: object) -> object:
            reply = await true_call(name, message, answer)
            alice._draws.end_leases()
            return reply

        line.call = call  # type: ignore[method-assign]
        await made.draw("alice")
        assert held(made) == 0

    play(tmp_path, scenario)


def test_a_poor_pool_is_not_drawn_ahead(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        keys: dict[str, bytes] = {}
        await busy(made)
        await quiet(made)
        made.services["alice"]._draws.end_leases()
        enough = True
        while enough:
            try:
                keys |= await made.draw("alice", 64)
            except NotEnoughKey:
                enough = False
        pool = (await made.pools())["alice"]["kms-alice"]
        assert pool < 64 * 32
        for _ in range(pool // 32):
            keys |= await made.draw("alice")  # to the last one
        assert held(made) == 0

    play(tmp_path, scenario)


def test_demand_draws_ahead_only_for_who_asks_all_the_time() -> None:
    now = 0.0
    line, demand = leases.Line("a", ("b",), 32), leases.Demand(lambda: now)
    for _ in range(200):
        demand.note(line, 1)
    assert demand.ahead(line) == 0  # not busy yet
    for _ in range(50):
        now += 0.1
        demand.note(line, 100)
    assert 400 <= demand.ahead(line) <= 600  # half a second of a thousand a second
    demand.note(line, 7)
    assert demand.step(line) == 7
    assert demand.ahead(line) % 7 == 0
    demand.unused(line, 5200 // 16 + 1)
    assert demand.ahead(line) == 0  # too much of it was for nobody
    demand.note(line, 100_000)
    now += 60.0
    demand.note(line, 1)
    assert demand.ahead(line) <= 5  # it was long ago


def test_key_ids_of_a_stretch() -> None:
    allocation = bytes(range(12))
    ids = key_ids(allocation, (1 << 16) - 3, 6)
    assert ids == [key_id(allocation, (1 << 16) - 3 + n) for n in range(6)]
    assert [split(one) for one in ids] == [(allocation, (1 << 16) - 3 + n) for n in range(6)]
    with pytest.raises(ValueError, match="26 bits"):
        key_ids(allocation, (1 << 26) - 2, 3)
