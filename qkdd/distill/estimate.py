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
from qkdd.distill.wire import Bits, bits_from, receive
from qkdd.peer import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """key: uint8[n], this node's bits that stay secret. errors: differing bits among the k opened ones."""

    key: Bits
    errors: int


def random_subset(m: int, k: int) -> Bits:
    """Bit map uint8[m] with exactly k ones, uniform over all subsets of that size."""
    while True:
        draws = np.frombuffer(os.urandom(8 * m), np.uint64)
        order = np.partition(draws, (k - 1, k)) if k < m else np.sort(draws)
        if k == m or order[k - 1] < order[k]:  # a tie at the border would favour one position: draw again
            subset: Bits = (draws <= order[k - 1]).astype(np.uint8)
            return subset


async def estimate(block: SiftedBlock, plan: BlockPlan, session: PeerSession) -> Estimate:
    """Open the test subset, seal, and refuse if it has more errors than were tolerated beforehand.

    Raises BlockMalformed, QberExceeded (both nodes), and what the session raises.
    """
    if session.role == "alice":
        subset = await kernels.run(random_subset, plan.m, plan.k)
        opened = subset.astype(np.bool_)
        mine = block.bits[opened]
        await session.send(TestSubset(block.number, kernels.pack_bits(subset), kernels.pack_bits(mine)))
        theirs = bits_from((await receive(session, TestBits, block.number)).bits, plan.k, "test bits")
    else:
        message = await receive(session, TestSubset, block.number)
        opened = bits_from(message.subset, plan.m, "test subset").astype(np.bool_)
        if np.count_nonzero(opened) != plan.k:
            raise BlockMalformed(f"the test subset has {np.count_nonzero(opened)} positions instead of {plan.k}")
        theirs = bits_from(message.bits, plan.k, "test bits")
        mine = block.bits[opened]
        await session.send(TestBits(block.number, kernels.pack_bits(mine)))
    errors = int(np.count_nonzero(mine != theirs))
    await session.seal("sift", block.number)
    if errors > plan.errors_allowed:
        raise QberExceeded(
            f"{errors} errors in {plan.k} test bits ({errors / plan.k:.2%}); tolerated were {plan.tolerated_error:.2%}",
            test_errors=errors,
            test_size=plan.k,
            tolerated_error=plan.tolerated_error,
        )
    return Estimate(block.bits[~opened], errors)
