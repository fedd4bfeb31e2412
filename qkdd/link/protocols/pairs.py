"""The two ends of an entangled-pair link (`bbm92`): both have a time tagger, blocks are stretches of bob's clock."""

from __future__ import annotations

from typing import cast

from qkdd.device.roles import TimeTagger
from qkdd.distill.blocks import SiftedBlock
from qkdd.link.acquisition import Acquisition
from qkdd.link.aligning import AlignmentResult, align_alice, align_bob
from qkdd.link.clockmap import PS, ClockMap
from qkdd.link.coarse import COMMON_DEPTH, LEVELS
from qkdd.link.errors import ClockRejected
from qkdd.link.messages import Action, Turn, TurnAnswer
from qkdd.link.protocols.base import AliceEnd, BobEnd, Opened, Setup
from qkdd.link.protocols.bbm92 import Bbm92, SiftedRounds, SiftTask
from qkdd.link.receiver import Receiver

_MARGIN_PS = 2_000_000  # alice looks this far beyond the block that she maps to her clock


class Pairs:
    """The protocol of `bbm92`."""

    def alice(self, setup: Setup, device: object) -> AliceEnd:
        return PairAlice(setup, cast(TimeTagger, device))

    def bob(self, setup: Setup, device: object) -> BobEnd:
        return PairBob(setup, cast(TimeTagger, device))


class _PairEnd:
    """What both ends share."""

    def __init__(self, setup: Setup, tagger: TimeTagger) -> None:
        config, shared = setup.config, setup.config.shared
        self._config, self._shared, self._session = config, shared, setup.session
        self._clock, self._book = setup.clock, setup.book
        keep = (config.buffer_blocks + 1) * shared.block + 2 * (shared.offset_range + shared.open_stretch)
        self.source = Acquisition(
            tagger, config.channels, setup.clock, setup.meter, config.name, round(keep * PS), setup.heartbeat
        )
        self._receiver = Receiver(config, self.source, tagger.resolution_ps)
        self._sifter = Bbm92()
        self._map: ClockMap | None = None  # bob keeps it only to know that there is one
        self._pairs_per_s = 0.0
        self._next_start = 0  # bob's clock: where the next block may begin
        self._task: SiftTask | None = None  # of the block that was registered last
        self.registered_at = 0.0

    @property
    def locked(self) -> bool:
        return self._map is not None

    def lose_lock(self) -> None:
        self._map = None

    def begin(self) -> None:
        self._drop_task()
        self.registered_at = self._clock.monotonic()

    def _drop_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.events.wipe()

    def _aligned(self, turn: Turn, result: AlignmentResult) -> Opened:
        self._next_start = max(turn.stop, self._next_start)
        self._map, self._pairs_per_s = result.clock, result.pairs_per_s
        self._book.aligned(result, self._receiver.delays_ps)
        statistics = result.statistics
        return Opened(statistics.errors, statistics.bits, statistics.qber if statistics.qber is not None else 0.5)

    def _finish(self, task: SiftTask, rounds: SiftedRounds) -> SiftedBlock:
        seconds = float(self._shared.block)
        self._pairs_per_s = rounds.pairs / seconds
        self._map = rounds.clock or self._map
        self._book.sifted(len(rounds.bits), rounds.pairs, rounds.clock, seconds)
        return SiftedBlock(number=task.number, bits=rounds.bits, bases=rounds.bases, acquisition_s=seconds)

    async def sift(self, turn: Turn) -> SiftedBlock:
        task = self._task
        if task is None:
            raise ClockRejected(f"block {turn.number} was not registered")
        try:
            self._book.events(task.events, float(self._shared.block))
            sift = self._sifter.alice if self._config.role == "alice" else self._sifter.bob
            rounds = await sift(task, self._session)
        finally:
            self._drop_task()
            stop = task.stop_ps if task.clock is None else task.clock.moment_to_alice(task.stop_ps)
            self.source.release(stop - 2 * _MARGIN_PS)
        return self._finish(task, rounds)


class PairBob(_PairEnd):
    """Proposes stretches of his clock."""

    def _turn(self, action: Action, number: int, start: int, stop: int) -> Turn:
        position = self.source.position()
        return Turn(action, number, start, stop, position, self._receiver.resolution_ps, self._map is not None)

    def farewell(self, number: int) -> Turn:
        return self._turn("rest", number, 0, 0)

    def alignment(self, number: int) -> Turn:
        # a first search looks offset_range to both sides, so alice's stream must reach back that far
        earliest = 0 if self._map is not None else round(self._shared.offset_range * PS)
        start = max(self.source.position(), earliest)
        return self._turn("align", number, start, start + round(self._shared.open_stretch * PS))

    async def align(self, turn: Turn) -> Opened:
        return self._aligned(
            turn, await align_bob(turn, self._receiver, self._session, self._config, self._book.opened)
        )

    async def registered(self, number: int) -> Turn:
        length = self._shared.block_ps
        behind = (self.source.until - self._next_start) // length
        if behind > self._config.buffer_blocks:
            self._next_start += (behind - 1) * length  # what was in between is dropped by the acquisition, and counted
        start, stop = self._next_start, self._next_start + length
        await self._receiver.registered(stop)
        self._next_start = stop
        self.registered_at = self._clock.monotonic()
        events = await self._receiver.events(start, stop)
        self._task = SiftTask(number, start, stop, events, self._shared)
        return self._turn("block", number, start, stop)


class PairAlice(_PairEnd):
    """Finds bob's clock and maps his blocks to hers."""

    holds_open = False

    @property
    def patience(self) -> float:
        shared = self._shared
        return float(shared.block + shared.open_stretch + shared.offset_range) + 120.0

    async def align(self, turn: Turn, failures: int) -> Opened:
        arrived = self.source.position()
        known = self._map if turn.known else None
        centre = arrived - turn.position_ps - self._session.rtt / 2 * PS
        await self._session.send(TurnAnswer("open" if self.holds_open else "align", turn.number))
        depth = COMMON_DEPTH if failures % 3 < 2 else len(LEVELS)
        result = await align_alice(
            turn, centre, known, self._receiver, self._session, self._config, self._book.opened, depth
        )
        return self._aligned(turn, result)

    async def registered(self, turn: Turn) -> None:
        if turn.stop - turn.start != self._shared.block_ps:
            raise ClockRejected(
                f"block {turn.number} of the other node is {(turn.stop - turn.start) / PS:g} s long, "
                f"not {float(self._shared.block):g} s"
            )
        if self._map is None or turn.start < self._next_start:
            raise ClockRejected(f"block {turn.number} of the other node overlaps an earlier one")
        self._next_start = turn.stop
        clock = self._map.rebased(turn.start) if self._map.origin_ps > turn.start else self._map
        first = clock.moment_to_alice(turn.start) - _MARGIN_PS
        last = clock.moment_to_alice(turn.stop) + _MARGIN_PS
        await self._receiver.registered(last)
        self.registered_at = self._clock.monotonic()
        events = await self._receiver.events(first, last)
        expected = self._pairs_per_s * float(self._shared.block)
        bin_ps = max(self._receiver.resolution_ps, turn.resolution_ps)
        self._task = SiftTask(turn.number, turn.start, turn.stop, events, self._shared, clock, expected, bin_ps)
