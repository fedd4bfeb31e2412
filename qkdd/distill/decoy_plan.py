"""What both nodes agree on for a block of pulses before a bit of it is opened: counts, epsilons, thresholds, what the leak
budget rests on.

A variable-length block needs no more: its length follows from the counts. A fixed-length block takes size, thresholds, leak and
length from the shared configuration alone, so that nothing of the block itself can move them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qkdd.distill.blocks import KEY_BASIS, TEST_BASIS, DecoyBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.decoy_config import FIXED_LENGTH, DecoySettings
from qkdd.distill.decoy_counts import DecoyStatistics, per_intensity
from qkdd.distill.decoy_messages import DecoyPlan
from qkdd.distill.errors import NoLength, PlanMismatch
from qkdd.distill.plan import least_leak
from qkdd.distill.tracker import tolerate
from qkdd.distill.wire import receive
from qkdd.peer import PeerSession
from qkdd.security.accounting import TAG_BITS, authentication_epsilon
from qkdd.security.channel import BlockCounts
from qkdd.security.decoy import check_pulses, check_within
from qkdd.security.errors import InconsistentCounts, ProofInputError
from qkdd.security.one_decoy import AcceptancePlan
from qkdd.security.proofs import plan_fixed_length

_DEVIATIONS = 5.0  # by which the detections of a fixed-length block stay below the expected number


@dataclass(frozen=True, slots=True)
class FixedPlan:
    """A fixed-length block. tolerated_error: of error correction, whose leak budget follows from it and is, with what else is
    disclosed (`other_leak`), leak_max among the thresholds in `acceptance`."""

    acceptance: AcceptancePlan
    tolerated_error: float


def decoy_settings(config: DistillConfig) -> DecoySettings:
    """The decoy section of a link that has one."""
    if config.decoy is None:
        raise ProofInputError("a block of pulses on a link without [link.shared.decoy]", name="decoy")
    return config.decoy


def count_block(block: DecoyBlock, settings: DecoySettings) -> DecoyStatistics:
    """Detections of a sifted block. Raises InconsistentCounts if it cannot be a block of these settings."""
    if block.pulses != settings.block_pulses:
        raise InconsistentCounts(
            f"a block of {block.pulses} pulses where {settings.block_pulses} are agreed", name="pulses"
        )
    kinds = settings.intensities
    n_key = per_intensity(block.intensities, block.bases == KEY_BASIS, kinds)
    n_test = per_intensity(block.intensities, block.bases == TEST_BASIS, kinds)
    check_pulses(block.pulses, n_key, n_test)
    return DecoyStatistics(block.pulses, settings.mu, settings.probabilities, float(settings.x_basis), n_key, n_test)


def other_leak(n_key: int, config: DistillConfig) -> int:
    """Key-dependent bits besides error correction: of the verification tag what the proofs' `log2(2/eps_cor)` does not cover,
    and in one-decoy modes the errors per intensity.

    Raises ProofInputError if the tag cannot meet eps_cor for a key of this size.
    """
    if authentication_epsilon(n_key, TAG_BITS) > config.eps_cor:
        raise ProofInputError(f"a tag of {TAG_BITS} bits cannot meet eps_cor = {config.eps_cor}", name="eps_cor")
    covered = math.floor(1.0 - math.log2(config.eps_cor))
    settings = decoy_settings(config)
    counts = settings.intensities * n_key.bit_length() if settings.intensities == 2 else 0
    return max(0, TAG_BITS - covered) + counts


def plan_fixed(config: DistillConfig) -> FixedPlan:
    """Size, thresholds, leak and length of every fixed-length block of this configuration.

    Raises NoLength if the expected channel gives no key, ProofInputError.
    """
    settings = decoy_settings(config)
    if settings.expected is None:
        raise ProofInputError(f"{settings.proof} needs the expected channel", name="expected")
    mean = settings.expect(settings.expected.channel(), float(settings.expected.receiver_x_basis))
    total = math.fsum(mean.n_key)
    n_key = math.floor(total * (1.0 - float(settings.accept_margin)) - _DEVIATIONS * math.sqrt(total))
    if n_key < 1:
        raise NoLength(f"{total:.0f} expected detections of the key basis are too few", sifted=0)
    tolerated = tolerate(math.fsum(mean.m_key) / total, config)
    _, budget = least_leak(n_key, tolerated, config)
    share = (n_key + 0.5) / total  # half a detection more, so that rounding cannot take one away
    kept = BlockCounts(
        tuple(n * share for n in mean.n_key), tuple(m * share for m in mean.m_key), mean.n_test, mean.m_test
    )
    acceptance = plan_fixed_length(
        settings.mu,
        settings.probabilities,
        kept,
        float(budget + other_leak(n_key, config)),
        config.eps_sec,
        config.eps_cor,
        float(settings.accept_margin),
    )
    if acceptance.l_bits <= 0:
        raise NoLength(
            f"{settings.block_pulses} pulses on the expected channel give no secret bit at fixed length",
            sifted=n_key,
            tolerated_error=tolerated,
        )
    return FixedPlan(acceptance, tolerated)


def make_plan(
    block: DecoyBlock, statistics: DecoyStatistics, memory: tuple[int, int], config: DistillConfig
) -> tuple[DecoyPlan, FixedPlan | None]:
    """This node's plan of a block. Raises NoLength, ProofInputError."""
    settings = decoy_settings(config)
    fixed = plan_fixed(config) if settings.proof == FIXED_LENGTH else None
    taken = fixed.acceptance if fixed else AcceptancePlan(0, 0.0, 0.0, 0.0, 0)
    plan = DecoyPlan(
        block=block.number,
        proof=settings.proof,
        pulses=statistics.pulses,
        n_key=statistics.n_key,
        n_test=statistics.n_test,
        measured=block.measured or (),
        sample_errors=memory[0],
        sample_size=memory[1],
        eps_sec=config.eps_sec,
        eps_cor=config.eps_cor,
        eps_auth=config.eps_auth,
        fixed_n_key=taken.n_key,
        s_key_1_min=taken.s_key_1_min,
        phi_max=taken.phi_max,
        leak_max=taken.leak_max,
        fixed_length=taken.l_bits,
    )
    return plan, fixed


async def agree(own: DecoyPlan, config: DistillConfig, session: PeerSession) -> DecoyPlan:
    """Alice names her plan; bob compares it with his own, whose error sample and measured intensities are hers to name.

    Raises PlanMismatch, IntensityRefused if a measured intensity left its interval, InconsistentCounts.
    """
    plan = own
    if session.role == "alice":
        await session.send(own)
    else:
        plan = await receive(session, DecoyPlan, own.block)
        for field in own.__struct_fields__:
            here, there = getattr(own, field), getattr(plan, field)
            if field not in {"sample_errors", "sample_size", "measured"} and here != there:
                raise PlanMismatch(f"{field}: here {here}, there {there}", field=field)
    if not 0 <= plan.sample_errors <= plan.sample_size:
        raise InconsistentCounts(f"{plan.sample_errors} errors in {plan.sample_size} bits", name="sample_errors")
    if plan.sample_errors > float(config.qber_max) * plan.sample_size:
        raise PlanMismatch("the error sample is above qber_max", field="sample_errors")
    if plan.measured:
        check_within(plan.measured, decoy_settings(config).mu_intervals)
    return plan
