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
from qkdd.distill.wire import Bits, bytes_of_size, packed_of, receive
from qkdd.peer import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """key: this node's n bits that stay secret. errors: differing bits among the k opened ones."""

    key: PackedBits
    errors: int


def random_subset(m: int, k: int) -> Bits:
    """Bit map uint8[m] with exactly k ones, uniform over all subsets of that size."""
    return kernels.unpack_bits(kernels.random_subset(m, k, os.urandom), m)


async def estimate(block: SiftedBlock, plan: BlockPlan, session: PeerSession) -> Estimate:
    """Open the test subset, seal, and refuse if it has more errors than were tolerated beforehand.

    Raises BlockMalformed, QberExceeded (both nodes), and what the session raises.
    """
    alice = session.role == "alice"
    if alice:
        chosen: bytes | bytearray = await kernels.run(kernels.random_subset, plan.m, plan.k, os.urandom)
    else:
        message = await receive(session, TestSubset, block.number)
        chosen = bytes_of_size(message.subset, (plan.m + 7) // 8, "test subset")
    try:
        mine, rest = await kernels.run(kernels.split_subset, block.bits.data, chosen, plan.m, plan.k)
    except kernels.KernelMalformed:
        raise BlockMalformed(f"the test subset does not have {plan.k} of {plan.m} positions") from None
    if alice:
        await session.send(TestSubset(block.number, bytes(chosen), bytes(mine)))
        theirs = (await receive(session, TestBits, block.number)).bits
    else:
        theirs = message.bits
        await session.send(TestBits(block.number, bytes(mine)))
    key = PackedBits(rest, plan.n)
    try:
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
