"""A session with the other node: hello, messages, seals, aborts, liveness, and the switch to a new connection.

Implements `qkdd.peer.contract.PeerSession` over any `Connection`. Frames are numbered through, whatever connection carries
them: a re-handshake moves the session to a new TLS connection at a frame boundary of each direction (`SWITCH` is the last
frame on the old one and names what the new one negotiated, so the next seal covers that too).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable

import msgspec

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.peer import frames, hello
from qkdd.peer.auth import Authenticator, ReceivedSeal
from qkdd.peer.contract import ALICE_TO_BOB, BOB_TO_ALICE, AuthMode, M, MaskStore, Message, Role, Seal
from qkdd.peer.errors import (
    AuthenticationFailed,
    FrameGarbage,
    FrameReplayed,
    PeerAborted,
    PeerClosed,
    PeerError,
    PeerSilent,
    ProtocolError,
)
from qkdd.peer.frames import Frame, FrameType
from qkdd.peer.opening import LinkIdentity, SessionSettings, exchange
from qkdd.peer.wire import Connection

_INBOX_LIMIT = (
    256 << 20
)  # unread bytes; the protocol is in lock-step, so more than a block's worth is an attack or a defect
_TRIPS = 8  # pings whose shortest is the round trip
_SMALL = 4096  # bytes of a body that is joined with its header: one piece of hashing instead of several
_CODE = re.compile(r"^QKD(-[A-Z0-9]+){2,8}$")
_log = log.get("peer")


class Abort(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Body of an ABORT frame. `count` numbers the session's aborts; both sides send one each."""

    count: int
    code: str
    reason: str


class Session:
    """See PeerSession. Made by `Session.open`."""

    def __init__(
        self,
        connection: Connection,
        who: LinkIdentity,
        terms: hello.Terms,
        authenticator: Authenticator,
        settings: SessionSettings,
        clock: Clock,
        meter: Meter,
    ) -> None:
        self.role: Role = who.role
        self.local_id, self.peer_id = who.local_id, who.peer_id
        self.session_id, self.terms = terms.session_id, terms
        self._trips: deque[float] = deque(maxlen=_TRIPS)
        self.on_rehandshake_wanted: Callable[[], None] | None = None
        self._auth, self._settings, self._clock, self._meter = authenticator, settings, clock, meter
        self._in = self._out = connection
        self._next_in: Connection | None = None
        self._switch_binding: bytes | None = None
        self._sent_count = self._received_count = 2  # hello and ready
        self._inbox: deque[bytes | ReceivedSeal | Abort] = deque()
        self._inbox_bytes = 0
        self._arrived = asyncio.Event()
        self._aborts = 0
        self._broken_seal = False
        self._failure: QkddError | None = None
        self._ended = asyncio.Event()
        self._heard = clock.monotonic()
        self._pings: dict[bytes, float] = {}
        self._traffic = [0, 0]
        self._monitor: asyncio.Task[None] | None = None

    # opening ---------------------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        connection: Connection,
        who: LinkIdentity,
        store: MaskStore,
        settings: SessionSettings,
        clock: Clock,
        meter: Meter,
    ) -> Session:
        """Exchange hellos and begin. On any refusal the connection is closed and its error raised, on both sides."""
        try:
            async with clock.deadline(settings.hello):
                opened = await exchange(connection, who, store, clock)
        except TimeoutError:
            connection.wire.drop()
            raise PeerSilent(f"{who.peer_id} said no hello within {settings.hello:g} s") from None
        except BaseException:
            connection.wire.close()
            raise
        session = cls(connection, who, opened.terms, opened.authenticator, settings, clock, meter)
        session._trips.append(opened.rtt)
        session._begin()
        return session

    def _begin(self) -> None:
        self._take_over(self._in)
        self._meter.set("qkdd_peer_up", 1, peer=self.peer_id)
        self._show_masks()
        if self._failure is None:
            self._monitor = asyncio.create_task(self._watch(), name=f"peer {self.peer_id}")

    # state -----------------------------------------------------------------------------------------------------------

    @property
    def mode(self) -> AuthMode:
        return self._auth.mode

    @property
    def masks_left(self) -> int | None:
        return self._auth.masks_left

    @property
    def rtt(self) -> float:
        """The shortest of the last pings: a node that is busy answers late, and that is not the line."""
        return min(self._trips, default=0.0)

    @property
    def failure(self) -> QkddError | None:
        """Why the session is over; None while it stands."""
        return self._failure

    def require_masks(self, seals: int) -> None:
        self._auth.require(seals)

    async def wait_ended(self) -> QkddError:
        """Wait until the session is over and return why."""
        await self._ended.wait()
        if self._failure is None:
            return PeerClosed("the session ended")
        return self._failure

    # messages --------------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        self._check()
        self._send(FrameType.MESSAGE, *frames.encode_message(message))
        await self._out.wire.drain()
        self._check()

    async def receive(self, kind: type[M], *, timeout: float | None = None) -> M:
        item = await self._next(timeout, frames.tag_of(kind))
        if isinstance(item, ReceivedSeal):
            raise ProtocolError(
                f"the other node sealed {item.claims.phase!r} where {frames.tag_of(kind)!r} was expected"
            )
        return frames.decode_message(item, kind)

    async def seal(self, phase: str, block: int) -> Seal:
        self._check()
        try:
            head, body = self._auth.make(phase, block, self._sent_count)
            self._sent_count += 1
            self._write(head, body)
            item = await self._next(None, f"seal of {phase}")
            if not isinstance(item, ReceivedSeal):
                raise ProtocolError(
                    f"the other node sent {frames.message_tag(item)!r} instead of its seal of {phase!r}"
                )
            cost = self._auth.settle(item, phase, block)
        except AuthenticationFailed:
            self._broken_seal = True
            self._meter.add("qkdd_peer_seals_total", peer=self.peer_id, mode=self.mode, result="failed")
            raise
        except asyncio.CancelledError:
            # the other node may have accepted the seal: nothing but a new session is sure to be at the same place
            self._fail(PeerClosed("a seal was interrupted on this node"))
            raise
        self._meter.add("qkdd_peer_seals_total", peer=self.peer_id, mode=cost.mode, result="ok")
        self._show_masks()
        return Seal(phase, block, cost.mode, cost.epsilon, cost.sent_bytes, cost.received_bytes)

    async def abort(self, error: QkddError) -> None:
        if self._failure is not None or isinstance(error, PeerAborted):
            return
        self._send_abort(error.code or "QKD-CORE-INTERNAL", error.message)
        if self._broken_seal:  # the two sides may have come to different modes: only a new session is sure
            self._fail(PeerClosed("the session ended after a seal that did not verify"))
            return
        while True:
            item = await self._take(self._settings.answer, "answer to the abort")
            if isinstance(item, Abort):
                break
        self._aborted(item)

    async def close(self) -> None:
        if self._failure is None:
            self._send(FrameType.GOODBYE, b"")
            self._fail(PeerClosed("the session was closed by this node"))
        if self._monitor is not None:
            await asyncio.wait([self._monitor])

    async def _next(self, timeout: float | None, what: str) -> bytes | ReceivedSeal:
        item = await self._take(self._settings.answer if timeout is None else timeout, what)
        if isinstance(item, Abort):
            self._send_abort(item.code, "")
            self._aborted(item)
            raise PeerAborted(item.code, item.reason)
        return item

    async def _take(self, timeout: float, what: str) -> bytes | ReceivedSeal | Abort:
        if not self._inbox:
            try:
                async with self._clock.deadline(timeout):
                    while not self._inbox:
                        self._check()
                        self._arrived.clear()
                        await self._arrived.wait()
            except TimeoutError:
                error = PeerSilent(f"{self.peer_id} sent nothing for {timeout:g} s; awaited: {what}", seconds=timeout)
                self._fail(error)
                raise error from None
        item = self._inbox.popleft()
        if isinstance(item, bytes):
            self._inbox_bytes -= len(item)
        return item

    def _send_abort(self, code: str, reason: str) -> None:
        self._send(FrameType.ABORT, msgspec.msgpack.encode(Abort(self._aborts, code, reason[:300])))

    def _aborted(self, theirs: Abort) -> None:
        if theirs.count != self._aborts:
            error = ProtocolError(f"the other node counts {theirs.count} aborts, this node {self._aborts}")
            self._fail(error)
            raise error
        self._aborts += 1
        self._auth.drop_round()

    # frames ----------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _send(self, kind: FrameType, *body: bytes) -> None:
        size = sum(map(len, body))
        head = frames.header(kind, self._sent_count, size)
        self._sent_count += 1
        parts = (head, *body) if size > _SMALL else (b"".join((head, *body)),)
        self._auth.sent(*parts)
        self._write(*parts)

    def _write(self, *parts: bytes) -> None:
        self._traffic[0] += sum(map(len, parts))
        self._out.wire.write(*parts)

    def _take_over(self, connection: Connection) -> None:
        connection.take_over(
            lambda frame: self._frame(connection, frame), lambda error: self._connection_lost(connection, error)
        )

    def _connection_lost(self, connection: Connection, error: QkddError) -> None:
        if connection in (self._in, self._out, self._next_in):
            self._fail(error)

    def _frame(self, connection: Connection, frame: Frame) -> None:
        """One frame in its place; whatever is wrong with it ends the session."""
        if self._failure is not None:
            return
        try:
            if connection is not self._in or self._switch_binding is not None:
                raise FrameGarbage("a frame arrived on a connection that was given up")
            if frame.sequence != self._received_count:
                raise FrameReplayed(
                    f"frame {frame.sequence} arrived, {self._received_count} was due",
                    got=frame.sequence,
                    due=self._received_count,
                )
            self._received_count += 1
            self._traffic[1] += len(frame.header) + len(frame.body)
            self._heard = self._clock.monotonic()
            if frame.type is FrameType.SEAL:
                self._deliver(self._auth.arrived(frame))
            else:
                self._auth.received(frame)
                self._dispatch(frame)
        except PeerError as error:
            self._fail(error)

    def _dispatch(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.MESSAGE:
                self._inbox_bytes += len(frame.body)
                if self._inbox_bytes > _INBOX_LIMIT:
                    raise FrameGarbage(f"the other node sent more than {_INBOX_LIMIT} bytes that nobody asked for")
                self._deliver(frame.body)
            case FrameType.ABORT:
                self._deliver(_abort_of(frame.body))
            case FrameType.PING:
                self._send(FrameType.PONG, frame.body[:16])
            case FrameType.PONG:
                started = self._pings.pop(frame.body, None)
                if started is not None:
                    self._trips.append(self._clock.monotonic() - started)
            case FrameType.SWITCH:
                self._switch_binding = frame.body
                self._switch_in()
            case FrameType.REHANDSHAKE:
                if self.on_rehandshake_wanted is not None:
                    self.on_rehandshake_wanted()
            case FrameType.GOODBYE:
                self._fail(PeerClosed(f"{self.peer_id} said goodbye"))
            case _:
                raise FrameGarbage(f"a {frame.type.name} frame arrived in the middle of a session")

    def _deliver(self, item: bytes | ReceivedSeal | Abort) -> None:
        self._inbox.append(item)
        self._arrived.set()

    # re-handshake ----------------------------------------------------------------------------------------------------

    def ask_rehandshake(self) -> None:
        """Ask the connecting side for a new TLS connection (after a reload of our certificates)."""
        if self._failure is None:
            self._send(FrameType.REHANDSHAKE, b"")

    def switch(self, new: Connection) -> None:
        """Go over to a new connection that both ends have agreed on: our direction now, the other when its SWITCH comes."""
        self._check()
        if self._next_in is not None or self._out is not self._in:
            raise ProtocolError("a second switch was asked for before the first was complete")
        self._send(FrameType.SWITCH, new.facts.binding)
        self._out = self._next_in = new
        self._switch_in()

    def _switch_in(self) -> None:
        new = self._next_in
        if new is None or self._switch_binding is None:
            return
        if self._switch_binding != new.facts.binding:
            raise ProtocolError("the two ends of the new connection do not see the same negotiation")
        old, self._in = self._in, new
        self._next_in = self._switch_binding = None
        old.wire.close()
        self._take_over(new)

    # liveness --------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Ping, and end the session when nothing is heard for too long."""
        while self._failure is None:
            due = self._clock.monotonic() + self._settings.ping
            self._pings = dict(list(self._pings.items())[-4:])
            token = secrets.token_bytes(8)
            self._pings[token] = self._clock.monotonic()
            self._send(FrameType.PING, token)
            self._count_traffic()
            await self._clock.sleep(self._settings.ping)
            now = self._clock.monotonic()
            if now - due > self._settings.ping:  # this process stood still, so it could not have heard anything
                self._heard = now
            elif now - self._heard > self._settings.silence:
                self._fail(PeerSilent(f"nothing came from {self.peer_id} for {now - self._heard:.0f} s"))

    def _count_traffic(self) -> None:
        sent, received = self._traffic
        self._traffic = [0, 0]
        self._meter.add("qkdd_peer_sent_bytes_total", sent, peer=self.peer_id)
        self._meter.add("qkdd_peer_received_bytes_total", received, peer=self.peer_id)
        self._meter.set("qkdd_peer_round_trip_seconds", self.rtt, peer=self.peer_id)

    def _show_masks(self) -> None:
        state = self._auth.state()
        self._meter.set("qkdd_masks_left", state.alice_to_bob, direction=ALICE_TO_BOB)
        self._meter.set("qkdd_masks_left", state.bob_to_alice, direction=BOB_TO_ALICE)

    def fail(self, error: QkddError) -> None:
        """End the session for a reason from outside (superseded, certificate revoked)."""
        self._fail(error)

    def _fail(self, error: QkddError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._arrived.set()
        self._ended.set()
        self._count_traffic()
        self._meter.set("qkdd_peer_up", 0, peer=self.peer_id)
        if not isinstance(error, PeerClosed):
            self._meter.add("qkdd_errors_total", code=error.code)
        for connection in {self._in, self._out, self._next_in} - {None}:
            if connection is not None:
                connection.wire.drop() if isinstance(error, PeerSilent) else connection.wire.close()
        if self._monitor is not None:
            self._monitor.cancel()
        _log.info("peer session ended", peer=self.peer_id, **log.error_fields(error))


def _abort_of(body: bytes) -> Abort:
    try:
        abort = msgspec.msgpack.decode(body, type=Abort)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameGarbage(f"an ABORT frame does not decode: {error}") from None
    if not _CODE.match(abort.code):
        raise FrameGarbage("an ABORT frame arrived without a code")
    return abort
