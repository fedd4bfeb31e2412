"""Distillation of one link's blocks in their order: the tracker of the tolerated error, the plan and the pipeline together."""

from __future__ import annotations

from qkdd.distill.blocks import DistilledBlock, SiftedBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.errors import LeakExceeded, QberExceeded
from qkdd.distill.pipeline import distil
from qkdd.distill.plan import BlockPlan, plan_block
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
        """The plan that the next block of m sifted bits will follow. Raises as `plan_block` and `ErrorTracker.tolerated`."""
        return plan_block(m, self._tracker.tolerated(), self._config)

    async def distil(self, block: SiftedBlock, session: PeerSession) -> DistilledBlock:
        """Plan and distil a block, and learn from its error rate. Raises as `plan` and `qkdd.distill.distil`."""
        try:
            plan = self.plan(len(block))
            distilled = await distil(block, plan, session, self._config)
        except (QberExceeded, LeakExceeded) as error:
            self._tracker.refused(error)
            raise
        finally:
            block.wipe()
        self._tracker.accepted(distilled)
        return distilled
