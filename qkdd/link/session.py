"""One run of a quantum link over one session with the other node: align, then block after block, until something ends it.

Bob leads: each turn he says what comes next (`Turn`), alice agrees or asks for something else (`TurnAnswer`). Acquisition
goes on all the time; blocks are processed one after the other. A refused block is discarded on both nodes, counted and
followed by the next; what ends the session ends the run, and the supervisor starts a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import Kind, QkddError, StorageFailed, StorageFull
from qkdd.device.roles import TimeTagger
from qkdd.distill.blocks import SiftedBlock
from qkdd.kernels import KernelError
from qkdd.link.acquisition import Acquisition
from qkdd.link.aligning import AlignmentResult, align_alice, align_bob
from qkdd.link.bookkeeping import Bookkeeping
from qkdd.link.clockmap import PS, ClockMap
from qkdd.link.coarse import COMMON_DEPTH, LEVELS
from qkdd.link.config import LinkConfig
from qkdd.link.contract import Committer, Distiller, Ledger
from qkdd.link.errors import AlignmentFailed, ClockRejected, LockLost, OpenStretchRefused, RegisterTimeout
from qkdd.link.messages import Turn, TurnAnswer
from qkdd.link.probes import Probes
from qkdd.link.protocols import PROTOCOLS, SiftTask
from qkdd.link.receiver import Receiver
from qkdd.link.status import LinkState, LinkStatus
from qkdd.peer.contract import PeerSession, Role
from qkdd.peer.errors import FrameGarbage, FrameReplayed, PeerAborted, PeerClosed, PeerSilent, ProtocolError

_LOG = log.get("link")
Outcome = Literal["drained", "peer drained"]

_SEALS_PER_BLOCK = 4
_MARGIN_PS = 2_000_000  # alice looks this far beyond the block that she maps to her clock
_SEEDING_BITS = 100  # fewer sacrificed bits say nothing about the error rate
_LOCK_CODES = {LockLost.code, RegisterTimeout.code}
_SESSION_OVER = (PeerClosed, PeerSilent, FrameGarbage, FrameReplayed)
_GO_ON = (ProtocolError, StorageFull, StorageFailed, KernelError, AlignmentFailed, OpenStretchRefused)


class LinkSession:
    """See the module. `status` is what the control room watches; one object, whoever made it."""

    def __init__(
        self,
        config: LinkConfig,
        role: Role,
        tagger: TimeTagger,
        session: PeerSession,
        distiller: Distiller,
        committer: Committer,
        ledger: Ledger,
        clock: Clock,
        meter: Meter,
        *,
        status: LinkStatus | None = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        """status: pass the same object to the next run of the same link to keep its history.

        heartbeat: called after each read of the tagger; it stops when the acquisition or the event loop hangs.
        """
        self._config, self._role, self._shared = config, role, config.shared
        self._session, self._distiller, self._committer, self._ledger = session, distiller, committer, ledger
        self._clock, self._meter = clock, meter
        self.status = status or LinkStatus(config.name, role, clock)
        self._book = Bookkeeping(config, self.status, clock, meter)
        keep = (config.buffer_blocks + 1) * self._shared.block + 2 * (
            self._shared.offset_range + self._shared.open_stretch
        )
        self._acquisition = Acquisition(tagger, config.channels, clock, meter, config.name, round(keep * PS), heartbeat)
        self._receiver = Receiver(config, self._acquisition, tagger.resolution_ps)
        self._protocol = PROTOCOLS[self._shared.protocol]
        self._map: ClockMap | None = None  # bob keeps it only to know that there is one
        self._pairs_per_s = 0.0
        self._refusals_in_a_row = 0
        self._failures = 0  # alignments that failed since the last one that did not
        # Of the last block, of the last alignment. Bob names the numbers, so alice takes what comes, in rising order.
        self._number = self.status.last_number if role == "bob" else 0
        self._stretch = 0
        self._next_start = 0  # bob's clock: where the next block may begin
        self._draining = False
        self._probes = Probes()
        self._sifted = 0
        self._registered_at = 0.0
        self._committing = False

    # what others may ask ---------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Finish the block that is being processed, begin no other, and let `run` return."""
        self._draining = True
        self._probes.wanted.set()
        self._book.state(LinkState.DRAINING)

    async def measure_error(self) -> float:
        """A fresh error rate from a stretch that is opened wholly after this call (for a polarization calibration).

        The block under acquisition is given up for it. Raises AlignmentFailed when the stretch has no coincidence peak,
        PeerClosed when the run ends first.
        """
        return await self._probes.ask()

    # the run ---------------------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Run until drained. Raises what ended the session, the tagger's error, or an error a person must look at.

        The session is closed and the tagger stopped in any case; the supervisor makes both anew.
        """
        try:
            await self._committer.settle(self._session)
            await self._acquisition.start()
            self._book.state(LinkState.ALIGNING)
            return await self._until_tagger_fails(self._bob() if self._role == "bob" else self._alice())
        finally:
            self._book.state(LinkState.IDLE)
            self._probes.fail(PeerClosed("the link's run ended before the error rate was measured"), everybody=True)
            await self._acquisition.stop()
            await self._session.close()

    async def _until_tagger_fails(self, turns: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Run the turns; a tagger that fails ends them at once, and the other node is told why."""
        main = asyncio.create_task(turns, name=f"link {self._config.name}")
        watch = asyncio.create_task(self._acquisition.failed())
        try:
            await asyncio.wait({main, watch}, return_when=asyncio.FIRST_COMPLETED)
            failure = self._acquisition.failure
            if failure is None:
                return main.result()
            main.cancel()
            await asyncio.wait({main})
            if isinstance(failure, QkddError):
                try:
                    await self._session.abort(failure)
                except QkddError as error:
                    _LOG.info("the other node could not be told of the tagger's failure", **log.error_fields(error))
            raise failure
        finally:
            main.cancel()
            watch.cancel()
            await asyncio.wait({main, watch})

    async def _bob(self) -> Outcome:
        while True:
            if self._draining:
                await self._session.send(self._turn("rest", 0, 0, 0))
                await self._session.receive(TurnAnswer)
                return "drained"
            align = self._map is None or bool(self._probes)
            if await self._guarded(self._bob_aligns() if align else self._bob_block()) == "rest":
                return "peer drained"

    async def _alice(self) -> Outcome:
        patience = float(self._shared.block + self._shared.open_stretch + self._shared.offset_range) + 120.0
        while True:
            try:
                turn = await self._session.receive(Turn, timeout=patience)
            except PeerAborted as error:  # bob gave a block up before he proposed it
                self._begin_block(self._number + 1)
                self._refuse(error.peer_code, error)
                continue
            if turn.action == "rest":
                await self._session.send(TurnAnswer("rest", turn.number))
                return "peer drained"
            if self._draining:
                await self._session.send(TurnAnswer("rest", turn.number))
                return "drained"
            if turn.action == "align":
                await self._guarded(self._alice_aligns(turn))
            else:
                await self._guarded(self._alice_block(turn))

    def _turn(self, action: Literal["align", "block", "rest"], number: int, start: int, stop: int) -> Turn:
        return Turn(
            action,
            number,
            start,
            stop,
            self._acquisition.position(),
            self._receiver.resolution_ps,
            self._map is not None,
        )

    # align -----------------------------------------------------------------------------------------------------------

    async def _bob_aligns(self) -> str | None:
        self._begin_alignment()
        self._stretch += 1
        known = self._map is not None
        # a first search looks offset_range to both sides, so alice's stream must reach back that far
        earliest = 0 if known else round(self._shared.offset_range * PS)
        start = max(self._acquisition.position(), earliest)
        stop = start + round(self._shared.open_stretch * PS)
        turn = self._turn("align", self._stretch, start, stop)
        await self._session.send(turn)
        answer = await self._session.receive(TurnAnswer)
        if answer.action == "rest":
            return "rest"
        try:
            result = await align_bob(turn, self._receiver, self._session, self._config)
        except QkddError as error:
            self._probes.fail(error)
            raise
        self._aligned(turn, result)
        return None

    async def _alice_aligns(self, turn: Turn) -> None:
        arrived = self._acquisition.position()
        self._begin_alignment()
        known = self._map if turn.known else None
        centre = arrived - turn.position_ps - self._session.rtt / 2 * PS
        await self._session.send(TurnAnswer("align", turn.number))
        try:
            depth = COMMON_DEPTH if self._failures % 3 < 2 else len(LEVELS)
            result = await align_alice(turn, centre, known, self._receiver, self._session, self._config, depth)
        except QkddError as error:
            self._probes.fail(error)
            raise
        self._aligned(turn, result)

    def _begin_alignment(self) -> None:
        self._sifted, self._registered_at = -1, self._clock.monotonic()
        self._probes.take()
        if self._map is None:
            self._show_aligning()

    def _aligned(self, turn: Turn, result: AlignmentResult) -> None:
        self._next_start = max(turn.stop_ps, self._next_start)
        self._map, self._pairs_per_s = result.clock, result.pairs_per_s
        self._refusals_in_a_row = self._failures = 0
        statistics = result.statistics
        if statistics.bits >= _SEEDING_BITS:
            self._distiller.seed(statistics.errors, statistics.bits)
        self._book.aligned(result, self._receiver.delays_ps)
        if not self._draining:
            self._book.state(LinkState.RUNNING)
        self._probes.answer(statistics.qber if statistics.qber is not None else 0.5)

    # block -----------------------------------------------------------------------------------------------------------

    async def _bob_block(self) -> str | None:
        length = self._shared.block_ps
        behind = (self._acquisition.until - self._next_start) // length
        if behind > self._config.buffer_blocks:
            self._next_start += (behind - 1) * length  # what was in between is dropped by the acquisition, and counted
        start, stop = self._next_start, self._next_start + length
        self._begin_block(self._number + 1)
        if not await self._registered_or_interrupted(stop):
            return None
        self._next_start = stop
        self._registered_at = self._clock.monotonic()
        events = await self._receiver.events(start, stop)
        turn = self._turn("block", self._number, start, stop)
        await self._session.send(turn)
        answer = await self._session.receive(TurnAnswer, timeout=float(self._shared.block) + 60.0)
        if answer.action != "block":
            events.wipe()
            if answer.action == "align":
                self._lose_lock()
            return answer.action
        await self._process(SiftTask(turn.number, start, stop, events, self._shared))
        return None

    async def _registered_or_interrupted(self, stop: int) -> bool:
        """Wait for the clicks up to `stop`; False when a drain or a probe came first."""
        registered = asyncio.ensure_future(self._receiver.registered(stop))
        interrupted = asyncio.ensure_future(self._probes.wanted.wait())
        try:
            await asyncio.wait({registered, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if interrupted.done():
                return False
            registered.result()
            return True
        finally:
            for task in (registered, interrupted):
                task.cancel()
            await asyncio.wait({registered, interrupted})

    async def _alice_block(self, turn: Turn) -> None:
        if self._map is None or self._probes:
            await self._session.send(TurnAnswer("align", turn.number))
            return
        previous = self._number
        self._begin_block(max(turn.number, previous))  # a proposal that is refused is a refused block on both nodes
        if turn.stop_ps - turn.start_ps != self._shared.block_ps:
            raise ClockRejected(
                f"block {turn.number} of the other node is {(turn.stop_ps - turn.start_ps) / PS:g} s long, "
                f"not {float(self._shared.block):g} s"
            )
        if turn.start_ps < self._next_start or turn.number <= previous:
            raise ClockRejected(f"block {turn.number} of the other node does not follow block {previous}")
        self._next_start = turn.stop_ps
        clock = self._map.rebased(turn.start_ps) if self._map.origin_ps > turn.start_ps else self._map
        first = clock.moment_to_alice(turn.start_ps) - _MARGIN_PS
        last = clock.moment_to_alice(turn.stop_ps) + _MARGIN_PS
        await self._receiver.registered(last)
        self._registered_at = self._clock.monotonic()
        events = await self._receiver.events(first, last)
        await self._session.send(TurnAnswer("block", turn.number))
        await self._process(
            SiftTask(
                turn.number,
                turn.start_ps,
                turn.stop_ps,
                events,
                self._shared,
                clock,
                self._pairs_per_s * float(self._shared.block),
                max(self._receiver.resolution_ps, turn.resolution_ps),
            )
        )

    def _begin_block(self, number: int) -> None:
        self._number, self._sifted, self._registered_at = number, 0, self._clock.monotonic()

    async def _process(self, task: SiftTask) -> None:
        """From registered clicks to a committed key, with the other node. Charged to the ledger first."""
        seconds = float(self._shared.block)
        try:
            self._session.require_masks(_SEALS_PER_BLOCK)
            await asyncio.to_thread(self._ledger.charge, self._shared.eps_block, now=self._clock.wall())
            self._book.events(task.events, seconds)
            sift = self._protocol.alice if self._role == "alice" else self._protocol.bob
            rounds = await sift(task, self._session)
        finally:
            task.events.wipe()
            self._acquisition.release(self._released(task))
        self._sifted = len(rounds.bits)
        self._pairs_per_s = rounds.pairs / seconds
        self._map = rounds.clock or self._map
        self._refusals_in_a_row = 0
        self._book.sifted(rounds, seconds)
        if not self._draining:
            self._book.state(LinkState.RUNNING)
        block = SiftedBlock(number=task.number, bits=rounds.bits, bases=rounds.bases, acquisition_s=seconds)
        distilled = await self._distiller.distil(block, self._session)
        self._committing = True
        await self._committer.commit(distilled, self._session)
        self._committing = False
        self._book.accepted(distilled, self._clock.monotonic() - self._registered_at)

    def _released(self, task: SiftTask) -> int:
        """Clicks before this are no longer needed, on this node's clock."""
        stop = task.stop_ps if task.clock is None else task.clock.moment_to_alice(task.stop_ps)
        return stop - 2 * _MARGIN_PS

    # refusals --------------------------------------------------------------------------------------------------------

    async def _guarded(self, turn: Coroutine[Any, Any, str | None]) -> str | None:
        """Await a turn. What only costs the block or the stretch is told to the other node and counted; the rest is raised."""
        self._committing = False
        try:
            return await turn
        except PeerAborted as error:
            self._refuse(error.peer_code, error)
        except QkddError as error:
            if error is self._acquisition.failure:
                raise
            goes_on = error.kind is Kind.KEY_MATERIAL or isinstance(error, _GO_ON)
            told = isinstance(error, (AlignmentFailed, *_SESSION_OVER))
            if not told and (goes_on or not self._committing):  # a commit in doubt is settled by the next session
                await self._session.abort(error)
            self._refuse(error.code, error)
            if not goes_on or isinstance(error, _SESSION_OVER):
                raise
        return None

    def _refuse(self, code: str, error: QkddError) -> None:
        if self._sifted < 0:  # an alignment, not a block
            self._failures += 1
            self._lose_lock()
            self._book.state(self.status.snapshot.state, error)
            _LOG.info("no alignment", **{**log.error_fields(error), "link": self._config.name, "refusal": code})
            return
        now = self._clock.monotonic()
        self._book.refused(
            self._number, code, self._sifted, float(self._shared.block), now - self._registered_at, error
        )
        if code in _LOCK_CODES:
            self._refusals_in_a_row += 1
            if not self._draining:
                self._book.state(LinkState.LOST, error)
            if self._refusals_in_a_row >= self._config.realign_after:
                self._lose_lock()
        elif code.startswith(("QKD-PEER-", "QKD-DEV-")):
            self._lose_lock()

    def _lose_lock(self) -> None:
        """The next turn is an alignment from nothing."""
        self._map = None
        self._refusals_in_a_row = 0
        self._show_aligning()

    def _show_aligning(self) -> None:
        if self.status.snapshot.state not in {LinkState.DRAINING, LinkState.ALIGNING}:  # keeps the reason it came with
            self._book.state(LinkState.ALIGNING)
