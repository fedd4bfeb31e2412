"""Distillation of one link's blocks in their order: the tracker of the tolerated error, the plan and the pipeline together."""

from __future__ import annotations

from qkdd.distill.blocks import DistilledBlock, SiftedBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.errors import BlockUnpaid, LeakExceeded, NoLength, QberExceeded
from qkdd.distill.pipeline import distil
from qkdd.distill.plan import BlockPlan, plan_block, sacrifice_plan
from qkdd.distill.tracker import ErrorTracker
from qkdd.peer import PeerSession


class Distiller:
    """What the link calls for each sifted block."""

    def __init__(self, config: DistillConfig) -> None:
        self._config = config
        self._tracker = ErrorTracker(config)

    def seed(self, errors: int, count: int) -> None:
        """The error count of sacrificed bits; restarts the estimate of the error rate."""
        self._tracker.seed(errors, count)

    def plan(self, m: int) -> BlockPlan:
        """The plan that the next block of m sifted bits will follow; without a length it only measures the error rate.

        Raises BlockTooShort and ProofInputError as `plan_block` and `ErrorTracker.tolerated`.
        """
        tolerated = self._tracker.tolerated()
        try:
            return plan_block(m, tolerated, self._config)
        except (NoLength, BlockUnpaid) as refusal:
            return sacrifice_plan(m, tolerated, self._config, refusal.code)

    async def distil(self, block: SiftedBlock, session: PeerSession) -> DistilledBlock:
        """Plan and distil a block, and learn from its error rate. Raises as `plan` and `qkdd.distill.distil`."""
        try:
            plan = self.plan(len(block))
            distilled = await distil(block, plan, session, self._config)
        except (QberExceeded, LeakExceeded, NoLength, BlockUnpaid) as error:
            if error.details.get("test_size"):
                self._tracker.refused(error)
            raise
        finally:
            block.wipe()
        self._tracker.accepted(distilled)
        return distilled
