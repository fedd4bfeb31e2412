"""Bob's key becomes alice's, and every key-dependent bit that either sends is counted: by Cascade (`qkdd.distill.cascade`)."""

from __future__ import annotations

from dataclasses import dataclass

from qkdd.distill import cascade
from qkdd.distill.plan import BlockPlan
from qkdd.distill.wire import Bits
from qkdd.peer import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class Reconciled:
    """key: uint8[n], after correction. errors: bits that were corrected. leak: bits sent by both nodes together."""

    key: Bits
    errors: int
    leak: int
    rounds: int


async def reconcile(key: Bits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Reconciled:
    """Correct bob's key to alice's. Raises LeakExceeded (both nodes), BlockMalformed, and what the session raises."""
    done = await cascade.correct(key, test_errors, plan, session, block)
    return Reconciled(done.key, done.errors, 2 * done.parities, done.rounds)
