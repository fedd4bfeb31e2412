"""Basis sifting of one block between its two ends, without a laboratory: the same rounds on both nodes, lies refused."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from qkdd.distill.errors import BlockMalformed
from qkdd.link import LinkShared
from qkdd.link.clockmap import ClockMap
from qkdd.link.events import Events
from qkdd.link.messages import Matches
from qkdd.link.protocols.bbm92 import Bbm92, SiftTask

OFFSET, BLOCK = 5_000_000, 10**12


class Line:
    """Carries messages to the other end, which may find them changed."""

    def __init__(self, change=lambda message: message):
        self._change = change
        self.other = None
        self.queue = asyncio.Queue()

    async def send(self, message):
        await self.other.queue.put(self._change(message))

    async def receive(self, *_kinds):
        return await self.queue.get()


def events_of(rng, times):
    bases, bits = rng.integers(0, 2, (2, len(times)), dtype=np.uint8)
    return Events(times, bases, bits, bases << 1 | bits, clicks=len(times), blanked=0)


def sift(change=lambda message: message):
    async def main():
        rng = np.random.default_rng(5)
        shared = LinkShared()
        common = np.sort(rng.choice(BLOCK // 10**7, 20_000, replace=False)) * 10**7
        b_times = np.sort(np.concatenate([common, rng.integers(0, BLOCK, 5000)]))
        a_times = np.sort(np.concatenate([common, rng.integers(0, BLOCK, 5000)])) + OFFSET
        alice, bob = events_of(rng, a_times), events_of(rng, b_times)
        clock = ClockMap(0, float(OFFSET), 0.0)
        left, right = Line(change), Line()
        left.other, right.other = right, left
        tasks = (
            SiftTask(7, 0, BLOCK, alice, shared, clock, 20_000.0, 2000),
            SiftTask(7, 0, BLOCK, bob, shared),
        )
        sifter = Bbm92()
        return alice, bob, *await asyncio.gather(sifter.alice(tasks[0], left), sifter.bob(tasks[1], right))

    return asyncio.run(main())


def test_both_ends_hold_the_rounds_of_equal_basis():
    alice, bob, a_rounds, b_rounds = sift()
    assert a_rounds.pairs == b_rounds.pairs
    assert 19_900 < a_rounds.pairs < 20_400
    assert np.array_equal(a_rounds.bases, b_rounds.bases)
    assert len(a_rounds.bits) == len(b_rounds.bits) == pytest.approx(a_rounds.pairs / 2, rel=0.05)
    # what each end kept is its own: the clicks that both have are found by their time
    _, ia, ib = np.intersect1d(alice.times - OFFSET, bob.times, return_indices=True)
    same = alice.bases[ia] == bob.bases[ib]
    ours, theirs = (
        alice.bits[ia[same]],
        bob.bits[ib[same]] ^ np.array(LinkShared().flips, np.uint8)[bob.bases[ib[same]]],
    )
    assert abs(len(a_rounds.bits) - len(ours)) < 200  # chance coincidences besides
    agreeing = np.mean(a_rounds.bits.unpacked() == b_rounds.bits.unpacked())
    assert agreeing == pytest.approx(np.mean(ours == theirs), abs=0.02)


@pytest.mark.parametrize(
    "lie",
    [
        lambda said: {"pairs": said.count - 1},
        lambda said: {"pairs": 25_001},
        lambda said: {"count": -1},
        lambda said: {"count": said.count + 1, "pairs": said.pairs + 1},
        lambda said: {"matches": said.matches[: len(said.matches) // 2]},
        lambda said: {"block": 8},
    ],
)
def test_pairs_that_cannot_be_are_refused(lie):
    def change(message):
        return msgspec.structs.replace(message, **lie(message)) if isinstance(message, Matches) else message

    with pytest.raises(BlockMalformed):
        sift(change)
