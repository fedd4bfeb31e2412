"""The two ends under every fault at every step of a rotation: never on different keys for longer than the bound.

The bound is on the tunnel: the longest time in which WireGuard's handshakes fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd.core import log
from qkdd.core.units import Seconds
from qkdd.psk import line as wire
from qkdd.psk.errors import LineMalformed

from .world import KNOCK, OTHER, Crash, World

TRIAL = 12.0
# no line: one trial's length of waiting, the wrong key, then the right one; each seen at the next knock
BOUND_CUT = 3 * TRIAL + 2 * KNOCK
# with a line: a silent cut is noticed after the answer's deadline, then the next connection settles it
BOUND_LINE = 10.0 + 2 * KNOCK


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    log.configure("critical")  # hundreds of rotations
    yield
    log.configure("info")


def play(scenario: Callable[[World], object], world: World) -> World:
    async def main() -> None:
        await world.start("b")
        await world.start("a")
        try:
            await scenario(world)  # type: ignore[misc]
        finally:
            await world.stop()

    asyncio.run(main())
    return world


async def one_rotation(world: World) -> None:
    await world.run(10)
    assert world.agreed()
    await world.run(25)


def steps_of_a_rotation() -> tuple[int, int, int]:
    """Indices of the steps: after the first agreement, where the second rotation begins, after its end."""
    world = World()
    marks: list[int] = []

    async def scenario(world: World) -> None:
        await world.run(10)
        marks.append(len(world.steps))
        await world.run(25)
        marks.append(len(world.steps))

    play(scenario, world)
    return marks[0], world.steps.index(("a", "draw"), marks[0]), marks[1]


FIRST, ROTATION, LAST = steps_of_a_rotation()


def test_ends_agree_and_rotate() -> None:
    async def scenario(world: World) -> None:
        await world.run(10)
        assert world.agreed()
        first = world.interfaces["a"]
        await world.run(20)
        assert world.agreed()
        assert world.interfaces["a"] != first
        assert first != b"old"
        for end in ("a", "b"):
            status = world.agents[end].status()
            assert (status.agreed, status.partner_up, status.in_doubt) == (True, True, False)

    world = play(scenario, World())
    assert world.longest_quiet == 0
    sequence = [what for _, what in world.steps[FIRST:LAST] if "Ask" not in what and "Current" not in what]
    assert sequence.index("saved") < sequence.index("send Switch"), "the key is on disk before the other end may use it"


def crash(end: str) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.kill(end)

    return do


FAULTS = ("crash here", "crash there", "crash both", "cut", "cut and crash here", "cut and crash there")


QUICK = (("crash here", "away"), ("cut", "away"))


@pytest.mark.parametrize(
    ("fault", "kms"),
    [
        pytest.param(fault, kms, marks=[] if (fault, kms) in QUICK else [pytest.mark.slow])
        for fault in FAULTS
        for kms in ("there", "away")
    ],
)
def test_every_fault_at_every_step(fault: str, kms: str) -> None:
    first = ROTATION if (fault, kms) in QUICK else FIRST
    for index in range(first, LAST):
        one_fault(index, fault, kms)


def one_fault(index: int, fault: str, kms: str) -> None:
    struck: list[str] = []

    def strike(world: World, number: int, end: str, what: str) -> None:
        if number != index or struck:
            return
        struck.append(f"{fault} at step {index}: {end} {what}, KMS {kms}")
        world.kms_away = kms == "away"
        world.cut = "cut" in fault
        dead = {"here": [end], "there": [OTHER[end]], "both": [end, OTHER[end]]}.get(fault.rsplit(maxsplit=1)[-1], [])
        for one in dead:
            world.kill(one)
        if end in dead:
            raise Crash

    async def scenario(world: World) -> None:
        await world.run(35)
        assert struck
        if "cut" in fault:
            await restart(world)
            await world.run(60)
            assert world.longest_quiet <= BOUND_CUT, (struck, world.longest_quiet)
            world.cut = False
            world.quiet = world.longest_quiet = 0.0
        else:
            await restart(world)
        await world.run(30)
        assert world.longest_quiet <= BOUND_LINE, (struck, world.longest_quiet)
        assert world.agreed(), (struck, world.disks, world.steps[index - 5 :])
        assert all(agent.status().agreed for agent in world.agents.values()), struck
        assert not any(agent.status().in_doubt for agent in world.agents.values()), struck

    async def restart(world: World) -> None:
        world.quiet = world.longest_quiet = 0.0  # nobody is at work while both are dead
        for end in ("b", "a"):
            if end not in world.agents:
                await world.start(end)

    play(scenario, World(strike, max_age=Seconds(600)))


def test_a_full_disk_on_either_side_changes_nothing_and_heals() -> None:
    for end in ("a", "b"):

        async def scenario(world: World, end: str = end) -> None:
            await world.run(10)
            before = world.interfaces["a"]
            world.full[end] = True
            await world.run(30)
            assert world.agreed()
            assert world.interfaces["a"] == before
            world.full[end] = False
            await world.run(30)
            assert world.agreed()
            assert world.interfaces["a"] != before

        assert play(scenario, World()).longest_quiet <= KNOCK


def test_a_late_switch_of_an_abandoned_connection_changes_nothing() -> None:
    """Reordering: the connection's last words arrive after its successor was settled."""
    held: list[tuple[object, bytes]] = []

    async def scenario(world: World) -> None:
        await world.run(10)
        line = next(one for one in world.lines if one.end == "a")
        real = line.other.inbox.put_nowait

        def delay(data: bytes | None) -> None:
            if data is not None and b'"switch"' in data:
                held.append((line, data))
                world.cut = True  # nothing more of this connection either
            elif not held:
                real(data)

        line.other.inbox.put_nowait = delay  # type: ignore[method-assign]
        await world.run(20)
        assert held
        world.cut = False
        await world.run(15)
        assert world.agreed()
        before = dict(world.interfaces)
        world.kms_away = True
        real(held[0][1])
        await world.run(10)
        assert world.interfaces == before
        assert world.agreed()

    play(scenario, World())


def test_a_replayed_message_is_refused() -> None:
    """A switch of an earlier connection, word for word, on the connection that stands."""
    seen: list[bytes] = []

    async def scenario(world: World) -> None:
        await world.run(10)
        line = next(one for one in world.lines if one.end == "b")
        real = line.inbox.put_nowait

        def keep(data: bytes | None) -> None:
            if data is not None and b'"switch"' in data:
                seen.append(data)
            real(data)

        line.inbox.put_nowait = keep  # type: ignore[method-assign]
        await world.run(20)
        before = dict(world.interfaces)
        world.kms_away = True
        real(seen[0])
        await world.run(15)
        assert world.interfaces == before
        assert world.agreed()

    play(scenario, World())


def test_a_lost_interface_gets_its_key_again() -> None:
    async def scenario(world: World) -> None:
        await world.run(10)
        key = world.interfaces["b"]
        world.gone["b"] = True
        world.kms_away = True
        await world.run(10)
        world.gone["b"], world.interfaces["b"] = False, b"as wg-quick made it"
        await world.run(10)
        assert world.interfaces["b"] == key
        assert world.meters["b"].total("qkdd_psk_repairs_total") == 1

    play(scenario, World())


@pytest.mark.parametrize("policy", ["keep", "tear-down"])
def test_an_old_key(policy: str) -> None:
    async def scenario(world: World) -> None:
        await world.run(10)
        key = world.interfaces["a"]
        world.kms_away = True
        await world.run(50)
        assert world.interfaces == {"a": key, "b": key}, "until max_age nothing changes"
        assert not any(agent.status().old_key or agent.status().torn_down for agent in world.agents.values())
        await world.run(20)
        for end, agent in world.agents.items():
            status = agent.status()
            assert (status.old_key, status.torn_down) == ((True, False) if policy == "keep" else (False, True))
            assert world.meters[end].gauges[("qkdd_psk_old_key", ())] == float(policy == "keep")
            assert world.meters[end].gauges[("qkdd_psk_torn_down", ())] == float(policy == "tear-down")
        assert (world.interfaces == {"a": key, "b": key}) == (policy == "keep")
        for end in ("a", "b"):  # a restart does not make it younger
            world.kill(end)
            await world.start(end)
        await world.run(10)
        assert (world.interfaces == {"a": key, "b": key}) == (policy == "keep")
        world.kms_away = False
        await world.run(40)
        assert world.agreed()
        assert world.interfaces["a"] != key
        assert not any(agent.status().old_key or agent.status().torn_down for agent in world.agents.values())

    play(scenario, World(on_old_key=policy))


def test_no_key_and_no_mercy() -> None:
    """With tear-down a tunnel does not come up before it has a key of the KMS."""

    async def scenario(world: World) -> None:
        world.kms_away = True
        await world.run(10)
        assert world.interfaces == {"a": b"blocked by a", "b": b"blocked by b"}
        world.kms_away = False
        await world.run(30)
        assert world.agreed()

    play(scenario, World(on_old_key="tear-down"))


def test_kmss_that_give_different_keys() -> None:
    async def scenario(world: World) -> None:
        await world.run(10)
        before = dict(world.interfaces)

        def spoil(world: World, _number: int, _end: str, what: str) -> None:
            if what == "fetch":
                world.keys = {key_id: bytes(32) for key_id in world.keys}

        world.fault = spoil
        await world.run(25)
        assert world.interfaces == before
        assert world.meters["a"].total("qkdd_psk_failures_total", code="QKD-PSK-KEYS-DIFFER") >= 1
        assert world.agents["a"].status().last_failure == "QKD-PSK-KEYS-DIFFER"

    play(scenario, World())


@given(st.binary(max_size=200))
def test_rubbish_on_the_line(data: bytes) -> None:
    try:
        message = wire.decode(data)
    except LineMalformed:
        return
    assert wire.decode(wire.encode(message)[4:]) == message
