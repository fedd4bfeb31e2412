"""LDPC over the session: alice sends syndromes, bob decodes; frames that fail get more, as far as the budget goes.

Where the leak is subtracted as sent, frames are punctured: some columns hold private random bits of alice, which are opened for
the frames that failed (blind reconciliation: Martinez-Mateo, Elkouss, Martin, Quantum Inf. Comput. 12 (2012) 791; decision 0158).
Elsewhere they get further rows. Each costs the bits that are sent and no others (decision 0108). Which frames failed depends on
both keys, as does bob's count of errors; both are counted.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.distill.errors import BlockMalformed, LeakExceeded
from qkdd.distill.layout import COUNT_BITS, Layout, blind_layout, cut, layout, most_rows
from qkdd.distill.messages import Decoded, Syndromes
from qkdd.distill.plan import VERDICT_BITS, BlockPlan
from qkdd.distill.wire import Bits, bits_from, receive
from qkdd.peer import PeerSession

ITERATIONS = 80
_PORTION = 32  # frames whose syndromes share a message
DITHERS = 6  # further attempts on a frame for which no further rows fit the budget: they disclose nothing
# Standard deviations of the test sample's error rate that the first message of a punctured frame allows for, of a plain one, and
# of a punctured frame that is opened.
_ESTIMATE_SPREADS = (-0.5, 2.3, 3.5)


def first_layout(test_errors: int, plan: BlockPlan) -> Layout:
    """The code of round 0. Where the length was fixed beforehand from the leak budget, the strongest code within the budget:
    bits that are not sent would win nothing. Otherwise for the error rate of the test bits, with the uncertainty of sample and
    key. Raises LeakExceeded if none is within the budget."""
    if plan.length > 0:
        start = most_rows(plan.n, plan.ldpc_frame)
    else:
        rate = (test_errors + 1) / (plan.k + 2)
        spread = math.sqrt(rate * (1.0 / plan.k + 1.0 / plan.n))
        likely, sure, worst = (min(rate + times * spread, 0.5) for times in _ESTIMATE_SPREADS)
        found = blind_layout(plan.n, likely, worst, plan.ldpc_frame)
        if found is None or not found.held:  # no column is free
            found = layout(plan.n, sure, plan.ldpc_frame)
        start = found or most_rows(plan.n, plan.ldpc_frame)
    for index in range(start.code, -1, -1):
        smaller = replace(start, code=index, held=start.held if index == start.code else 0)
        if smaller.leak + _answer_bits(smaller.frames) + VERDICT_BITS <= plan.leak_budget:
            return smaller
    raise LeakExceeded("no LDPC code discloses as little as the budget", leak_budget=plan.leak_budget)


def _answer_bits(frames: int) -> int:
    return frames + COUNT_BITS


class Correction:
    """One key on one node: its frames, what was disclosed of them, and (bob) what was decoded."""

    def __init__(self, key: Bits, parts: Layout) -> None:
        self.key, self.parts = key, parts
        self._frames = cut(key, parts.frames)  # as they are before correction
        self.open = list(range(parts.frames))  # frames that are not corrected yet
        self.leak = 0
        self.parities = 0  # alice's part of the leak
        self.rounds = 0
        self.errors = 0
        self._theirs: dict[int, Bits] = {}
        self._private: dict[int, Bits] = {}  # of alice's frames
        self._opened: dict[int, NDArray[np.int8]] = {}  # of bob's: what he knows of them

    def cost(self, round_: int) -> int:
        """Bits that this round discloses, bob's answer included."""
        return sum(self.parts.frame(i).leak(round_) for i in self.open) + _answer_bits(len(self.open))

    def wipe(self) -> None:
        self.key.fill(0)
        self.forget()

    def forget(self) -> None:
        """Zero the copies of the key, and alice's private bits, which with the syndromes would tell of it."""
        self._frames.fill(0)
        for private in self._private.values():
            private.fill(0)
        self._private.clear()

    def charge(self, round_: int) -> None:
        """Count what this round is about to disclose."""
        self.leak += self.cost(round_)
        self.parities += self.cost(round_) - _answer_bits(len(self.open))
        self.rounds += 1

    @property
    def portions(self) -> list[list[int]]:
        """The open frames as they share messages."""
        return [self.open[i : i + _PORTION] for i in range(0, len(self.open), _PORTION)]

    def say(self, round_: int, frames: list[int]) -> Bits:
        """What alice sends of these open frames in this round: syndrome bits or opened private bits one after the other."""
        return np.concatenate([self._say(i, round_) for i in frames])

    def _say(self, index: int, round_: int) -> Bits:
        frame = self.parts.frame(index)
        if frame.opens(round_):
            return self._private[index][list(frame.opened(round_))]
        if frame.private_bits and round_ == 0:
            self._private[index] = kernels.unpack_bits(secrets.token_bytes(frame.private_bits // 8), frame.private_bits)
        whole = self._syndrome(index, round_)
        return whole[whole.size - frame.sent_bits(round_) :]

    def _syndrome(self, index: int, round_: int) -> Bits:
        frame = self.parts.frame(index)
        mine = frame.spread(self._frames[index, : frame.bits], self._private.get(index))
        try:
            return frame.code.syndrome(mine, frame.rows(round_))
        finally:
            mine.fill(0)

    def take(self, theirs: Bits, round_: int, frames: list[int]) -> None:
        """Alice's bits of this round for these frames."""
        at = 0
        for index in frames:
            frame = self.parts.frame(index)
            size = frame.sent_bits(round_)
            part = theirs[at : at + size]
            at += size
            if frame.opens(round_):
                self._opened[index][list(frame.opened(round_))] = np.where(part, -frame.code.KNOWN, frame.code.KNOWN)
            elif round_ == 0:
                self._theirs[index] = part
                if frame.private_bits:
                    self._opened[index] = np.zeros(frame.private_bits, np.int8)
            else:
                self._theirs[index] = np.concatenate([self._theirs[index], part])

    def last(self, round_: int, budget: int) -> bool:
        """Whether a frame that fails in this round gets nothing more."""
        if round_ == self.parts.rounds:
            return True
        more = min(self.parts.frame(index).leak(round_ + 1) for index in self.open)
        return self.leak + more + _answer_bits(1) + VERDICT_BITS > budget

    def correct(self, index: int, round_: int, dithers: int = 0) -> int | None:
        """Decode one frame and correct the key in place: the number of errors, None if decoding failed, also from `dithers`
        other starting points."""
        frame, opened = self.parts.frame(index), self._opened.get(index)
        difference = self._syndrome(index, round_) ^ self._theirs[index]
        for attempt in range(dithers + 1):
            found, _ = frame.code.decode(difference, frame.prior(attempt, opened), ITERATIONS)
            if found is not None:
                break
        if found is None:
            return None
        places, private = frame.places(found), frame.private(found)
        if (places >= frame.bits).any():  # a shortened position cannot be wrong
            return None
        if opened is not None and (private[opened != 0] != (opened[opened != 0] < 0)).any():  # nor can an opened one
            return None
        self.key[index + self.parts.frames * places] ^= 1
        return len(places)

    def close(self, failed: Bits) -> None:
        """Only the frames whose bit in `failed` is set stay open."""
        self.open = [index for index, bit in zip(self.open, failed, strict=True) if bit]


async def correct(key: Bits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Correction:
    """Correct bob's key to alice's, in place; where it does not succeed, zero it. Raises LeakExceeded (both nodes),
    BlockMalformed, and what the session raises."""
    try:
        work = await kernels.run(Correction, key, first_layout(test_errors, plan))
    except LeakExceeded:
        key.fill(0)
        raise
    done = False
    try:
        for round_ in range(work.parts.rounds + 1):
            if work.leak + work.cost(round_) + VERDICT_BITS > plan.leak_budget:
                break
            work.charge(round_)
            if session.role == "alice":
                await _ask(work, round_, session, block)
            else:
                await _answer(work, round_, plan.leak_budget, session, block)
            if not work.open:
                done = True
                work.forget()
                return work
        await session.seal("reconcile", block)
        raise LeakExceeded(
            f"{len(work.open)} of {work.parts.frames} LDPC frames need more than the budget of {plan.leak_budget} bits",
            leak_budget=plan.leak_budget,
            test_errors=test_errors,
            test_size=plan.k,
        )
    finally:
        if not done:
            work.wipe()


async def _ask(work: Correction, round_: int, session: PeerSession, block: int) -> None:
    for portion in work.portions:
        mine = await kernels.run(work.say, round_, portion)
        await session.send(Syndromes(block, round_, kernels.pack_bits(mine)))
    answer = await receive(session, Decoded, block)
    _same_round(answer.round, round_)
    if not work.errors <= answer.errors <= work.key.size:
        raise BlockMalformed(f"{answer.errors} errors in {work.key.size} bits, {work.errors} before")
    work.errors = answer.errors
    work.close(bits_from(answer.failed, len(work.open), "failed frames"))


async def _answer(work: Correction, round_: int, budget: int, session: PeerSession, block: int) -> None:
    """Frames are decoded while alice makes the syndromes of the next portion."""
    cores = asyncio.Semaphore(os.cpu_count() or 1)
    dithers = DITHERS if work.last(round_, budget) else 0

    async def one(index: int) -> int | None:
        async with cores:
            return await kernels.run(work.correct, index, round_, dithers)

    decoding: list[asyncio.Task[int | None]] = []
    try:
        for portion in work.portions:
            message = await receive(session, Syndromes, block)
            _same_round(message.round, round_)
            size = sum(work.parts.frame(i).sent_bits(round_) for i in portion)
            work.take(bits_from(message.bits, size, "syndromes"), round_, portion)
            decoding += [asyncio.create_task(one(index)) for index in portion]
        found = await asyncio.gather(*decoding)
    finally:
        for task in decoding:
            task.cancel()
    work.errors += sum(count or 0 for count in found)
    failed = np.array([count is None for count in found], np.uint8)
    await session.send(Decoded(block, round_, kernels.pack_bits(failed), work.errors))
    work.close(failed)


def _same_round(named: int, expected: int) -> None:
    if named != expected:
        raise BlockMalformed(f"a message of round {named}, not {expected}")
