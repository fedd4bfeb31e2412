"""One run of a quantum link over one session with the other node: align, then block after block, until something ends it.

Bob leads: each turn he says what comes next (`Turn`), alice agrees or asks for something else (`TurnAnswer`). Acquisition
goes on all the time; blocks are processed one after the other. A refused block is discarded on both nodes, counted and
followed by the next; what ends the session ends the run, and the supervisor starts a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, cast

import msgspec

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import Kind, QkddError, StorageFailed, StorageFull
from qkdd.device.roles import SymbolSource, TimeTagger
from qkdd.kernels import KernelError
from qkdd.link.bookkeeping import Bookkeeping
from qkdd.link.config import LinkConfig
from qkdd.link.contract import Committer, Distiller, Ledger
from qkdd.link.errors import AlignmentFailed, ClockRejected, LockLost, OpenStretchRefused, RegisterTimeout, SlotSlip
from qkdd.link.messages import Turn, TurnAnswer
from qkdd.link.probes import Probes
from qkdd.link.protocols import PROTOCOLS, AliceEnd, BobEnd, LinkEnd, Opened, Setup
from qkdd.link.status import LinkState, LinkStatus
from qkdd.peer.contract import PeerSession, Role
from qkdd.peer.errors import FrameGarbage, FrameReplayed, PeerAborted, PeerClosed, PeerSilent, ProtocolError

_LOG = log.get("link")
Outcome = Literal["drained", "peer drained"]

_SEALS_PER_BLOCK = 4
_SEEDING_BITS = 100  # fewer sacrificed bits say nothing about the error rate
_LOCK_CODES = {LockLost.code, RegisterTimeout.code}
_LOCK_GONE = {SlotSlip.code}  # one such block is enough for a new alignment
_SESSION_OVER = (PeerClosed, PeerSilent, FrameGarbage, FrameReplayed)
_GO_ON = (ProtocolError, StorageFull, StorageFailed, KernelError, AlignmentFailed, OpenStretchRefused)


class LinkSession:
    """See the module. `status` is what the control room watches; one object, whoever made it."""

    def __init__(
        self,
        config: LinkConfig,
        role: Role,
        device: TimeTagger | SymbolSource,
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
        """device: the driver of the section `config.device`. status: pass the same object to the next run of the same link to
        keep its history.

        heartbeat: called after each read of the device; it stops when the acquisition or the event loop hangs.
        """
        self._config, self._role, self._shared = config, role, config.shared
        self._session, self._distiller, self._committer, self._ledger = session, distiller, committer, ledger
        self._clock, self._meter = clock, meter
        self.status = status or LinkStatus(config.name, role, clock)
        self._book = Bookkeeping(config, self.status, clock, meter)
        setup = Setup(config, session, clock, meter, self._book, heartbeat)
        protocol = PROTOCOLS[self._shared.protocol]
        # the session calls the methods of its own role only
        self._end: LinkEnd = protocol.bob(setup, device) if role == "bob" else protocol.alice(setup, device)
        self._refusals_in_a_row = 0
        self._failures = 0  # alignments that failed since the last one that did not
        # Of the last block, of the last alignment. Bob names the numbers, so alice takes what comes, in rising order.
        self._number = self.status.last_number if role == "bob" else 0
        self._stretch = 0
        self._drain_asked = asyncio.Event()
        self._probes = Probes()
        self._held_open = self._peer_holds = False  # by this node's operator, by the other's
        self._open = False  # the last stretch was one of an open link
        self._sifted = 0
        self._committing = False

    @property
    def _as_bob(self) -> BobEnd:
        return cast(BobEnd, self._end)

    @property
    def _as_alice(self) -> AliceEnd:
        return cast(AliceEnd, self._end)

    # what others may ask ---------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Finish the block that is being processed, begin no other, and let `run` return."""
        self._drain_asked.set()
        self._probes.wanted.set()
        self._book.state(LinkState.DRAINING)

    @property
    def _draining(self) -> bool:
        return self._drain_asked.is_set()

    def hold_open(self, wanted: bool) -> None:
        """While held, both nodes exchange stretch after stretch of clicks in clear and make no key; the block in hand is
        finished, the one under acquisition is given up. Let go, the link aligns from nothing before the next block."""
        self._held_open = wanted
        if self._role == "alice":
            self._as_alice.holds_open = wanted
        elif wanted:
            self._probes.wanted.set()
        elif not self._probes and not self._draining:
            self._probes.wanted.clear()

    async def measure_error(self) -> float:
        """A fresh error rate from a stretch that is opened wholly after this call (for a polarization calibration).

        The block under acquisition is given up for it. Raises AlignmentFailed when the stretch has no coincidence peak,
        PeerClosed when the run ends first.
        """
        return await self._probes.ask()

    # the run ---------------------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Run until drained. Raises what ended the session, the device's error, or an error a person must look at.

        The session is closed and the device stopped in any case; the supervisor makes both anew.
        """
        try:
            if not await self._settled():
                return "drained"
            await self._end.source.start()
            self._book.state(LinkState.ALIGNING)
            return await self._until_device_fails(self._bob() if self._role == "bob" else self._alice())
        finally:
            self._book.state(LinkState.IDLE)
            self._probes.fail(PeerClosed("the link's run ended before the error rate was measured"), everybody=True)
            try:
                await self._end.source.stop()
            except QkddError as error:  # what ended the run counts more; whoever opens the device next meets this one
                _LOG.info("the device could not be stopped", **log.error_fields(error), link=self._config.name)
            finally:
                await self._session.close()

    async def _settled(self) -> bool:
        """Settle what an earlier session left in doubt; False when a drain came first. A drained node settles nothing until it is
        resumed, and two of them would wait for each other. What was in doubt stays so for the next session."""
        settling = asyncio.ensure_future(self._committer.settle(self._session))
        drained = asyncio.ensure_future(self._drain_asked.wait())
        try:
            await asyncio.wait({settling, drained}, return_when=asyncio.FIRST_COMPLETED)
            if not settling.done():
                return False
            await settling
            return True
        finally:
            for task in (settling, drained):
                task.cancel()
            await asyncio.wait({settling, drained})

    async def _until_device_fails(self, turns: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Run the turns; a device that fails ends them at once, and the other node is told why."""
        main = asyncio.create_task(turns, name=f"link {self._config.name}")
        watch = asyncio.create_task(self._end.source.failed())
        try:
            await asyncio.wait({main, watch}, return_when=asyncio.FIRST_COMPLETED)
            failure = self._end.source.failure
            if failure is None:
                return main.result()
            main.cancel()
            await asyncio.wait({main})
            if isinstance(failure, QkddError):
                try:
                    await self._session.abort(failure)
                except QkddError as error:
                    _LOG.info("the other node could not be told of the device's failure", **log.error_fields(error))
            raise failure
        finally:
            main.cancel()
            watch.cancel()
            await asyncio.wait({main, watch})

    async def _bob(self) -> Outcome:
        while True:
            if self._draining:
                await self._session.send(self._as_bob.farewell(0))
                await self._session.receive(TurnAnswer)
                return "drained"
            held = self._held_open or self._peer_holds
            if self._open and not held:
                self._close()
            align = held or not self._end.locked or bool(self._probes)
            if await self._guarded(self._bob_aligns(held) if align else self._bob_block()) == "rest":
                return "peer drained"

    async def _alice(self) -> Outcome:
        while True:
            try:
                turn = await self._session.receive(Turn, timeout=self._as_alice.patience)
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
            if self._open and turn.action != "open":
                self._close()
            if turn.action in {"align", "open"}:
                await self._guarded(self._alice_aligns(turn))
            else:
                await self._guarded(self._alice_block(turn))

    # align -----------------------------------------------------------------------------------------------------------

    async def _bob_aligns(self, held: bool) -> str | None:
        self._begin_alignment(held)
        self._stretch += 1
        turn = self._as_bob.alignment(self._stretch)
        if held:
            turn = msgspec.structs.replace(turn, action="open")
        await self._session.send(turn)
        answer = await self._session.receive(TurnAnswer)
        self._peer_holds = answer.action == "open"
        if answer.action == "rest":
            return "rest"
        await self._align(self._as_bob.align(turn))
        return None

    async def _alice_aligns(self, turn: Turn) -> None:
        self._begin_alignment(turn.action == "open")
        await self._align(self._as_alice.align(turn, 0 if self._open else self._failures))

    def _begin_alignment(self, held: bool) -> None:
        self._sifted = -1
        self._open = held
        self._end.begin()
        self._probes.take()
        if held:
            if not self._draining:
                self._book.state(LinkState.OPEN)
        elif not self._end.locked:
            self._show_aligning()

    def _close(self) -> None:
        """The link is no longer held open: what was learnt from its stretches is forgotten, a clean epoch begins."""
        self._open = False
        self._lose_lock()

    async def _align(self, alignment: Coroutine[Any, Any, Opened]) -> None:
        try:
            opened = await alignment
        except QkddError as error:
            self._probes.fail(error)
            raise
        self._refusals_in_a_row = self._failures = 0
        if opened.bits >= _SEEDING_BITS and not self._open:
            self._distiller.seed(opened.errors, opened.bits)
        if not self._draining and not self._open:
            self._book.state(LinkState.RUNNING)
        self._probes.answer(opened.error_rate)

    # block -----------------------------------------------------------------------------------------------------------

    async def _bob_block(self) -> str | None:
        self._begin_block(self._number + 1)
        turn = await self._registered_or_interrupted(self._number)
        if turn is None:
            return None
        await self._session.send(turn)
        answer = await self._session.receive(TurnAnswer, timeout=self._shared.block_s + 60.0)
        if answer.action != "block":
            self._end.begin()
            self._peer_holds = answer.action == "open"
            if answer.action == "align":
                self._lose_lock()
            return answer.action
        await self._process(turn)
        return None

    async def _registered_or_interrupted(self, number: int) -> Turn | None:
        """Wait for the next block; None when a drain or a probe came first."""
        registered = asyncio.ensure_future(self._as_bob.registered(number))
        interrupted = asyncio.ensure_future(self._probes.wanted.wait())
        try:
            await asyncio.wait({registered, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            return None if interrupted.done() else registered.result()
        finally:
            for task in (registered, interrupted):
                task.cancel()
            await asyncio.wait({registered, interrupted})

    async def _alice_block(self, turn: Turn) -> None:
        if self._held_open or not self._end.locked or self._probes:
            await self._session.send(TurnAnswer("open" if self._held_open else "align", turn.number))
            return
        previous = self._number
        self._begin_block(max(turn.number, previous))  # a proposal that is refused is a refused block on both nodes
        if turn.number <= previous:
            raise ClockRejected(f"block {turn.number} of the other node does not follow block {previous}")
        await self._as_alice.registered(turn)
        await self._session.send(TurnAnswer("block", turn.number))
        await self._process(turn)

    def _begin_block(self, number: int) -> None:
        self._number, self._sifted = number, 0
        self._end.begin()

    async def _process(self, turn: Turn) -> None:
        """From an agreed block to a committed key, with the other node. Charged to the ledger first."""
        self._session.require_masks(_SEALS_PER_BLOCK)
        await asyncio.to_thread(self._ledger.charge, self._shared.eps_block, now=self._clock.wall())
        block = await self._end.sift(turn)
        self._sifted = len(block)
        self._refusals_in_a_row = 0
        if not self._draining:
            self._book.state(LinkState.RUNNING)
        distilled = await self._distiller.distil(block, self._session)
        self._committing = True
        await self._committer.commit(distilled, self._session)
        self._committing = False
        self._book.accepted(distilled, self._clock.monotonic() - self._end.registered_at)

    # refusals --------------------------------------------------------------------------------------------------------

    async def _guarded(self, turn: Coroutine[Any, Any, str | None]) -> str | None:
        """Await a turn. What only costs the block or the stretch is told to the other node and counted; the rest is raised."""
        self._committing = False
        try:
            return await turn
        except PeerAborted as error:
            self._refuse(error.peer_code, error)
        except QkddError as error:
            if error is self._end.source.failure:
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
        processing_s = self._clock.monotonic() - self._end.registered_at
        self._end.begin()  # what the end still holds of the block is wiped
        self._book.refused(self._number, code, self._sifted, self._shared.block_s, processing_s, error)
        if code in _LOCK_CODES | _LOCK_GONE:
            self._refusals_in_a_row += 1
            if not self._draining:
                self._book.state(LinkState.LOST, error)
            if self._refusals_in_a_row >= self._config.realign_after or code in _LOCK_GONE:
                self._lose_lock()
        elif code.startswith(("QKD-PEER-", "QKD-DEV-")):
            self._lose_lock()

    def _lose_lock(self) -> None:
        """The next turn is an alignment from nothing."""
        self._end.lose_lock()
        self._refusals_in_a_row = 0
        self._show_aligning()

    def _show_aligning(self) -> None:
        if not self._open and self.status.snapshot.state not in {
            LinkState.DRAINING,
            LinkState.ALIGNING,
        }:  # keeps the reason it came with
            self._book.state(LinkState.ALIGNING)
