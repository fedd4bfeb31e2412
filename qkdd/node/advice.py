"""What would make more key on the link as it is: the channel from the last blocks, the optimiser, and the present settings
judged by the same model. Pure but for its time: up to some seconds, so callers run it in a thread.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import median

from qkdd.control.errors import NotNow
from qkdd.control.security_views import AdviceView, MeasuredView, OperatingView, RungView
from qkdd.distill.decoy_config import DecoySettings
from qkdd.distill.decoy_counts import DecoyStatistics
from qkdd.distill.errors import BlockRefused
from qkdd.distill.plan import plan_block
from qkdd.link.config import LinkConfig, LinkShared
from qkdd.link.status import BlockRecord, LinkSnapshot
from qkdd.node.decoy_monitor import DecoyMonitor, qber
from qkdd.node.security_report import mode_of
from qkdd.security.channel import Channel
from qkdd.security.decoy import leak_of
from qkdd.security.errors import ProofInputError
from qkdd.security.optimise import Operating, advise
from qkdd.security.proofs import decoy_length

RUNGS = 3
DEFAULT_F_EC = 1.2  # before the first accepted block; LDPC reaches it
LOSS_OF_A_SHORT_BLOCK = 0.95  # of the best rate: the block of that rate is recommended for entangled pairs
_PAIR_BLOCKS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def advice_view(
    config: LinkConfig, snapshot: LinkSnapshot, monitor: DecoyMonitor, longest_block_s: float | None
) -> AdviceView:
    """Advice for this link. Raises NotNow before the link has shown what it can do, ProofInputError."""
    if config.shared.decoy is None:
        return _pairs(config, snapshot, longest_block_s)
    total = monitor.total()
    if total is None:
        raise NotNow("no block of pulses has been counted yet", remedy="Wait for the link's first block.")
    return _decoy(config, config.shared.decoy, snapshot, monitor, total, longest_block_s)


def _seen_rate(blocks: Sequence[BlockRecord]) -> float | None:
    """Secret bits over acquisition time of the last blocks, refused ones included."""
    seconds = math.fsum(block.acquisition_s for block in blocks[-20:])
    return math.fsum(block.length for block in blocks[-20:]) / seconds if seconds else None


def _efficiency(blocks: Sequence[BlockRecord]) -> float:
    found = [block.f_sec for block in blocks[-20:] if block.accepted and block.f_sec is not None]
    return max(1.0, median(found)) if found else DEFAULT_F_EC


def _key_error_scale(blocks: Sequence[BlockRecord], total: DecoyStatistics) -> float:
    """Error rate of the corrected keys over that of the test basis; 1 before there are any."""
    accepted = [block for block in blocks[-20:] if block.accepted and block.qber is not None]
    tested = qber(total)
    if not accepted or not tested:
        return 1.0
    whole = math.fsum((b.qber or 0.0) * b.sifted for b in accepted) / math.fsum(b.sifted for b in accepted)
    share = sum(total.n_key) / (sum(total.n_key) + sum(total.n_test))
    key = (whole - (1.0 - share) * tested) / share
    return min(20.0, max(0.05, key / tested))


def _decoy(
    config: LinkConfig,
    settings: DecoySettings,
    snapshot: LinkSnapshot,
    monitor: DecoyMonitor,
    total: DecoyStatistics,
    longest_block_s: float | None,
) -> AdviceView:
    shared, mode = config.shared, mode_of(config.shared)
    f_ec = _efficiency(snapshot.last_blocks)
    link = dataclasses.replace(
        monitor.channel(total),
        clock_hz=float(settings.pulse_rate),
        f_ec=f_ec,
        key_error_scale=_key_error_scale(snapshot.last_blocks, total),
    )
    longest = longest_block_s or max(settings.block_s, 60.0)
    notes = []
    found = advise(
        mode.id,
        link,
        longest_block_s=longest,
        eps_sec=shared.eps_sec,
        eps_cor=shared.eps_cor,
        mu3=settings.mu[2] if len(settings.mu) == 3 else 2e-4,
        receiver=settings.receiver(),
        start=Operating(settings.mu, settings.probabilities, 1.0 - float(settings.x_basis)),
        rungs=RUNGS,
    )
    if found.rate_hz <= 0.0:
        notes.append(f"no settings make key on this channel with blocks of {longest:g} s")
    if mode.length == "fixed":
        notes.append("a fixed-length block keeps a margin below this rate (accept_margin)")
    notes.append("transmission includes what dead time takes; the intervals of mu have to be characterised anew")
    present = _present(settings, link, shared)
    recommended = OperatingView(
        mu=list(found.at.mu),
        p=list(found.at.p),
        x_basis=1.0 - found.at.p_key,
        block_pulses=found.block_pulses,
        block_s=found.block_s,
        secret_bits=found.length,
        secret_bits_per_s=found.rate_hz,
    )
    if present.secret_bits_per_s > recommended.secret_bits_per_s:  # the search ended in a worse place
        recommended = present
    measured = MeasuredView(
        blocks=monitor.count,
        transmission=link.eta,
        background_per_gate=2.0 * link.p_dc,
        optical_error=link.e_mis,
        gains=list(total.gains),
        errors=list(total.errors),
        receiver_x_basis=total.receiver_x_basis,
        correction_efficiency=f_ec,
        sifted_bits_per_s=snapshot.sifted_bits_per_s or None,
        qber=qber(total),
    )
    return AdviceView(
        link=config.name,
        proof=mode.id,
        label=mode.label,
        measured=measured,
        present=present,
        recommended=recommended,
        ladder=[RungView(block_s=seconds, secret_bits_per_s=rate) for seconds, rate in found.ladder],
        seen_bits_per_s=_seen_rate(snapshot.last_blocks),
        notes=notes,
    )


def _present(settings: DecoySettings, link: Channel, shared: LinkShared) -> OperatingView:
    """What the configured point is expected to give on this channel."""
    counts = settings.expect(link, 1.0 - (link.receiver_key or 0.5))
    leak = leak_of(math.fsum(counts.n_key), math.fsum(counts.m_key), link.f_ec)
    found = decoy_length(
        settings.proof,
        settings.mu,
        settings.probabilities,
        counts,
        leak,
        shared.eps_sec,
        shared.eps_cor,
        receiver=settings.receiver(),
        simulation=True,
    )
    bits = max(0, math.floor(found.l))
    return OperatingView(
        mu=list(settings.mu),
        p=list(settings.probabilities),
        x_basis=float(settings.x_basis),
        block_pulses=settings.block_pulses,
        block_s=settings.block_s,
        secret_bits=bits,
        secret_bits_per_s=bits / settings.block_s,
    )


def _pairs(config: LinkConfig, snapshot: LinkSnapshot, longest_block_s: float | None) -> AdviceView:
    """Entangled pairs: only the block's length is a choice."""
    shared, mode = config.shared, mode_of(config.shared)
    accepted = [block for block in snapshot.last_blocks if block.accepted and block.tolerated is not None]
    if not accepted:
        raise NotNow("no block was accepted yet, so the error rate is not known", remedy="Wait for the first key.")
    last = accepted[-1]
    tolerated = last.tolerated or 0.0
    sifted = math.fsum(b.sifted for b in accepted) / math.fsum(b.acquisition_s for b in accepted)
    present_s = float(shared.block)
    longest = min(600.0, longest_block_s or 16.0 * present_s)
    points = [
        (seconds, _pair_bits(seconds, sifted, tolerated, shared))
        for seconds in (present_s * factor for factor in _PAIR_BLOCKS)
        if 0.1 <= seconds <= longest or seconds == present_s
    ]
    best = max(bits / seconds for seconds, bits in points)
    chosen = next((s, b) for s, b in points if b / s >= LOSS_OF_A_SHORT_BLOCK * best)
    now = next(bits for seconds, bits in points if seconds == present_s)

    def view(seconds: float, bits: int) -> OperatingView:
        return OperatingView(
            mu=[],
            p=[],
            x_basis=None,
            block_pulses=None,
            block_s=seconds,
            secret_bits=bits,
            secret_bits_per_s=bits / seconds,
        )

    notes = [f"the shortest block within {1 - LOSS_OF_A_SHORT_BLOCK:.0%} of the best rate, its own tags paid"]
    if best <= 0.0:
        notes = ["no block length makes key at this error rate"]
    return AdviceView(
        link=config.name,
        proof=mode.id,
        label=mode.label,
        measured=MeasuredView(
            blocks=len(accepted),
            transmission=None,
            background_per_gate=None,
            optical_error=None,
            gains=[],
            errors=[],
            receiver_x_basis=None,
            correction_efficiency=_efficiency(snapshot.last_blocks),
            sifted_bits_per_s=sifted,
            qber=last.qber,
        ),
        present=view(present_s, now),
        recommended=view(*chosen),
        ladder=[RungView(block_s=seconds, secret_bits_per_s=bits / seconds) for seconds, bits in points],
        seen_bits_per_s=_seen_rate(snapshot.last_blocks),
        notes=notes,
    )


def _pair_bits(seconds: float, sifted: float, tolerated: float, shared: LinkShared) -> int:
    """Net secret bits of a block of this time; 0 where it makes no key."""
    try:
        return max(0, plan_block(math.floor(sifted * seconds), tolerated, shared).net_length)
    except (BlockRefused, ProofInputError):
        return 0
