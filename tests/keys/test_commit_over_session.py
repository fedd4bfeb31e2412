"""The two-phase commit over real peer sessions: real frames, real tags, masks spent by the seals, a wire that tampers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import QkddError
from qkdd.keys.errors import CommitInDoubt
from qkdd.peer import ALICE_TO_BOB, BOB_TO_ALICE
from qkdd.peer.opening import SessionSettings
from qkdd.peer.session import Session
from qkdd.testing.patience import PATIENCE_S
from qkdd.testing.peer import Tamper, link_identity, memory_connections

from .nodes import Node, block, check_equal, pair

SIZE = 4000
RESERVE = 40  # masks; a session takes them from the pool in batches
Tampers = tuple[Tamper | None, Tamper | None]


async def sessions(a: Node, b: Node, tamper: Tampers = (None, None)) -> tuple[Session, Session]:
    """Sessions whose masks are the nodes' own durable pools."""
    from qkdd.core.clock import SystemClock
    from qkdd.peer.wire import Connection

    (left, left_facts), (right, right_facts) = memory_connections()
    left.tamper, right.tamper = tamper
    opened = await asyncio.gather(
        Session.open(
            Connection(left, left_facts),
            link_identity("alice"),
            a.masks,
            SessionSettings(),
            SystemClock(),
            RecordingMeter(),
        ),
        Session.open(
            Connection(right, right_facts),
            link_identity("bob"),
            b.masks,
            SessionSettings(),
            SystemClock(),
            RecordingMeter(),
        ),
    )
    return opened[0], opened[1]


async def work(node: Node, session: Session, numbers: range) -> list[int]:
    """Settle, then commit blocks; returns the numbers of those that became key."""
    done = [record.number for record in await node.committer.settle(session)]
    for number in numbers:
        done.append((await node.committer.commit(block(number, SIZE), session)).number)
    return done


def test_blocks_over_a_real_session_and_the_next_one_is_its(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        for node in (a, b):
            node.committer._target = RESERVE
        first = await sessions(a, b)
        assert [s.mode for s in first] == ["ml-dsa", "ml-dsa"]
        assert await asyncio.gather(work(a, first[0], range(1, 4)), work(b, first[1], range(1, 4))) == [[1, 2, 3]] * 2
        for session in first:
            await session.close()
        filled = a.masks.total
        second = await sessions(a, b)
        assert [s.mode for s in second] == ["wegman-carter", "wegman-carter"]
        assert await asyncio.gather(work(a, second[0], range(4, 6)), work(b, second[1], range(4, 6))) == [[4, 5]] * 2
        for session in second:
            await session.close()
        assert a.masks.total > filled  # the seals spent masks, the next block paid for them
        assert a.masks.available(ALICE_TO_BOB) + a.masks.available(BOB_TO_ALICE) < 2 * a.masks.total
        details = [r.details["auth"] for r in await a.spool.recent(10)]
        assert "wegman-carter" in details
        assert await check_equal(a, b) == 5
        await a.close()
        await b.close()

    asyncio.run(main())


def swallow_from(start: int) -> Callable[[bytes], bytes | None]:
    """A line that goes dead after `start` pieces."""
    count = itertools.count()
    return lambda data: data if next(count) < start else None


def flip(number: int) -> Callable[[bytes], bytes | None]:
    """A line that flips one bit of piece `number`."""
    count = itertools.count()

    def tamper(data: bytes) -> bytes | None:
        return data if next(count) != number else data[:-1] + bytes([data[-1] ^ 1])

    return tamper


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("piece", range(1, 9))
def test_a_flipped_bit_at_every_message_heals_on_the_next_session(tmp_path: Path, side: int, piece: int) -> None:
    """Whatever was flipped, no session ends with one side holding what the other does not, and the next block is key."""

    async def main() -> None:
        a, b = await pair(tmp_path)
        tampers: list[Tamper | None] = [None, None]
        tampers[side] = flip(piece)
        try:
            bad = await sessions(a, b, (tampers[0], tampers[1]))
        except QkddError:
            bad = None  # the flip hit the opening
        if bad is not None:
            tasks = [asyncio.create_task(work(n, s, range(1, 2))) for n, s in zip((a, b), bad, strict=True)]
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION, timeout=PATIENCE_S)
            for session in bad:
                await session.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert finished
            assert all(isinstance(r, (list, QkddError)) for r in results), results
        good = await sessions(a, b)
        got = await asyncio.gather(work(a, good[0], range(2, 3)), work(b, good[1], range(2, 3)))
        assert got[0][-1] == got[1][-1] == 2
        for session in good:
            await session.close()
        assert await check_equal(a, b) in (1, 2)
        await a.close()
        await b.close()

    asyncio.run(main())


def test_a_session_that_dies_in_the_commit_is_in_doubt_and_settled(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        first = await sessions(a, b)
        await asyncio.gather(work(a, first[0], range(0)), work(b, first[1], range(0)))
        alice = asyncio.create_task(a.committer.commit(block(1), first[0]))
        for _ in range(1000):
            if await a.spool.in_doubt():
                break
        await first[1].close()  # bob goes before he reads the preparation
        with pytest.raises(CommitInDoubt):
            await alice
        await first[0].close()
        second = await sessions(a, b)
        await asyncio.gather(work(a, second[0], range(2, 3)), work(b, second[1], range(2, 3)))
        assert await check_equal(a, b) == 1
        for session in second:
            await session.close()
        await a.close()
        await b.close()

    asyncio.run(main())
