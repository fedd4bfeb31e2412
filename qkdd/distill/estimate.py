"""Open a random subset of the sifted bits and count the errors in it.

The subset is a uniform choice of k of m positions, drawn by alice from the operating system's generator after all
detections and sent in full; opened bits leave the key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from qkdd import kernels
from qkdd.distill.blocks import SiftedBlock
from qkdd.distill.errors import BlockMalformed, QberExceeded
from qkdd.distill.messages import TestBits, TestSubset
from qkdd.distill.packed import PackedBits
from qkdd.distill.plan import BlockPlan
from qkdd.distill.wire import Bits, packed_of, receive
from qkdd.peer import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """key: this node's n bits that stay secret. errors: differing bits among the k opened ones."""

    key: PackedBits
    errors: int


def random_subset(m: int, k: int) -> Bits:
    """Bit map uint8[m] with exactly k ones, uniform over all subsets of that size."""
    return kernels.unpack_bits(kernels.random_subset(m, k, os.urandom), m)


def _draw(plan: BlockPlan) -> tuple[bytearray, bytes]:
    """The subset as a map, and as it is told."""
    chosen = kernels.random_subset(plan.m, plan.k, os.urandom)
    return chosen, kernels.pack_subset(chosen, plan.m, plan.k)


async def _subset(plan: BlockPlan, session: PeerSession, block: int) -> bytearray:
    """The map of the positions that both nodes open: alice draws it and tells it."""
    if session.role == "alice":
        chosen, told = await kernels.run(_draw, plan)
        await session.send(TestSubset(block, told))
        return chosen
    message = await receive(session, TestSubset, block)
    return await kernels.run(kernels.unpack_subset, message.subset, plan.m, plan.k)


async def estimate(block: SiftedBlock, plan: BlockPlan, session: PeerSession) -> Estimate:
    """Open the test subset, seal, and refuse if it has more errors than were tolerated beforehand.

    Raises BlockMalformed, QberExceeded (both nodes), and what the session raises.
    """
    try:
        chosen = await _subset(plan, session, block.number)
        mine, rest = await kernels.run(kernels.split_subset, block.bits.data, chosen, plan.m, plan.k)
    except kernels.KernelMalformed:
        raise BlockMalformed(f"the test subset does not have {plan.k} of {plan.m} positions") from None
    key = PackedBits(rest, plan.n)
    try:
        await session.send(TestBits(block.number, bytes(mine)))
        theirs = (await receive(session, TestBits, block.number)).bits
        errors = different(mine, packed_of(theirs, plan.k, "test bits"))
        await session.seal("sift", block.number)
        _check(errors, plan)
    except BaseException:
        key.wipe()
        raise
    return Estimate(key, errors)


def different(mine: bytearray, theirs: bytes) -> int:
    """In how many bits two packed strings of one length differ."""
    return int(np.bitwise_count(np.frombuffer(mine, np.uint8) ^ np.frombuffer(theirs, np.uint8)).sum(dtype=np.int64))


def _check(errors: int, plan: BlockPlan) -> None:
    if errors > plan.errors_allowed:
        raise QberExceeded(
            f"{errors} errors in {plan.k} test bits ({errors / plan.k:.2%}); tolerated were {plan.tolerated_error:.2%}",
            test_errors=errors,
            test_size=plan.k,
            tolerated_error=plan.tolerated_error,
        )
