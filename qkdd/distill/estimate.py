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
from qkdd.distill.plan import BlockPlan
from qkdd.distill.wire import Bits, bits_from, bytes_of_size, receive
from qkdd.peer import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """key: uint8[n], this node's bits that stay secret. errors: differing bits among the k opened ones."""

    key: Bits
    errors: int


def random_subset(m: int, k: int) -> Bits:
    """Bit map uint8[m] with exactly k ones, uniform over all subsets of that size."""
    return kernels.unpack_bits(kernels.random_subset(m, k, os.urandom), m)


async def estimate(block: SiftedBlock, plan: BlockPlan, session: PeerSession) -> Estimate:
    """Open the test subset, seal, and refuse if it has more errors than were tolerated beforehand.

    Raises BlockMalformed, QberExceeded (both nodes), and what the session raises.
    """
    alice = session.role == "alice"
    packed = kernels.pack_bits(block.bits)
    if alice:
        chosen: bytes | bytearray = await kernels.run(kernels.random_subset, plan.m, plan.k, os.urandom)
    else:
        message = await receive(session, TestSubset, block.number)
        chosen = bytes_of_size(message.subset, (plan.m + 7) // 8, "test subset")
    try:
        mine, rest = kernels.split_subset(packed, chosen, plan.m, plan.k)
    except kernels.KernelMalformed:
        raise BlockMalformed(f"the test subset does not have {plan.k} of {plan.m} positions") from None
    if alice:
        await session.send(TestSubset(block.number, bytes(chosen), bytes(mine)))
        theirs = (await receive(session, TestBits, block.number)).bits
    else:
        theirs = message.bits
        await session.send(TestBits(block.number, bytes(mine)))
    errors = int(np.count_nonzero(bits_from(theirs, plan.k, "test bits") != kernels.unpack_bits(mine, plan.k)))
    await session.seal("sift", block.number)
    if errors > plan.errors_allowed:
        raise QberExceeded(
            f"{errors} errors in {plan.k} test bits ({errors / plan.k:.2%}); tolerated were {plan.tolerated_error:.2%}",
            test_errors=errors,
            test_size=plan.k,
            tolerated_error=plan.tolerated_error,
        )
    key = kernels.unpack_bits(rest, plan.n)
    rest[:] = bytes(len(rest))
    return Estimate(key, errors)
