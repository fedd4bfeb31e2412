"""Cascade over the session: bob's key becomes alice's, and every key-dependent bit that either sends is counted.

A round is one message each way, sent at the same time, with the parities of all ranges of the round. Both nodes count the
same leak and stop at the same place, before a parity that the budget does not cover is sent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from qkdd import kernels
from qkdd.distill.cascade import PASSES, Cascade, Ranges, error_estimate
from qkdd.distill.errors import BlockMalformed, LeakExceeded
from qkdd.distill.messages import Parities, ReconcileSeed
from qkdd.distill.plan import VERDICT_BITS, BlockPlan
from qkdd.distill.wire import Bits, bits_from, bytes_of_size, receive
from qkdd.peer import PeerSession

SEED_BYTES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Reconciled:
    """key: uint8[n], after correction. errors: bits that were corrected. leak: bits sent by both nodes together."""

    key: Bits
    errors: int
    leak: int
    rounds: int


async def reconcile(key: Bits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Reconciled:
    """Correct bob's key to alice's. Raises LeakExceeded (both nodes), BlockMalformed, and what the session raises."""
    alice = session.role == "alice"
    if alice:
        seed = os.urandom(SEED_BYTES)
        await session.send(ReconcileSeed(block, seed))
    else:
        message = await receive(session, ReconcileSeed, block)
        seed = bytes_of_size(message.seed, SEED_BYTES, "permutation seed")
    frame = await kernels.run(kernels.CascadeFrame, key, seed, PASSES)
    try:
        machine = Cascade(plan.n, error_estimate(test_errors, plan.k), frame, correct=not alice)
        steps = machine.run()
        leak, rounds = 0, 0
        differences: list[Bits] | None = None
        while True:
            try:
                ask = next(steps) if differences is None else steps.send(differences)
            except StopIteration:
                break
            leak += 2 * sum(len(ranges) for ranges in ask)
            if leak + VERDICT_BITS > plan.leak_budget:
                await session.seal("reconcile", block)
                raise LeakExceeded(
                    f"error correction needs more than its budget of {plan.leak_budget} bits after {machine.error_count} "
                    f"errors in {plan.n} bits",
                    leak_budget=plan.leak_budget,
                    test_errors=test_errors,
                    test_size=plan.k,
                )
            rounds += 1
            differences = await _exchange(frame, ask, rounds, session, block)
        return Reconciled(frame.bits(), machine.error_count, leak, rounds)
    finally:
        frame.wipe()


async def _exchange(
    frame: kernels.CascadeFrame, ask: list[Ranges], number: int, session: PeerSession, block: int
) -> list[Bits]:
    mine = np.concatenate([frame.range_parities(r.pass_index, r.starts, r.stops) for r in ask])
    await session.send(Parities(block, number, kernels.pack_bits(mine)))
    answer = await receive(session, Parities, block)
    if answer.round != number:
        raise BlockMalformed(f"parities are of round {answer.round}, not {number}")
    difference = mine ^ bits_from(answer.bits, mine.size, "parities")
    return np.split(difference, np.cumsum([len(r) for r in ask])[:-1])
