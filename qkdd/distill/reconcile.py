"""Bob's key becomes alice's, and every key-dependent bit that either sends is counted: by LDPC (`qkdd.distill.ldpc`) or Cascade
(`qkdd.distill.cascade`). Both nodes count the same leak and stop at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

from qkdd.distill import cascade, ldpc
from qkdd.distill.plan import BlockPlan
from qkdd.distill.wire import Bits
from qkdd.peer import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class Reconciled:
    """key: uint8[n], after correction. errors: bits that were corrected. leak: bits sent by both nodes together. parities: those
    of alice. rounds: exchanges."""

    key: Bits
    errors: int
    leak: int
    rounds: int
    parities: int


async def reconcile(key: Bits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Reconciled:
    """Correct bob's key to alice's by the plan's method. Raises LeakExceeded (both nodes), BlockMalformed, what the session
    raises."""
    if plan.method == "ldpc":
        done = await ldpc.correct(key, test_errors, plan, session, block)
        return Reconciled(done.key, done.errors, done.leak, done.rounds, done.parities)
    return await _cascade(key, test_errors, plan, session, block)


async def _cascade(key: Bits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Reconciled:
    done = await cascade.correct(key, test_errors, plan, session, block)
    return Reconciled(done.key, done.errors, 2 * done.parities, done.rounds, done.parities)
