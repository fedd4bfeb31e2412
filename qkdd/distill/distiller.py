"""Distillation of one link's blocks in their order: the tracker of the tolerated error, the plan and the pipeline together."""

from __future__ import annotations

from qkdd.distill.blocks import DecoyBlock, DistilledBlock, SiftedBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.decoy import Observer, distil_decoy
from qkdd.distill.errors import BlockUnpaid, LeakExceeded, NoLength, QberExceeded, VerifyFailed
from qkdd.distill.pipeline import distil
from qkdd.distill.plan import BlockPlan, sacrifice_plan
from qkdd.distill.policy import Conditions, choose, machine_load
from qkdd.distill.tracker import ErrorTracker
from qkdd.peer import PeerSession


class Distiller:
    """What the link calls for each sifted block. observe: told the counts of each block of pulses, refused ones included."""

    def __init__(self, config: DistillConfig, observe: Observer | None = None) -> None:
        self._config = config
        self._observe = observe
        self._tracker = ErrorTracker(config)

    def seed(self, errors: int, count: int) -> None:
        """The error count of sacrificed bits; restarts the estimate of the error rate."""
        self._tracker.seed(errors, count)

    def plan(self, m: int, conditions: Conditions | None = None) -> BlockPlan:
        """The plan that the next block of m sifted bits will follow under these conditions; without a length it only measures
        the error rate.

        Raises BlockTooShort and ProofInputError as `plan_block` and `ErrorTracker.tolerated`.
        """
        tolerated = self._tracker.tolerated()
        try:
            return choose(m, tolerated, self._config, conditions or Conditions())
        except (NoLength, BlockUnpaid) as refusal:
            return sacrifice_plan(m, tolerated, self._config, refusal.code)

    async def distil(self, block: SiftedBlock | DecoyBlock, session: PeerSession) -> DistilledBlock:
        """Plan and distil a block, and learn from its error rate. Raises as `plan` and `qkdd.distill.distil`, or for a block of
        pulses as `qkdd.distill.decoy.distil_decoy`."""
        if isinstance(block, DecoyBlock):
            return await self._distil_decoy(block, session)
        try:
            plan = self.plan(len(block), Conditions(session.rtt, machine_load(), block.acquisition_s))
            distilled = await distil(block, plan, session, self._config)
        except (QberExceeded, LeakExceeded, NoLength, BlockUnpaid) as error:
            if error.details.get("test_size"):
                self._tracker.refused(error)
            raise
        finally:
            block.wipe()
        self._tracker.accepted(distilled)
        return distilled

    async def _distil_decoy(self, block: DecoyBlock, session: PeerSession) -> DistilledBlock:
        try:
            distilled = await distil_decoy(block, self._tracker.memory(), session, self._config, self._observe)
        except (LeakExceeded, VerifyFailed):  # the next block starts from the errors of its own test basis
            self._tracker.forget()
            raise
        self._tracker.corrected(distilled)
        return distilled
