"""LDPC or Cascade for the next block: whichever leaves more secret bits a second, and why in words.

Only alice chooses (`reconciler = "auto"`); bob follows what the configuration allows. A method's length follows from its leak
budget, which is what the proofs subtract. Its time counts only when it is longer than the acquisition of a block: then the
rate is length over time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from qkdd.distill.config import DistillConfig, Method
from qkdd.distill.plan import BlockPlan, methods, plans_of

# Key bits a second that one idle core corrects, below what it reaches near the design points, and messages of a block one
# after the other. The figures of a machine differ by a small factor; the choice only turns when time runs out.
BITS_PER_SECOND: dict[Method, float] = {"ldpc": 65e6, "cascade": 150e6}
ROUND_TRIPS: dict[Method, int] = {"ldpc": 2, "cascade": 170}  # both nodes speak at once: half a trip a round


@dataclass(frozen=True, slots=True)
class Conditions:
    """round_trip_s: of the classical channel. load: runnable processes a core. acquisition_s: time that the block took."""

    round_trip_s: float = 0.0
    load: float = 0.0
    acquisition_s: float = 0.0


def machine_load() -> float:
    """Mean number of runnable processes of the last minute over the number of cores."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def seconds(plan: BlockPlan, conditions: Conditions) -> float:
    """Time that error correction of a block takes by this plan."""
    slowdown = max(1.0, 1.0 + conditions.load)
    trips = ROUND_TRIPS[plan.method] * conditions.round_trip_s
    return plan.n / BITS_PER_SECOND[plan.method] * slowdown + trips


def choose(m: int, tolerated_error: float, config: DistillConfig, conditions: Conditions) -> BlockPlan:
    """The plan of the better method, with its reason. Raises as `plan_block` if no allowed method makes a key."""
    plans, refusals = plans_of(m, tolerated_error, config)
    if not plans:
        raise refusals[-1]
    if len(methods(config)) == 1:
        return replace(plans[0], reason="configured")
    if len(plans) == 1:
        return replace(plans[0], reason="the only method that makes a key here")

    def rate(plan: BlockPlan) -> float:
        return plan.length / max(seconds(plan, conditions), conditions.acquisition_s, 1e-3)

    better, other = sorted(plans, key=rate, reverse=True)
    if better.length >= other.length:
        return replace(better, reason=f"{better.length} secret bits, {other.method} {other.length}")
    spent = seconds(other, conditions)
    return replace(
        better, reason=f"{rate(better):.0f} secret bits a second, {other.method} {rate(other):.0f} in {spent:.1f} s"
    )
