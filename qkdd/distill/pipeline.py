"""One sifted block in, secret bits or a reason out: estimate, reconcile, verify, amplify.

The same coroutine runs on both nodes; the session knows the role. It starts when both nodes hold the same sifted rounds and
ends after the `amplify` seal. The caller has charged `plan.eps` to the ledger before, and aborts the session's block when an
error comes out.
"""

from __future__ import annotations

import asyncio

from qkdd.distill.agree import NO_KEY, accept, propose
from qkdd.distill.amplify import amplify, draw_seed
from qkdd.distill.blocks import DistilledBlock, SiftedBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.errors import PlanMismatch
from qkdd.distill.estimate import estimate
from qkdd.distill.packed import PackedBits
from qkdd.distill.plan import VERDICT_BITS, BlockPlan
from qkdd.distill.reconcile import Reconciled, reconcile
from qkdd.distill.verify import verify
from qkdd.peer import PeerSession
from qkdd.security.entropy import h2_bound


async def distil(block: SiftedBlock, plan: BlockPlan, session: PeerSession, config: DistillConfig) -> DistilledBlock:
    """Make a block's secret key with the other node. `plan` is this node's own; alice's tolerated error decides.

    Raises a BlockRefused subclass (see `qkdd.distill.errors`), AuthenticationFailed, PeerAborted, or what ends the session. The
    block is used up in any case: its bits are zeroed.
    """
    held: list[PackedBits] = []
    seed: asyncio.Task[bytes] | None = None
    try:
        if len(block) != plan.m:
            raise PlanMismatch(f"the plan is for {plan.m} sifted bits, the block has {len(block)}", field="m")
        if session.role == "alice":
            await propose(plan, session, block.number)
        else:
            plan = await accept(plan, config, session, block.number)
            if not plan.refusal:
                seed = draw_seed(plan.n)
        opened = await estimate(block, plan, session)
        held.append(opened.key)
        if plan.refusal:
            raise NO_KEY[plan.refusal](
                f"{plan.m} sifted bits at a tolerated error of {plan.tolerated_error:.4f} make no key",
                sifted=plan.m,
                tolerated_error=plan.tolerated_error,
                test_errors=opened.errors,
                test_size=plan.k,
            )
        corrected = await reconcile(opened.key, opened.errors, plan, session, block.number)
        held.append(corrected.key)
        await verify(corrected.key, session, block.number)
        key = await amplify(corrected.key, plan.length, session, block.number, seed)
    finally:
        if seed is not None:
            seed.cancel()
        block.wipe()
        for bits in set(held):  # the corrected key may be the same object
            bits.wipe()
    leak = corrected.leak + VERDICT_BITS
    limit = shannon_limit(corrected)
    return DistilledBlock(
        number=block.number,
        key=key,
        length=plan.length,
        proof=plan.proof,
        sifted=plan.m,
        tolerated_error=plan.tolerated_error,
        test_errors=opened.errors,
        test_size=plan.k,
        actual_errors=corrected.errors,
        key_size=plan.n,
        leak=leak,
        leak_budget=plan.leak_budget,
        rounds=corrected.rounds,
        f_parities=corrected.parities / limit,
        f_sec=leak / limit,
        eps=plan.eps,
        eps_sec=plan.eps_sec,
        eps_cor=plan.eps_cor,
        acquisition_s=block.acquisition_s,
        method=plan.method,
        reason=plan.reason,
    )


def shannon_limit(corrected: Reconciled) -> float:
    """`n h(actual error)`, the least that any error correction discloses; at least as for one error, so that it is never 0."""
    n = len(corrected.key)
    return n * h2_bound(max(corrected.errors, 1) / (n + 1))
