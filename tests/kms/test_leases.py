"""Keys drawn together and ahead: each once, none lost that was given, none given that was revoked or left by a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qkdd.core.errors import StorageFull
from qkdd.core.zeroise import Zeroised
from qkdd.kms import leases, together
from qkdd.kms.errors import KeysNotFound, NotEnoughKey, PeerKmsDown
from qkdd.kms.key_ids import key_id, key_ids, split

from .local import World, world

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


def held(made: World) -> int:
    """Keys that alice holds in memory for the pair."""
    return sum(lease.left for lease in made.services["alice"]._draws._joint._leases.values())


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
        left = held(made)
        await alice.revoke(keys=[], sae="sae-alice")
        assert held(made) == 0
        assert made.meters["alice"].counters[_UNUSED] == left
        await made.services["bob"].revoke(keys=[], sae="sae-nobody")
        await leased(made, 16 * (left + 20))
        await made.clock.advance(leases.LIFETIME + 0.1)
        before = drawings(made)
        await made.draw("alice")  # not from what is too old
        assert drawings(made) == before + 1
        await leased(made, 16 * 16 * 8)
        alice.zeroised = True
        with pytest.raises(Zeroised):
            await made.draw("alice")

    play(tmp_path, scenario)


def test_a_revocation_while_a_draw_is_under_way_lets_it_make_no_lease(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        alice = made.services["alice"]
        await busy(made)
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
    assert 50 <= demand.ahead(line) <= 200  # a tenth of a second of a thousand a second
    demand.unused(line, 5200 // 16 + 1)
    assert demand.ahead(line) == 0  # too much of it was for nobody
    demand.note(line, 100_000)
    now += 60.0
    demand.note(line, 1)
    assert demand.ahead(line) <= 1  # it was long ago


def test_key_ids_of_a_stretch() -> None:
    allocation = bytes(range(12))
    ids = key_ids(allocation, (1 << 16) - 3, 6)
    assert ids == [key_id(allocation, (1 << 16) - 3 + n) for n in range(6)]
    assert [split(one) for one in ids] == [(allocation, (1 << 16) - 3 + n) for n in range(6)]
    with pytest.raises(ValueError, match="26 bits"):
        key_ids(allocation, (1 << 26) - 2, 3)
