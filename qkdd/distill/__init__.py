"""Distill: from sifted bits to secret bits, with the other node, under a plan that was fixed before."""

from qkdd.distill.blocks import DecoyBlock, DistilledBlock, SiftedBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.decoy_config import DecoyChannel, DecoySettings
from qkdd.distill.distiller import Distiller
from qkdd.distill.errors import (
    BlockMalformed,
    BlockRefused,
    BlockTooShort,
    BlockUnpaid,
    LeakExceeded,
    NoLength,
    PlanMismatch,
    QberExceeded,
    VerifyFailed,
)
from qkdd.distill.pipeline import distil
from qkdd.distill.plan import BlockPlan, leak_budget, plan_block
from qkdd.distill.tracker import ErrorTracker

__all__ = [
    "BlockMalformed",
    "BlockPlan",
    "BlockRefused",
    "BlockTooShort",
    "BlockUnpaid",
    "DecoyBlock",
    "DecoyChannel",
    "DecoySettings",
    "DistillConfig",
    "DistilledBlock",
    "Distiller",
    "ErrorTracker",
    "LeakExceeded",
    "NoLength",
    "PlanMismatch",
    "QberExceeded",
    "SiftedBlock",
    "VerifyFailed",
    "distil",
    "leak_budget",
    "plan_block",
]
