"""One block of pulses in, secret bits or a reason out, under a decoy-state proof.

plan → open the whole test basis ═ seal sift → correct the key basis, verify ═ seal reconcile → (one-decoy modes: its errors per
intensity, on verified key) → length → amplify ═ seal amplify.

Both nodes compute everything; whatever differs refuses the block. No bit of the key basis is ever opened.

Leak. Fixed length: the budget that the plan fixed. Other modes: the bits that were sent, both directions. A transcript of
error correction is a prefix code, for each range follows from the bits before it; with Kraft's inequality the leftover hash bound
summed over all transcripts is that of a single one (decision 0098).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qkdd import kernels
from qkdd.core.secret import Secret
from qkdd.distill.amplify import amplify
from qkdd.distill.blocks import KEY_BASIS, TEST_BASIS, DecoyBlock, DistilledBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.decoy_counts import DecoyStatistics, per_intensity
from qkdd.distill.decoy_messages import DecoyOutcome, DecoyPlan, DecoyTest, KeyErrors, KeySubset
from qkdd.distill.decoy_plan import FixedPlan, agree, count_block, decoy_settings, make_plan, other_leak
from qkdd.distill.errors import (
    AcceptanceMissed,
    BlockMalformed,
    BlockRefused,
    BlockUnpaid,
    LeakExceeded,
    NoLength,
    PlanMismatch,
    QberExceeded,
)
from qkdd.distill.estimate import random_subset
from qkdd.distill.packed import PackedBits
from qkdd.distill.pipeline import shannon_limit
from qkdd.distill.plan import VERDICT_BITS, BlockPlan, correction_plan
from qkdd.distill.reconcile import Reconciled, reconcile
from qkdd.distill.tracker import tolerate, with_allowance
from qkdd.distill.verify import verify
from qkdd.distill.wire import Bits, bits_from, receive
from qkdd.peer import PeerSession
from qkdd.security.accounting import TAG_BITS, compose
from qkdd.security.decoy import check_counts
from qkdd.security.errors import InconsistentCounts
from qkdd.security.proofs import DecoyLength, decoy_length

Observer = Callable[[DecoyStatistics], None]


async def distil_decoy(
    block: DecoyBlock,
    memory: tuple[int, int],
    session: PeerSession,
    config: DistillConfig,
    observe: Observer | None = None,
) -> DistilledBlock:
    """Make a block's secret key with the other node. memory: errors and size of earlier corrected keys, (0, 0) if there are none.

    observe: told what was counted, also of a block that is refused afterwards. Raises a BlockRefused subclass, ProofInputError
    and its subclasses (contradictory counts, intensities out of place), and what the session raises. The block's bits are
    zeroed in any case.
    """
    work = _Work(block, memory, session, config, observe)
    try:
        return await work.run()
    finally:
        work.wipe()


class _Work:
    """One block on its way. Bits that it holds are zeroed by `wipe`."""

    def __init__(
        self,
        block: DecoyBlock,
        memory: tuple[int, int],
        session: PeerSession,
        config: DistillConfig,
        observe: Observer | None,
    ) -> None:
        self._block, self._memory, self._session, self._config = block, memory, session, config
        self._settings = decoy_settings(config)
        self._observe = observe
        self._held: list[Bits] = []
        self._packed: list[PackedBits] = []

    def wipe(self) -> None:
        self._block.wipe()
        for bits in self._held:
            bits.fill(0)
        for packed in self._packed:
            packed.wipe()

    async def run(self) -> DistilledBlock:
        block, session, config = self._block, self._session, self._config
        statistics = count_block(block, self._settings)
        own, fixed = make_plan(block, statistics, self._memory, config)
        plan = await agree(own, config, session)
        statistics, key, intensities = await self._open(statistics, fixed)
        if self._observe is not None:
            self._observe(statistics)
        self._require(self._length(statistics, 0, fixed), statistics)  # can error correction save it at all?
        correction, errors = self._correction(plan, fixed, statistics)
        corrected = await self._correct(key, correction, errors, statistics)
        leak = corrected.leak + VERDICT_BITS
        statistics = await self._key_errors(statistics, key, intensities, corrected)
        found = self._length(statistics, leak + other_leak(key.size, config), fixed)
        secret = await self._outcome(corrected.key, statistics, leak, found)
        limit = shannon_limit(corrected)
        return DistilledBlock(
            number=block.number,
            key=secret,
            length=found.l_bits,
            proof=found.mode,
            sifted=key.size + sum(statistics.n_test),
            tolerated_error=correction.tolerated_error,
            test_errors=sum(statistics.m_test or ()),
            test_size=sum(statistics.n_test),
            actual_errors=corrected.errors,
            key_size=key.size,
            leak=leak,
            leak_budget=correction.leak_budget,
            rounds=corrected.rounds,
            f_parities=corrected.parities / limit,
            f_sec=leak / limit,
            eps=compose(config.eps_sec, config.eps_cor, config.eps_auth),
            eps_sec=config.eps_sec,
            eps_cor=config.eps_cor,
            acquisition_s=block.acquisition_s,
            method=correction.method,
            reason=correction.reason,
            label=found.label,
            phase_error=found.phi,
            decoy=statistics,
        )

    async def _open(self, statistics: DecoyStatistics, fixed: FixedPlan | None) -> tuple[DecoyStatistics, Bits, Bits]:
        """Counts with the test basis's errors; this node's key bits and their intensities."""
        block, session = self._block, self._session
        in_key, in_test = block.bases == KEY_BASIS, block.bases == TEST_BASIS
        key, intensities = block.bits[in_key], block.intensities[in_key]
        self._held.append(key)
        kept = await self._kept(key.size, fixed)
        mine = block.bits[in_test]
        await session.send(DecoyTest(block.number, kernels.pack_bits(mine)))
        theirs = bits_from((await receive(session, DecoyTest, block.number)).bits, mine.size, "test bits")
        m_test = per_intensity(block.intensities[in_test], mine != theirs, self._settings.intensities)
        await session.seal("sift", block.number)
        statistics = statistics.with_tests(m_test)
        if kept is not None:
            key, intensities = key[kept], intensities[kept]
            self._held.append(key)
            everywhere = np.ones(key.size, np.bool_)
            statistics = statistics.with_key(per_intensity(intensities, everywhere, self._settings.intensities))
        return statistics, key, intensities

    async def _kept(self, size: int, fixed: FixedPlan | None) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
        """Fixed length: which detections make key, drawn by alice; None where all do. Raises AcceptanceMissed."""
        if fixed is None:
            return None
        wanted = fixed.acceptance.n_key
        if size < wanted:
            raise AcceptanceMissed(
                f"{size} detections of the key basis where the fixed-length block needs {wanted}", sifted=size
            )
        if self._session.role == "alice":
            subset = await kernels.run(random_subset, size, wanted)
            await self._session.send(KeySubset(self._block.number, kernels.pack_bits(subset)))
        else:
            message = await receive(self._session, KeySubset, self._block.number)
            subset = bits_from(message.subset, size, "key subset")
            if np.count_nonzero(subset) != wanted:
                raise BlockMalformed(f"the key subset has {np.count_nonzero(subset)} positions instead of {wanted}")
        return subset.astype(np.bool_)

    def _correction(
        self, plan: DecoyPlan, fixed: FixedPlan | None, statistics: DecoyStatistics
    ) -> tuple[BlockPlan, int]:
        """How far error correction may go: the fixed budget, or one that rests on earlier blocks or on the test basis.
        With it the errors of the sample that error correction is set up for."""
        config, n = self._config, sum(statistics.n_key)
        errors, size = sum(statistics.m_test or ()), sum(statistics.n_test)
        if fixed is not None:
            return correction_plan(n, (errors, size), fixed.tolerated_error, config, self._settings.proof), errors
        if plan.sample_size:
            errors, size = plan.sample_errors, plan.sample_size
            tolerated = tolerate(errors / size, config)
        else:
            if errors > config.qber_max * size:
                raise QberExceeded(
                    f"{errors} errors in {size} bits of the test basis ({errors / size:.2%}); qber_max is "
                    f"{float(config.qber_max):.2%}",
                    test_errors=errors,
                    test_size=size,
                    tolerated_error=float(config.qber_max),
                )
            tolerated = tolerate(with_allowance(errors, size), config)
        return correction_plan(n, (errors, size), tolerated, config, self._settings.proof), errors

    async def _correct(self, key: Bits, plan: BlockPlan, errors: int, statistics: DecoyStatistics) -> Reconciled:
        """The corrected, verified key."""
        number = self._block.number
        packed = PackedBits.of(key)
        self._packed.append(packed)
        try:
            corrected = await reconcile(packed, errors, plan, self._session, number)
        except LeakExceeded as error:  # show this block's errors, not those of the sample
            error.details["test_errors"] = sum(statistics.m_test or ())
            error.details["test_size"] = sum(statistics.n_test)
            raise
        self._packed.append(corrected.key)
        await verify(corrected.key, self._session, number)
        return corrected

    async def _key_errors(
        self, statistics: DecoyStatistics, before: Bits, intensities: Bits, corrected: Reconciled
    ) -> DecoyStatistics:
        """Errors of the key basis per intensity, where the proof needs them: bob knows which bits he corrected (E9)."""
        if self._settings.intensities != 2:
            return statistics
        if self._session.role == "bob":
            after = corrected.key.unpacked()
            self._held.append(after)
            errors = per_intensity(intensities, before != after, 2)
            await self._session.send(KeyErrors(self._block.number, errors))
        else:
            errors = (await receive(self._session, KeyErrors, self._block.number)).errors
            check_counts("key", statistics.n_key, errors, 2)
            if sum(errors) != corrected.errors:
                raise InconsistentCounts(
                    f"{sum(errors)} errors of the key basis are named, {corrected.errors} were corrected", name="m_key"
                )
        statistics = statistics.with_key_errors(errors)
        if self._observe is not None:
            self._observe(statistics)
        return statistics

    def _length(self, statistics: DecoyStatistics, leak: int, fixed: FixedPlan | None) -> DecoyLength:
        config, settings = self._config, self._settings
        return decoy_length(
            settings.proof,
            settings.mu,
            settings.probabilities,
            statistics.block_counts(),
            float(leak),
            config.eps_sec,
            config.eps_cor,
            receiver=settings.receiver(),
            plan=fixed.acceptance if fixed else None,
            pulses=float(statistics.pulses),
            intervals=settings.mu_intervals,
        )

    def _require(self, found: DecoyLength, statistics: DecoyStatistics) -> None:
        """Refuse a block without a length, or with one that does not pay for its own tags."""
        errors, size = sum(statistics.m_test or ()), sum(statistics.n_test)
        auth_bits = self._config.tags_per_block * TAG_BITS
        refusal: BlockRefused
        if found.accepted is False:
            refusal = AcceptanceMissed(
                f"{found.mode}: {found.reason}; {found.s_key_1:.0f} single-photon detections, phase error {found.phi:.4f}"
            )
        elif found.l_bits == 0:
            refusal = NoLength(f"{found.mode}: {found.reason}")
        elif found.l_bits <= auth_bits:
            refusal = BlockUnpaid(
                f"{found.l_bits} secret bits do not pay for {self._config.tags_per_block} tags of {TAG_BITS} bits"
            )
        else:
            return
        refusal.details.update(
            test_errors=errors,
            test_size=size,
            phase_error=found.phi,
            s_key_1=found.s_key_1,
            s_test_1=found.s_test_1,
            length=found.l_bits,
        )
        raise refusal

    async def _outcome(self, key: PackedBits, statistics: DecoyStatistics, leak: int, found: DecoyLength) -> Secret:
        """Both nodes have the same counts, leak and length, and make the key of it."""
        number, m_test, m_key = self._block.number, statistics.m_test or (), statistics.m_key or ()
        own = DecoyOutcome(number, m_test, m_key, leak, found.l_bits, found.reason)
        if self._session.role == "alice":
            await self._session.send(own)
        else:
            theirs = await receive(self._session, DecoyOutcome, number)
            for field in ("m_test", "m_key", "leak", "length", "reason"):
                here, there = getattr(own, field), getattr(theirs, field)
                if here != there:
                    raise PlanMismatch(f"{field}: here {here}, there {there}", field=field)
        self._require(found, statistics)
        return await amplify(key, found.l_bits, self._session, number)
