"""Sessions over a wire in memory: openings, messages, aborts, liveness, replay, tampering below the frames, switching."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import QkddError
from qkdd.peer import (
    AuthenticationFailed,
    ConfigMismatch,
    FrameGarbage,
    FrameReplayed,
    MasksEmpty,
    Message,
    PeerAborted,
    PeerClosed,
    PeerSilent,
    ProtocolError,
    VersionMismatch,
    frames,
    hello,
)
from qkdd.peer.errors import AuthStateMismatch, CertIdentity, RoleMismatch
from qkdd.peer.frames import FrameType
from qkdd.peer.opening import LinkIdentity, SessionSettings
from qkdd.peer.session import Session
from qkdd.peer.wire import Connection
from qkdd.testing.clock import FakeClock
from qkdd.testing.peer import MemoryMasks, MemoryWire, link_identity, memory_connections, session_pair


class Note(Message, tag="test.note"):
    text: str


class Numbers(Message, tag="test.numbers"):
    values: list[int]


class Refused(QkddError):
    code = "QKD-BLK-TEST"
    meaning = "A test refuses a block."
    default_remedy = "None."


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def outcome(awaitable: Awaitable[Any]) -> Any:
    """Its result, or its error as a value."""
    try:
        return await awaitable
    except QkddError as error:
        return error


async def both(*awaitables: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*(outcome(a) for a in awaitables)))


async def end(*sessions: Session) -> None:
    for session in sessions:
        await session.close()


def stores(masks: int = 50) -> tuple[MemoryMasks, MemoryMasks]:
    return MemoryMasks(b"seed", masks), MemoryMasks(b"seed", masks)


# opening -------------------------------------------------------------------------------------------------------------


async def open_two(
    alice: LinkIdentity, bob: LinkIdentity, masks: tuple[MemoryMasks, MemoryMasks] | None = None
) -> list[Any]:
    (left, left_facts), (right, right_facts) = memory_connections()
    pool = masks or (MemoryMasks(), MemoryMasks())
    shared = (SessionSettings(), SystemClock(), RecordingMeter())
    found = await both(
        Session.open(Connection(left, left_facts), alice, pool[0], *shared),
        Session.open(Connection(right, right_facts), bob, pool[1], *shared),
    )
    await end(*(s for s in found if isinstance(s, Session)))
    return found


def test_both_sides_agree() -> None:
    async def main() -> None:
        alice, bob = await session_pair()
        assert alice.session_id == bob.session_id
        assert len(alice.session_id) == 32
        assert (alice.role, alice.peer_id, bob.role, bob.peer_id) == ("alice", "bob", "bob", "alice")
        await alice.send(Note("hello"))
        await bob.send(Numbers([1, 2]))
        assert await bob.receive(Note) == Note("hello")
        assert await alice.receive(Numbers) == Numbers([1, 2])
        await end(alice, bob)
        other, another = await session_pair()
        assert other.session_id != alice.session_id
        await end(other, another)

    run(main)


def test_configuration_mismatch_names_the_first_key_with_both_values_on_both_sides() -> None:
    async def main() -> None:
        left = link_identity("alice", {"block": "5 s", "qber_max": "0.05", "window": "6 ns"})
        right = link_identity("bob", {"block": "5 s", "qber_max": "0.11", "window": "2 ns"})
        a, b = await open_two(left, right)
        assert isinstance(a, ConfigMismatch)
        assert isinstance(b, ConfigMismatch)
        assert a.details == {"key": "qber_max", "here": "0.05", "there": "0.11"}
        assert b.details == {"key": "qber_max", "here": "0.11", "there": "0.05"}
        assert "qber_max: here '0.05', on the other node '0.11'" in str(a)
        a, b = await open_two(
            link_identity("alice", {"block": "5 s"}), link_identity("bob", {"block": "5 s", "new": "1"})
        )
        assert a.details["here"] is None
        assert "absent" in str(a)

    run(main)


def test_roles_names_and_links_must_fit() -> None:
    async def main() -> None:
        replace = msgspec.structs.replace
        good = link_identity("alice"), link_identity("bob")
        for change, kind in (
            ({"role": "bob"}, RoleMismatch),
            ({"link": "c-d"}, RoleMismatch),
            ({"local_id": "carol"}, CertIdentity),
            ({"peer_id": "carol"}, CertIdentity),
        ):
            found = await open_two(replace(good[0], **change), good[1])
            assert any(isinstance(f, kind) for f in found), (change, found)
            assert not any(isinstance(f, Session) for f in found)

    run(main)


@pytest.mark.parametrize(
    ("low", "high"), [(hello.PROTOCOL_MAX + 1, hello.PROTOCOL_MAX + 2), (0, hello.PROTOCOL_MIN - 1)]
)
def test_another_protocol_version(monkeypatch: pytest.MonkeyPatch, low: int, high: int) -> None:
    async def main() -> None:
        true_encode = hello.encode

        def encode(said: hello.Hello) -> bytes:
            if said.role == "bob":
                said = msgspec.structs.replace(said, protocol_min=low, protocol_max=high, software="qkdd 9")
            return true_encode(said)

        monkeypatch.setattr(hello, "encode", encode)
        a, b = await open_two(link_identity("alice"), link_identity("bob"))
        assert isinstance(a, VersionMismatch)
        assert "qkdd 9" in str(a)
        assert not isinstance(b, Session)

    run(main)


def test_a_required_capability_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setitem(hello.CAPABILITIES, "seal.phase", False)
        true_encode = hello.encode

        def encode(said: hello.Hello) -> bytes:
            if said.role == "bob":
                return true_encode(
                    msgspec.structs.replace(said, required=["from.the.future"], capabilities=["from.the.future"])
                )
            return true_encode(said)

        monkeypatch.setattr(hello, "encode", encode)
        a, _b = await open_two(link_identity("alice"), link_identity("bob"))
        assert isinstance(a, VersionMismatch)
        assert "from.the.future" in str(a) or "auth.pqc-then-its" in str(a)

    run(main)


def test_a_node_that_lost_its_masks_is_refused() -> None:
    async def main() -> None:
        used = stores()
        alice, bob = await session_pair(masks=used)
        await both(alice.seal("x", 1), bob.seal("x", 1))
        await end(alice, bob)
        found = await open_two(link_identity("alice"), link_identity("bob"), (used[0], MemoryMasks()))
        assert all(isinstance(f, (AuthStateMismatch, PeerClosed)) for f in found)
        used[0].rebootstrap()
        found = await open_two(link_identity("alice"), link_identity("bob"), (used[0], MemoryMasks()))
        assert all(isinstance(f, Session) and f.mode == "ml-dsa" for f in found)

    run(main)


# replay, garbage, silence --------------------------------------------------------------------------------------------


def test_yesterdays_frames_are_refused() -> None:
    """Alice's whole stream of an old session is played to bob again."""

    async def main() -> None:
        alice, bob = await session_pair()
        recorded_wire = alice._out.wire
        assert isinstance(recorded_wire, MemoryWire)
        await alice.send(Note("yesterday"))
        await bob.receive(Note)
        await both(alice.seal("sift", 1), bob.seal("sift", 1))
        yesterday = list(recorded_wire.sent)
        await end(alice, bob)

        (left, _), (right, facts) = memory_connections()
        left.attach(lambda data: None, lambda error: None)
        opening = asyncio.create_task(
            outcome(
                Session.open(
                    Connection(right, facts),
                    link_identity("bob"),
                    MemoryMasks(),
                    SessionSettings(),
                    SystemClock(),
                    RecordingMeter(),
                )
            )
        )
        for piece in yesterday:
            right.deliver(piece)
        found = await opening
        assert isinstance(found, ProtocolError), found
        assert "another session" in str(found)

    run(main)


def test_a_frame_sent_twice_or_late_ends_the_session() -> None:
    async def main() -> None:
        alice, bob = await session_pair()
        wire = alice._out.wire
        assert isinstance(wire, MemoryWire)
        await alice.send(Note("once"))
        wire.write(wire.sent[-1])
        await bob.receive(Note)
        assert isinstance(await bob.wait_ended(), FrameReplayed)
        assert isinstance(await outcome(bob.receive(Note)), FrameReplayed)
        assert isinstance(await outcome(alice.receive(Note)), PeerClosed)
        await end(alice, bob)

    run(main)


def test_garbage_ends_the_session_and_is_counted() -> None:
    async def main() -> None:
        meter = RecordingMeter()
        alice, bob = await session_pair(meter=meter)
        wire = alice._out.wire
        assert isinstance(wire, MemoryWire)
        wire.write(secrets.token_bytes(1000))
        assert isinstance(await outcome(bob.receive(Note)), FrameGarbage)
        assert meter.total("qkdd_errors_total", code="QKD-PEER-FRAME") == 1
        await end(alice, bob)

    run(main)


def test_garbage_in_place_of_a_hello() -> None:
    async def main() -> None:
        for data in (
            b"GET / HTTP/1.1\r\n\r\n" * 4,
            frames.header(FrameType.HELLO, 0, 3) + b"\x80\x81\x82",
            frames.header(FrameType.PING, 0, 0),
        ):
            (_left, _), (right, facts) = memory_connections()
            right.deliver(data)
            found = await outcome(
                Session.open(
                    Connection(right, facts),
                    link_identity("bob"),
                    MemoryMasks(),
                    SessionSettings(),
                    SystemClock(),
                    RecordingMeter(),
                )
            )
            assert isinstance(found, ProtocolError), found

    run(main)


def test_a_peer_that_goes_silent_for_ten_minutes() -> None:
    async def main() -> None:
        clock = FakeClock()
        alice, bob = await session_pair(clock=clock)
        await clock.advance(120)
        assert alice.failure is None  # pings keep an idle session alive
        for session in (alice, bob):
            wire = session._out.wire
            assert isinstance(wire, MemoryWire)
            wire.tamper = lambda data: None
        waiting = asyncio.create_task(outcome(alice.receive(Note)))
        await clock.advance(600)
        found = await waiting
        assert isinstance(found, PeerSilent)
        assert found.code == "QKD-PEER-SILENT"
        assert isinstance(bob.failure, (PeerSilent, PeerClosed))
        await end(alice, bob)

    run(main)


def test_an_answer_that_does_not_come_although_the_peer_lives() -> None:
    async def main() -> None:
        clock = FakeClock()
        alice, bob = await session_pair(clock=clock)
        waiting = asyncio.create_task(outcome(alice.receive(Note, timeout=7)))
        await clock.advance(6)
        assert not waiting.done()
        await clock.advance(2)
        assert isinstance(await waiting, PeerSilent)
        await end(alice, bob)

    run(main)


def test_no_hello_within_the_deadline() -> None:
    async def main() -> None:
        clock = FakeClock()
        (_left, _), (right, facts) = memory_connections()
        opening = asyncio.create_task(
            outcome(
                Session.open(
                    Connection(right, facts),
                    link_identity("bob"),
                    MemoryMasks(),
                    SessionSettings(),
                    clock,
                    RecordingMeter(),
                )
            )
        )
        await clock.advance(20)
        assert isinstance(await opening, PeerSilent)

    run(main)


# seals and aborts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", [0, 50])
def test_tampering_below_the_frames_never_passes_a_seal(masks: int) -> None:
    """Each bit position of a message frame and a seal, sampled; TLS would catch all of it, so the wire here has none."""

    async def main() -> None:
        caught = 0
        for position in range(0, 400, 7):
            pool = stores(masks) if masks else (MemoryMasks(), MemoryMasks())
            alice, bob = await session_pair(masks=pool)
            wire, state = alice._out.wire, {"left": position}
            assert isinstance(wire, MemoryWire)

            def flip(data: bytes, state: dict[str, int] = state) -> bytes:
                changed = bytearray(data)
                if 0 <= state["left"] < 8 * len(data):
                    changed[state["left"] // 8] ^= 1 << state["left"] % 8
                state["left"] -= 8 * len(data)
                return bytes(changed)

            wire.tamper = flip
            await alice.send(Note("bits" * 5))
            wire_end = asyncio.create_task(outcome(bob.seal("sift", 1)))
            try:
                async with asyncio.timeout(0.05):
                    await bob.receive(Note)
            except (TimeoutError, QkddError):
                pass
            await outcome(asyncio.wait_for(outcome(alice.seal("sift", 1)), 1)) if not wire_end.done() else None
            try:
                found = await asyncio.wait_for(wire_end, 0.2)
            except TimeoutError:
                found = None  # a length grew: bob waits for bytes that do not come, and would call it silence
            assert not isinstance(found, msgspec.Struct), (position, found)
            caught += 1
            bob.fail(PeerClosed("end of the round"))
            await end(alice, bob)
        assert caught == 58

    run(main)


def test_abort_brings_both_to_the_same_place() -> None:
    async def main() -> None:
        alice, bob = await session_pair(masks=stores())

        async def bob_refuses() -> None:
            await bob.send(Note("in flight"))
            await bob.send(Numbers([1]))
            await bob.abort(Refused("too many errors"))

        _, found = await both(bob_refuses(), alice_waits(alice))
        assert isinstance(found, PeerAborted)
        assert found.peer_code == "QKD-BLK-TEST"
        seals = await both(alice.seal("next", 2), bob.seal("next", 2))
        assert all(s.mode == "wegman-carter" for s in seals)
        assert seals[0].sent_bytes == seals[1].received_bytes
        await end(alice, bob)

    async def alice_waits(alice: Session) -> None:
        await alice.receive(Note)
        await alice.receive(Numbers)
        await alice.receive(Note)

    run(main)


def test_both_abort_at_the_same_moment() -> None:
    async def main() -> None:
        alice, bob = await session_pair()
        assert await both(alice.abort(Refused("a")), bob.abort(Refused("b"))) == [None, None]
        assert all(isinstance(s, msgspec.Struct) for s in await both(alice.seal("next", 2), bob.seal("next", 2)))
        await end(alice, bob)

    run(main)


@pytest.mark.parametrize("masks", [0, 50])
def test_abort_against_a_seal(masks: int) -> None:
    async def main() -> None:
        alice, bob = await session_pair(masks=stores(masks) if masks else None)
        for block in range(3):
            found = await both(alice.seal("sift", block), bob.abort(Refused("no")))
            assert isinstance(found[0], PeerAborted)
            assert found[1] is None
            await alice.send(Note("again"))
            await bob.receive(Note)
            seals = await both(alice.seal("sift", block), bob.seal("sift", block))
            assert all(isinstance(s, msgspec.Struct) for s in seals), seals
        await end(alice, bob)

    run(main)


def test_a_seal_that_does_not_verify_ends_the_session_on_both_sides() -> None:
    async def main() -> None:
        meter = RecordingMeter()
        a, b = MemoryMasks(b"seed", 50), MemoryMasks(b"other seed", 50)  # masks that differ
        alice, bob = await session_pair(masks=(a, b), meter=meter)
        found = await both(alice.seal("sift", 1), bob.seal("sift", 1))
        assert all(isinstance(f, AuthenticationFailed) and f.code == "QKD-BLK-AUTH" for f in found)
        assert meter.total("qkdd_peer_seals_total", result="failed") == 2
        await both(alice.abort(found[0]), bob.abort(found[1]))
        assert isinstance(await outcome(alice.seal("sift", 2)), PeerClosed)
        await end(alice, bob)

    run(main)


def test_wrong_kind_can_be_aborted_and_the_session_goes_on() -> None:
    async def main() -> None:
        alice, bob = await session_pair()
        await alice.send(Numbers([1]))
        error = await outcome(bob.receive(Note))
        assert isinstance(error, ProtocolError)
        _, other = await both(bob.abort(error), alice.receive(Note))
        assert isinstance(other, PeerAborted)
        assert other.peer_code == "QKD-PEER-PROTOCOL"
        await alice.abort(other)  # does nothing
        assert alice.failure is None
        await end(alice, bob)

    run(main)


def test_masks_are_counted_and_a_block_is_not_started_without() -> None:
    async def main() -> None:
        alice, bob = await session_pair(masks=stores(3))
        assert alice.masks_left == 3
        alice.require_masks(3)
        with pytest.raises(MasksEmpty):
            alice.require_masks(8)
        for block in range(3):
            await both(alice.seal("x", block), bob.seal("x", block))
        assert alice.masks_left == bob.masks_left == 0
        assert all(isinstance(f, MasksEmpty) for f in await both(alice.seal("x", 4), bob.seal("x", 4)))
        assert alice.failure is None
        await end(alice, bob)

    run(main)


def test_goodbye_reaches_the_other_side_after_the_last_message() -> None:
    async def main() -> None:
        alice, bob = await session_pair()
        await alice.send(Note("last"))
        await alice.close()
        assert await bob.receive(Note) == Note("last")
        assert isinstance(await outcome(bob.receive(Note)), PeerClosed)
        await end(alice, bob)

    run(main)


# switching -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_a_session_moves_to_a_new_connection_in_the_middle_of_a_block(first: str) -> None:
    async def main() -> None:
        alice, bob = await session_pair(masks=stores())
        await alice.send(Note("on the old one"))
        (left, left_facts), (right, right_facts) = memory_connections()
        new = {"alice": (alice, Connection(left, left_facts)), "bob": (bob, Connection(right, right_facts))}
        order = [first, "bob" if first == "alice" else "alice"]
        for name in order:
            session, connection = new[name]
            session.switch(connection)
            await session.send(Note(f"{name} on the new one"))  # overtakes what is still on the old wire
            await asyncio.sleep(0)
        assert await bob.receive(Note) == Note("on the old one")
        assert await bob.receive(Note) == Note("alice on the new one")
        assert await alice.receive(Note) == Note("bob on the new one")
        assert all(isinstance(s, msgspec.Struct) for s in await both(alice.seal("sift", 1), bob.seal("sift", 1)))
        assert alice._in.wire is left
        assert bob._out.wire is right
        assert alice.failure is None
        await end(alice, bob)

    run(main)


def test_a_new_connection_on_which_the_ends_see_different_negotiations_is_refused() -> None:
    async def main() -> None:
        alice, bob = await session_pair()
        (left, left_facts), (right, right_facts) = memory_connections()
        alice.switch(Connection(left, msgspec.structs.replace(left_facts, binding=b"downgraded")))
        await outcome(asyncio.sleep(0))
        with contextlib.suppress(ProtocolError):
            bob.switch(Connection(right, right_facts))
        assert isinstance(await alice.wait_ended(), (ProtocolError, PeerClosed))
        await end(alice, bob)

    run(main)
