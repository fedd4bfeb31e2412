"""Both nodes follow one plan: alice names hers, bob computes his from the same three numbers and compares every field.

The tolerated error is alice's to name, at most qber_max and before any bit is opened: the two nodes' memories of earlier blocks
can differ by one block when a session broke between two seals, and that must not stop the link.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from qkdd.distill.config import DistillConfig, Method
from qkdd.distill.errors import BlockUnpaid, NoLength, PlanMismatch
from qkdd.distill.messages import Plan
from qkdd.distill.plan import BlockPlan, methods, plan_block, sacrifice_plan
from qkdd.distill.wire import receive
from qkdd.peer import PeerSession

REASON_LENGTH = 160  # characters of alice's text that bob shows
NO_KEY = {kind.code: kind for kind in (NoLength, BlockUnpaid)}  # why a plan may have length 0


def _fields(plan: BlockPlan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in BlockPlan.__dataclass_fields__}


async def propose(plan: BlockPlan, session: PeerSession, block: int) -> None:
    """Alice's side."""
    await session.send(Plan(block, **_fields(plan)))


async def accept(own: BlockPlan, config: DistillConfig, session: PeerSession, block: int) -> BlockPlan:
    """Bob's side: the plan to follow, which is his own unless alice tolerates another error rate.

    Raises PlanMismatch if any field differs from what this node computes, or the tolerated error exceeds qber_max.
    """
    message = await receive(session, Plan, block)
    if not 0.0 <= message.tolerated_error <= config.qber_max:
        raise PlanMismatch(f"a tolerated error of {message.tolerated_error} is above qber_max", field="tolerated_error")
    if message.refusal in NO_KEY:  # to make no key is always safe to follow
        own = sacrifice_plan(own.m, message.tolerated_error, config, message.refusal)
    elif (message.tolerated_error, message.method) != (own.tolerated_error, own.method) or own.refusal:
        own = plan_block(own.m, message.tolerated_error, config, _method(message.method, config))
    theirs = msgspec.structs.asdict(message)
    for name, value in _fields(own).items():
        if name != "reason" and theirs[name] != value:
            raise PlanMismatch(f"{name}: here {value}, there {theirs[name]}", field=name)
    return replace(own, reason=message.reason[:REASON_LENGTH])


def _method(name: str, config: DistillConfig) -> Method:
    for method in methods(config):
        if method == name:
            return method
    raise PlanMismatch(f"alice names the method {name!r}, the configuration has {config.reconciler!r}", field="method")
