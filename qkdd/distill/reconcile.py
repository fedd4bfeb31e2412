"""Bob's key becomes alice's, and every key-dependent bit that either sends is counted: by LDPC (`qkdd.distill.ldpc`) or Cascade
(`qkdd.distill.cascade`). Both nodes count the same leak and stop at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

from qkdd import kernels
from qkdd.distill import cascade, ldpc
from qkdd.distill.packed import PackedBits
from qkdd.distill.plan import BlockPlan
from qkdd.peer import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class Reconciled:
    """key: n bits, after correction, in place or anew. errors: bits that were corrected. leak: bits sent by both nodes together.
    parities: those of alice. rounds: exchanges."""

    key: PackedBits
    errors: int
    leak: int
    rounds: int
    parities: int


async def reconcile(key: PackedBits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Reconciled:
    """Correct bob's key to alice's by the plan's method; `key` is used up. Raises LeakExceeded (both nodes), BlockMalformed, what
    the session raises."""
    if plan.method == "ldpc":
        return await _ldpc(key, test_errors, plan, session, block)
    return await _cascade(key, test_errors, plan, session, block)


async def _ldpc(key: PackedBits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Reconciled:
    done = await ldpc.correct(await kernels.run(key.unpacked), test_errors, plan, session, block)
    corrected = key if session.role == "alice" else await kernels.run(PackedBits.of, done.key)
    done.key.fill(0)
    return Reconciled(corrected, done.errors, done.leak, done.rounds, done.parities)


async def _cascade(key: PackedBits, test_errors: int, plan: BlockPlan, session: PeerSession, block: int) -> Reconciled:
    done = await cascade.correct(key, test_errors, plan, session, block)
    return Reconciled(done.key, done.errors, 2 * done.parities, done.rounds, done.parities)
