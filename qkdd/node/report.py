"""What the control socket shows of the link and its keys: snapshots of the rooms, put into the views."""

from __future__ import annotations

from dataclasses import dataclass

from qkdd.control import views
from qkdd.control.overview import AlignView
from qkdd.core.clock import Clock
from qkdd.keys import BlockState, MaskPool, Spool
from qkdd.link.config import LinkConfig
from qkdd.link.status import BlockRecord, LinkSnapshot, OpenedStretch
from qkdd.node.devices import error_view
from qkdd.node.health import Health
from qkdd.node.security_report import mode_of
from qkdd.node.supervisor import ErrorTally, Part, State
from qkdd.peer import ALICE_TO_BOB, BOB_TO_ALICE, PeerSession
from qkdd.security.ledger import LedgerView


@dataclass(slots=True)
class Stock:
    """What the spool and the ledger said last; refreshed by the daemon, because asking them waits for the disk."""

    spool: dict[str, tuple[int, int]]  # state → (blocks, bytes)
    ledger: LedgerView | None = None

    async def refresh(self, spool: Spool) -> None:
        self.spool = await spool.totals()


def part_view(part: Part, health: Health, clock: Clock) -> views.PartView:
    now = clock.monotonic()
    return views.PartView(
        name=part.name,
        state=part.state.value,
        since_s=now - part.since,
        attempts=part.attempts,
        heartbeat_age_s=health.age(part.name),
        stalled=health.is_stalled(part.name),
        next_attempt_s=max(0.0, part.next_attempt - now) if part.next_attempt is not None else None,
        error=error_view(part.error) if part.error is not None and part.state is not State.UP else None,
    )


def link_view(config: LinkConfig, snapshot: LinkSnapshot, session: PeerSession | None, peer_id: str) -> views.LinkView:
    visibility = snapshot.visibility or (None, None)
    last = snapshot.last_blocks[-1] if snapshot.last_blocks else None
    mode = mode_of(config.shared)
    return views.LinkView(
        name=config.name,
        role=config.role,
        peer=peer_id,
        state=snapshot.state.value,
        protocol=config.shared.protocol,
        proof=mode.id,
        label=mode.label,
        authentication=session.mode if session is not None else "none",
        qber=snapshot.qber,
        tolerated_error=last.tolerated if last is not None else None,
        visibility_z=visibility[0],
        visibility_x=visibility[1],
        chsh_s_inferred=snapshot.chsh_s_inferred,
        chsh_s_error=snapshot.chsh_s_error,
        offset_s=snapshot.offset_s,
        drift=snapshot.drift,
        round_trip_s=session.rtt if session is not None else None,
        clicks_per_s=snapshot.clicks_per_s or None,
        coincidences_per_s=snapshot.coincidences_per_s or None,
        sifted_bits_per_s=snapshot.sifted_bits_per_s if last is not None else None,
        secret_bits_per_s=snapshot.secret_bits_per_s if last is not None else None,
        blocks_accepted=snapshot.blocks_accepted,
        blocks_refused=sum(snapshot.blocks_refused.values()),
        refusals=[views.RefusalView(code=c, count=n) for c, n in sorted(snapshot.blocks_refused.items())],
        pulses=pulses_view(snapshot) if config.shared.protocol == "decoy_bb84" else None,
    )


def align_view(stretch: OpenedStretch | None, *, is_open: bool, seconds_left: float | None) -> AlignView | None:
    """None when the link is not open and never was."""
    if stretch is None:
        if not is_open:
            return None
        stretch = OpenedStretch(0, 0.0, (), (), problem="waiting for the first stretch")
    seconds = stretch.seconds or 1.0
    visibility = stretch.visibility or (None, None)
    return AlignView(
        open=is_open,
        seconds_left=seconds_left,
        number=stretch.number,
        seconds=stretch.seconds,
        qber=stretch.qber,
        visibility_z=visibility[0],
        visibility_x=visibility[1],
        coincidences_per_s=stretch.pairs_per_s,
        matrix=[list(row) for row in stretch.matrix] or [[0] * 4 for _ in range(4)],
        singles_alice=[count / seconds for count in stretch.singles_alice],
        singles_bob=[count / seconds for count in stretch.singles_bob],
        delays_alice_ns=[delay / 1000 for delay in stretch.delays_alice_ps],
        delays_bob_ns=[delay / 1000 for delay in stretch.delays_bob_ps],
        histogram=list(stretch.histogram),
        histogram_low_ns=stretch.low_ps / 1000,
        histogram_bin_ns=stretch.bin_ps / 1000,
        problem=stretch.problem,
    )


def pulses_view(snapshot: LinkSnapshot) -> views.PulsesView:
    return views.PulsesView(
        gains=list(snapshot.gains),
        error_rates=list(snapshot.error_rates),
        detected_ratio=snapshot.detected_ratio,
        gated_ratio=snapshot.gated_ratio,
        slot_phase=snapshot.slot_phase,
        slot_phase_worst=snapshot.slot_phase_worst,
        slot_contrast=snapshot.slot_contrast,
        sifting_bits=snapshot.sifting_bits,
    )


def block_view(block: BlockRecord, label: str) -> views.BlockView:
    return views.BlockView(
        number=block.number,
        time=block.wall,
        accepted=block.accepted,
        code=block.code,
        acquisition_s=block.acquisition_s,
        sifted_bits=block.sifted,
        qber=block.qber,
        tolerated_error=block.tolerated,
        leak_bits=block.leak,
        secret_bits=block.length,
        method=block.method,
        reason=block.reason,
        f_sec=block.f_sec,
        label=label,
    )


def keys_view(stock: Stock, masks: MaskPool, session: PeerSession | None, *, kms_up: bool) -> views.KeysView:
    ledger = stock.ledger
    return views.KeysView(
        spool=[
            views.SpoolView(state=state.value, chunks=stock.spool[state][0], bits=(stock.spool[state][1] or 0) * 8)
            for state in BlockState
            if state in stock.spool
        ],
        handed_over=sum(stock.spool.get(state, (0, 0))[0] for state in (BlockState.ACKNOWLEDGED, BlockState.RELEASED)),
        kms_up=kms_up,
        masks_alice_to_bob=masks.available(ALICE_TO_BOB),
        masks_bob_to_alice=masks.available(BOB_TO_ALICE),
        epsilon_spent_ratio=ledger.fraction if ledger is not None else 0.0,
        epoch_days_left=ledger.days_left if ledger is not None else None,
        authentication=session.mode if session is not None else "none",
    )


def error_count(code: str, entry: ErrorTally) -> views.ErrorCount:
    return views.ErrorCount(
        code=code,
        count=entry.count,
        time=entry.time,
        part=entry.part,
        message=entry.error.message,
        remedy=entry.error.remedy,
    )
