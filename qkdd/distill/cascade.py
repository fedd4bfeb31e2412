"""Cascade over the session: frames by the hundred, their parities in one message a round, several rounds on their way at once.

The machine is `kernels.CascadeBlock`; both nodes run it on the exclusive-or of their parities, so ranges never go over the wire
(decision 0050). A block is cut into lanes that take turns: while one lane's message travels the nodes work on the others. Both
nodes count the same leak in the same order and stop at the same place, before a parity that the budget does not cover is sent.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from dataclasses import dataclass

from qkdd import kernels
from qkdd.distill.errors import BlockMalformed, LeakExceeded
from qkdd.distill.messages import Parities, ReconcileSeed
from qkdd.distill.packed import PackedBits
from qkdd.distill.plan import VERDICT_BITS, BlockPlan
from qkdd.distill.wire import bytes_of_size, receive
from qkdd.peer import PeerSession

SEED_BYTES = 32
FRAME_BITS = 102_400
LANES_MOST = 8
IN_FLIGHT_MOST = 4096  # frames of all lanes together; each takes some 200 kB
_NEAR_S = 1e-3  # round trip below which the messages' own cost matters more than their way
_LANE_FRAMES = {True: 4000, False: 320}  # frames that are worth a lane of their own on a near and on a long line
_IN_FLIGHT = 640  # frames of a lane at least: fewer mean more rounds, more fall out of the caches
_FRAME_ROUND_S = 2.5e-6  # mean work of a node on one frame in one round
_INLINE = 60_000  # parities of a round, 2 ms at most; above, the work goes to a thread, which takes 0.1 ms to hand over


@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """key: n bits. errors: bits that were corrected. parities: alice's; as many bits of bob's. rounds: of the longest lane."""

    key: PackedBits
    errors: int
    parities: int
    rounds: int


def error_estimate(errors: int, size: int) -> float:
    """Error rate for which the first blocks are sized: (errors + 1)/(size + 2), never 0 (Laplace's rule)."""
    return min(0.5, (errors + 1) / (size + 2))


def lane_parts(n: int, lanes: int) -> list[slice]:
    """Bytes of the packed key that each lane holds: whole squares of 4096 bits, but for the end; none is empty."""
    size = (n + 7) // 8
    squares = -(-size // 512)
    cuts = [min(size, squares * i // lanes * 512) for i in range(lanes + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(cuts) if b > a]


def shape(n: int, round_trip_s: float) -> tuple[int, int]:
    """Lanes, and frames in flight a lane, for n bits: enough work in each lane to pay for its messages and for the way."""
    frames = max(1, round(n / FRAME_BITS))
    lanes = min(LANES_MOST, max(1, frames // _LANE_FRAMES[round_trip_s < _NEAR_S]))
    wanted = max(_IN_FLIGHT, round(round_trip_s / (_FRAME_ROUND_S * lanes)))
    return lanes, min(wanted, IN_FLIGHT_MOST // lanes, max(1, -(-frames // lanes)))


class _Lane:
    def __init__(self, number: int, block: kernels.CascadeBlock) -> None:
        self.number, self.block, self.rounds = number, block, 0

    async def step(self, theirs: bytes) -> bytes:
        if 0 < self.block.asked < _INLINE:
            return self.block.step(theirs)
        return await kernels.run(self.block.step, theirs)


async def correct(key: PackedBits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Corrected:
    """Correct bob's key to alice's, in place; where it does not succeed, zero it. Raises LeakExceeded (both nodes),
    BlockMalformed, and what the session raises."""
    done, view = False, memoryview(key.data)
    lanes: list[_Lane] = []
    try:
        start = await _agree(plan.n, session, block)
        parts = lane_parts(plan.n, start.lanes)
        for part in parts:
            opened = await kernels.run(
                kernels.CascadeBlock,
                view[part],
                min(plan.n, 8 * part.stop) - 8 * part.start,
                start.seed,
                error_rate=error_estimate(test_errors, plan.k),
                frame_bits=FRAME_BITS,
                in_flight=start.in_flight,
                correct=session.role == "bob",
            )
            lanes.append(_Lane(len(lanes), opened))
        parities = await _talk(lanes, plan, test_errors, session, block)
        errors = 0
        for lane, part in zip(lanes, parts, strict=True):
            if session.role == "alice":
                errors += await kernels.run(lane.block.end)
            else:
                errors += (await kernels.run(lane.block.close, view[part]))[1]
        done = True
        return Corrected(key, errors, parities, max(lane.rounds for lane in lanes))
    except (kernels.KernelMalformed, kernels.KernelTruncated) as error:
        raise BlockMalformed(f"parities of the other node do not fit: {error.message}") from None
    finally:
        view.release()
        if not done:
            key.wipe()
        for lane in lanes:
            lane.block.wipe()


async def _agree(n: int, session: PeerSession, block: int) -> ReconcileSeed:
    """Alice draws the seed and chooses how much is on its way at once; bob takes what is within bounds."""
    if session.role == "alice":
        start = ReconcileSeed(block, os.urandom(SEED_BYTES), *shape(n, session.rtt))
        await session.send(start)
        return start
    start = await receive(session, ReconcileSeed, block)
    bytes_of_size(start.seed, SEED_BYTES, "permutation seed")
    if not (
        1 <= start.lanes <= LANES_MOST and start.in_flight >= 1 and start.lanes * start.in_flight <= IN_FLIGHT_MOST
    ):
        raise BlockMalformed(f"{start.lanes} lanes of {start.in_flight} frames in flight are outside the bounds")
    return start


async def _talk(lanes: list[_Lane], plan: BlockPlan, test_errors: int, session: PeerSession, block: int) -> int:
    """Until no lane asks any more; alice's parities. Raises LeakExceeded when every message that was sent has arrived."""
    waiting: deque[_Lane] = deque()
    answers = {lane.number: b"" for lane in lanes}
    todo, parities = deque(lanes), 0
    while todo or waiting:
        if not todo:
            lane = waiting.popleft()
            answers[lane.number] = await _answer(lane, session, block)
            todo.append(lane)
        lane = todo.popleft()
        mine = await lane.step(answers.pop(lane.number))
        if not mine:
            continue
        parities += lane.block.asked
        if 2 * parities + VERDICT_BITS > plan.leak_budget:
            for other in waiting:
                await _answer(other, session, block)
            await session.seal("reconcile", block)
            raise LeakExceeded(
                f"error correction of {plan.n} bits needs more than its budget of {plan.leak_budget} bits",
                leak_budget=plan.leak_budget,
                test_errors=test_errors,
                test_size=plan.k,
            )
        lane.rounds += 1
        await session.send(Parities(block, lane.number, lane.rounds, mine))
        waiting.append(lane)
    return parities


async def _answer(lane: _Lane, session: PeerSession, block: int) -> bytes:
    answer = await receive(session, Parities, block)
    if (answer.lane, answer.round) != (lane.number, lane.rounds):
        raise BlockMalformed(
            f"parities are of round {answer.round} of lane {answer.lane}, not {lane.rounds} of {lane.number}"
        )
    return answer.bits
