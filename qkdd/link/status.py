"""What the link shows: frozen snapshots, and a stream of events for those who watch."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum
from typing import Any

import msgspec

from qkdd.core.clock import Clock


class LinkState(StrEnum):
    """Where a link is on its way to key."""

    IDLE = "idle"  # not started, or stopped
    ALIGNING = "aligning"  # looking for the other node's clock
    OPEN = "aligning (open)"  # an operator holds the link open: clicks are exchanged in clear, no key is made
    RUNNING = "running"  # aligned, makes blocks
    LOST = "lost"  # the coincidence peak is gone; blocks are refused until the next alignment
    DRAINING = "draining"  # finishes the block in hand and stops


class BlockRecord(msgspec.Struct, frozen=True):
    """One block as an operator sees it; no key material. Unknown numbers are None.

    code: None when accepted, else the stable code of the refusal. acquisition_s, processing_s: durations in seconds.
    leak: key-dependent bits disclosed in both directions; f_sec: leak over the Shannon limit. method: of error
    correction ("ldpc", "cascade"); reason: why alice chose it, or of a refused block what was wrong with it.
    """

    number: int
    wall: float
    accepted: bool
    code: str | None
    sifted: int
    qber: float | None
    tolerated: float | None
    length: int
    leak: int | None
    f_sec: float | None
    acquisition_s: float
    processing_s: float
    method: str | None = None
    reason: str | None = None


class OpenedStretch(msgspec.Struct, frozen=True):
    """A stretch of an open link; no key comes from it. Detectors in the order H V D A.

    singles: events by detector in `seconds`. matrix: rows alice's detector (on a pulsed link what she sent), columns bob's.
    histogram: alice's time minus bob's, counts a bin of bin_ps from low_ps on, delays taken off. problem: why there were no
    coincidences.
    """

    number: int
    seconds: float
    singles_alice: tuple[int, ...]
    singles_bob: tuple[int, ...]
    matrix: tuple[tuple[int, ...], ...] = ()
    qber: float | None = None
    visibility: tuple[float, float] | None = None
    pairs_per_s: float | None = None
    delays_alice_ps: tuple[float, ...] = ()
    delays_bob_ps: tuple[float, ...] = ()
    histogram: tuple[int, ...] = ()
    low_ps: float = 0.0
    bin_ps: float = 0.0
    problem: str | None = None


class LinkSnapshot(msgspec.Struct, frozen=True):
    """Everything that is known about the link at one moment.

    visibility: (Z, X), 1 - 2 QBER of the basis. chsh_s_inferred and its standard error: from the four correlators of
    two bases a side; it is no Bell test. offset_s: bob's clock minus alice's; drift: relative frequency difference.
    timing_leak_bits: what the announced time still tells about the bit, bits a sifted bit (estimate).
    coincidences: 4x4 counts of the last open stretch, rows alice's H V D A, columns bob's.
    delays_ps: what was equalised on this side, H V D A. multi_click_ratio: share of events with several detectors.
    blanked_ratio: share of clicks dropped because a detector of the side could have been dead.

    Pulsed links: gains: detections a pulse, by intensity. error_rates: by intensity, of the last opened stretch.
    detected_ratio: detections a pulse of the last block. gated_ratio: share of clicks outside the gate. slot_phase and
    slot_phase_worst: mean and largest error of the tracked clock in the last block, in slots; slot_contrast: of the clicks
    folded by the pulse period, 0 to 1. drift: relative error of the pulse rate on bob's clock. sifting_bits: bits on the wire
    a detection, both directions. coincidences: rows what alice sent. opened: the last stretch of an open link.
    """

    name: str
    role: str
    state: LinkState = LinkState.IDLE
    since_wall: float = 0.0
    reason: str | None = None
    qber: float | None = None
    visibility: tuple[float, float] | None = None
    chsh_s_inferred: float | None = None
    chsh_s_error: float | None = None
    offset_s: float | None = None
    drift: float | None = None
    sacrificed_bits: int = 0
    sacrificed_errors: int = 0
    coincidences: tuple[tuple[int, ...], ...] = ()
    delays_ps: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    timing_leak_bits: float | None = None
    clicks_per_s: float | None = None
    coincidences_per_s: float | None = None
    gains: tuple[float, ...] = ()
    error_rates: tuple[float, ...] = ()
    detected_ratio: float | None = None
    gated_ratio: float | None = None
    slot_phase: float | None = None
    slot_phase_worst: float | None = None
    slot_contrast: float | None = None
    sifting_bits: float | None = None
    multi_click_ratio: float = 0.0
    blanked_ratio: float = 0.0
    sifted_bits: int = 0
    secret_bits: int = 0
    sifted_bits_per_s: float = 0.0
    secret_bits_per_s: float = 0.0
    blocks_accepted: int = 0
    blocks_refused: dict[str, int] = {}
    lock_losses: int = 0
    last_blocks: tuple[BlockRecord, ...] = ()
    opened: OpenedStretch | None = None


class LinkEvent(msgspec.Struct, frozen=True):
    """One thing that happened: `state`, `aligned`, `block`."""

    wall: float
    kind: str
    fields: dict[str, Any]


_WATCHER_LIMIT = 256


class LinkStatus:
    """The link writes, the control room reads. Used from the event loop only."""

    def __init__(self, name: str, role: str, clock: Clock, keep_blocks: int = 50) -> None:
        self._clock = clock
        self._snapshot = LinkSnapshot(name=name, role=role, since_wall=clock.wall())
        self._blocks: deque[BlockRecord] = deque(maxlen=keep_blocks)
        self._watchers: set[asyncio.Queue[LinkEvent]] = set()
        self.last_number = 0  # of the last block, over all sessions: numbers go on where they ended

    @property
    def snapshot(self) -> LinkSnapshot:
        """The state now; it never changes afterwards."""
        return self._snapshot

    def watch(self) -> asyncio.Queue[LinkEvent]:
        """A queue that gets every event from now on. A watcher that does not read loses the oldest ones."""
        queue: asyncio.Queue[LinkEvent] = asyncio.Queue(_WATCHER_LIMIT)
        self._watchers.add(queue)
        return queue

    def unwatch(self, queue: asyncio.Queue[LinkEvent]) -> None:
        self._watchers.discard(queue)

    def update(self, **changes: Any) -> None:
        """Replace fields of the snapshot."""
        self._snapshot = msgspec.structs.replace(self._snapshot, **changes)

    def set_state(self, state: LinkState, reason: str | None = None) -> None:
        """Enter a state; an event goes out only when something changed."""
        if self._snapshot.state is state and self._snapshot.reason == reason:
            return
        self.update(state=state, reason=reason, since_wall=self._clock.wall())
        self.emit("state", state=state.value, reason=reason)

    def add_block(self, record: BlockRecord) -> None:
        """Account for a block that was accepted or refused."""
        self._blocks.append(record)
        self.last_number = max(self.last_number, record.number)
        old = self._snapshot
        refused = dict(old.blocks_refused)
        if record.code is not None:
            refused[record.code] = refused.get(record.code, 0) + 1
        self.update(
            last_blocks=tuple(self._blocks),
            blocks_accepted=old.blocks_accepted + record.accepted,
            blocks_refused=refused,
            sifted_bits=old.sifted_bits + record.sifted,
            secret_bits=old.secret_bits + record.length,
            sifted_bits_per_s=record.sifted / record.acquisition_s if record.acquisition_s else 0.0,
            secret_bits_per_s=record.length / record.acquisition_s if record.acquisition_s else 0.0,
            qber=record.qber if record.qber is not None else old.qber,
        )
        self.emit("block", **msgspec.structs.asdict(record))

    def emit(self, kind: str, **fields: Any) -> None:
        """Send an event to every watcher."""
        event = LinkEvent(self._clock.wall(), kind, fields)
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
