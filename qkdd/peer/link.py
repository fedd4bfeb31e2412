"""The way to the other node: alice listens, bob connects; sessions, re-handshakes and reloads of certificates.

`connect_once` and `accept` make one attempt each: the supervisor owns the only retry loop. While a session stands, bob makes
a new TLS connection every hour and after a reload, announces it with RESUME, and both sides move the session over.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Mapping
from typing import cast

import msgspec

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.peer import tls
from qkdd.peer.config import PeerConfig, split_address
from qkdd.peer.contract import MaskStore, Role
from qkdd.peer.errors import (
    AuthStateMismatch,
    CertificateError,
    ConfigMismatch,
    PeerClosed,
    PeerError,
    PeerSilent,
    ProtocolError,
    RoleMismatch,
    VersionMismatch,
)
from qkdd.peer.frames import Frame, FrameType, header
from qkdd.peer.opening import LinkIdentity
from qkdd.peer.session import Session
from qkdd.peer.tls_errors import explain
from qkdd.peer.wire import Connection, TlsWire, facts_of

RETRY_REHANDSHAKE = 60.0  # s, after a re-handshake that the network spoiled; the session goes on meanwhile
MAX_STRANGERS = 64  # connections that have not said hello yet; whoever comes then is turned away
_MAX_TOLD = 16  # refusals kept for `accept` while nobody waits in it
_log = log.get("peer")

# what an authenticated or at least certified peer did wrong: the operator of this node wants to see it. Anything else that
# knocks on the port (scanners, half-open connections) is counted and logged only.
_TOLD = (CertificateError, VersionMismatch, ConfigMismatch, RoleMismatch, AuthStateMismatch)


class Resume(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Body of RESUME and RESUMED: which session the new connection is for."""

    session_id: bytes
    node_id: str


class PeerLink:
    """One link's classical channel on this node. Constructors do no I/O; `start` opens the port (alice)."""

    def __init__(
        self,
        config: PeerConfig,
        *,
        role: Role,
        local_id: str,
        link: str,
        shared: Mapping[str, str],
        masks: MaskStore,
        clock: Clock,
        meter: Meter,
    ) -> None:
        self.config = config
        self.session: Session | None = None
        self.last_failure: QkddError | None = None
        self._who = LinkIdentity(
            role=role,
            local_id=local_id,
            peer_id=config.peer_id,
            link=link,
            shared=dict(shared),
            boot_id=secrets.token_bytes(16),
        )
        self._masks, self._clock, self._meter = masks, clock, meter
        self._context: tls.TlsContext | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._results: asyncio.Queue[Session | QkddError] = asyncio.Queue()
        self._wanted = asyncio.Event()
        self._not_after: float | None = None  # of our certificate, Unix seconds

    # life ------------------------------------------------------------------------------------------------------------

    async def start(self) -> tls.Negotiated:
        """Self-test, and open the port (alice). Returns what the self-test negotiated.

        Raises TlsSelfTestFailed, CredentialError, the certificate's own error, PeerError if the port cannot be opened.
        """
        found = await asyncio.to_thread(tls.self_test, self.config.profile(), self._clock)
        self._context = self._new_context()
        if self.config.listen is not None:
            host, port = split_address(self.config.listen)
            try:
                # two steps: a cancellation between binding and serving must not lose the open socket
                self._server = await asyncio.get_running_loop().create_server(
                    lambda: _Door(self), host, port, start_serving=False
                )
                await self._server.start_serving()
            except OSError as error:
                raise explain(error, f"listening on {self.config.listen}") from None
        _log.info(
            "peer channel ready", role=self._who.role, group=found.group, signature=found.signature, cipher=found.cipher
        )
        return found

    @property
    def port(self) -> int:
        """Port that alice listens on (useful when the configuration says 0)."""
        if self._server is None:
            raise PeerClosed("this end does not listen")
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End session, port and tasks; idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self.session is not None:
            await self.session.close()
        while not self._results.empty():
            waiting = self._results.get_nowait()
            if isinstance(waiting, Session):
                await waiting.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _new_context(self) -> tls.TlsContext:
        profile = self.config.profile()
        context = (tls.server_context if self.config.listen is not None else tls.client_context)(profile, self._clock)
        self._not_after = context.material.leaf.not_valid_after_utc.timestamp()
        self.measure()
        return context

    def measure(self) -> None:
        """Set the levels that change by themselves: how long our certificate is still good for."""
        if self._not_after is not None:
            self._meter.set("qkdd_peer_certificate_expiry_seconds", self._not_after - self._clock.wall())

    def reload(self, config: PeerConfig | None = None) -> None:
        """Read certificate, key, trust and revocation list again (from a new section's paths if given) and re-handshake.

        Raises CredentialError or TlsSettingRefused and keeps what was there. A session whose peer is no longer acceptable
        ends at the re-handshake. Addresses and the peer's id cannot change this way.
        """
        before = self.config
        self.config = config or before
        try:
            self._context = self._new_context()
        except QkddError:
            self.config = before
            raise
        if self.session is None or self.session.failure is not None:
            return
        if self._who.role == "bob":
            self._wanted.set()
        else:
            self.session.ask_rehandshake()

    def rebootstrap(self) -> None:
        """Operator action: forget all masks and start again with ML-DSA. Must be done on both nodes; ends the session."""
        self._masks.rebootstrap()
        if self.session is not None:
            self.session.fail(PeerClosed("authentication is bootstrapped anew by the operator"))

    # bob -------------------------------------------------------------------------------------------------------------

    async def connect_once(self) -> Session:
        """One attempt. Raises PeerUnreachable, a CertificateError, TlsNegotiationFailed, VersionMismatch, ConfigMismatch, …"""
        try:
            connection = await self._dial()
            session = await self._open(connection)
        except QkddError as error:
            self._count(error)
            raise
        self._adopt(session)
        self._spawn(self._keep_fresh(session))
        return session

    async def _dial(self) -> Connection:
        if self._context is None or self.config.connect is None:
            raise PeerClosed("the link is not started, or this end does not connect")
        host, port = split_address(self.config.connect)
        failures: list[PeerError] = []
        context = self._context.for_connection(failures.append)
        try:
            async with self._clock.deadline(self.config.opening):
                transport, wire = await asyncio.get_running_loop().create_connection(
                    TlsWire, host, port, ssl=context, server_hostname=host, ssl_handshake_timeout=self.config.opening
                )
        except (OSError, TimeoutError) as error:
            raise (failures[0] if failures else explain(error, f"peer {self.config.connect}")) from None
        self._meter.add("qkdd_peer_handshakes_total", peer=self.config.peer_id, result="ok")
        return Connection(wire, facts_of(transport, self._who.role))

    async def _keep_fresh(self, session: Session) -> None:
        """Re-handshake on time and on demand for as long as the session stands."""
        self._wanted.clear()
        wait = float(self.config.rehandshake)
        while session.failure is None:
            try:
                async with self._clock.deadline(wait):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            if session.failure is not None:
                return
            try:
                await self._rehandshake(session)
                wait = float(self.config.rehandshake)
            except CertificateError as error:
                self._count(error)
                session.fail(error)  # fail closed: a peer that is no longer acceptable keeps no session
            except QkddError as error:
                self._count(error)
                wait = RETRY_REHANDSHAKE

    async def _rehandshake(self, session: Session) -> None:
        new = await self._dial()
        try:
            new.wire.write(*_setup(FrameType.RESUME, Resume(session.session_id, self._who.local_id)))
            async with self._clock.deadline(self.config.opening):
                frame = await new.next()
            if frame.type is not FrameType.RESUMED or _resume_of(frame).session_id != session.session_id:
                raise ProtocolError("the other node did not take the session over to the new connection")
            session.switch(new)
        except TimeoutError:
            new.wire.drop()
            raise PeerSilent("the other node did not answer the re-handshake") from None
        except BaseException:
            new.wire.close()
            raise

    # alice -----------------------------------------------------------------------------------------------------------

    async def accept(self) -> Session:
        """Wait for the next session, or raise what a certified peer or its certificate did wrong (the port stays open)."""
        while True:
            result = await self._results.get()
            if isinstance(result, QkddError):
                raise result
            if result.failure is None:
                self._adopt(result)
                return result

    def welcome(self, transport: asyncio.Transport) -> None:
        """A TCP connection came in."""
        if len(self._tasks) >= MAX_STRANGERS:
            transport.abort()
            return
        transport.pause_reading()
        self._spawn(self._serve(transport))

    async def _serve(self, raw: asyncio.Transport) -> None:
        context = self._context
        if context is None:
            raw.abort()
            return
        failures: list[PeerError] = []
        try:
            connection = await self._answer(raw, context.for_connection(failures.append))
            async with self._clock.deadline(self.config.opening):
                first = await self._first(connection)
            if first is not None:
                self._resume(connection, first)
                return
            session = await self._open(connection)
        except (QkddError, OSError, TimeoutError) as error:
            raw.abort() if not isinstance(error, QkddError) else None
            found = failures[0] if failures else explain(error, "peer")
            self._count(found)
            if isinstance(found, _TOLD) and self._results.qsize() < _MAX_TOLD:
                self._results.put_nowait(found)
            return
        if self.session is not None:
            self.session.fail(PeerClosed("the other node started a new session"))
        self._results.put_nowait(session)

    async def _answer(self, raw: asyncio.Transport, context: tls.TlsContext) -> Connection:
        wire = TlsWire()
        transport = await asyncio.get_running_loop().start_tls(
            raw, wire, context, server_side=True, ssl_handshake_timeout=self.config.opening
        )
        if transport is None:
            raise PeerClosed("the other node closed the connection in the handshake")
        wire.connection_made(transport)
        self._meter.add("qkdd_peer_handshakes_total", peer=self.config.peer_id, result="ok")
        return Connection(wire, facts_of(transport, self._who.role))

    @staticmethod
    async def _first(connection: Connection) -> Resume | None:
        """What the connection is for: a running session (Resume), or a new one (None; the hello stays in place)."""
        frame = await connection.peek()
        if frame.type is not FrameType.RESUME:
            return None
        return _resume_of(await connection.next())

    def _resume(self, connection: Connection, wanted: Resume) -> None:
        session = self.session
        known = session is not None and session.failure is None and session.session_id == wanted.session_id
        if session is None or not known or wanted.node_id != connection.facts.peer:
            connection.wire.close()
            self._count(ProtocolError("a connection came for a session that does not stand here"))
            return
        connection.wire.write(*_setup(FrameType.RESUMED, Resume(session.session_id, self._who.local_id)))
        try:
            session.switch(connection)
        except QkddError as error:
            connection.wire.close()
            self._count(error)

    # both ------------------------------------------------------------------------------------------------------------

    async def _open(self, connection: Connection) -> Session:
        return await Session.open(connection, self._who, self._masks, self.config.settings(), self._clock, self._meter)

    def _adopt(self, session: Session) -> None:
        self.session = session
        self.last_failure = None
        session.on_rehandshake_wanted = self._wanted.set
        _log.info("peer session", peer=session.peer_id, mode=session.mode, session=session.session_id[:8].hex())

    def _count(self, error: QkddError) -> None:
        self.last_failure = error
        self._meter.add("qkdd_peer_handshakes_total", peer=self.config.peer_id, result=error.code)
        self._meter.add("qkdd_errors_total", code=error.code)
        _log.info("peer attempt failed", peer=self.config.peer_id, **log.error_fields(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Door(asyncio.Protocol):
    """Takes a TCP connection and gives it to the link before a byte is read."""

    def __init__(self, link: PeerLink) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link.welcome(cast(asyncio.Transport, transport))


def _setup(kind: FrameType, body: Resume) -> tuple[bytes, bytes]:
    data = msgspec.msgpack.encode(body)
    return header(kind, 0, len(data)), data


def _resume_of(frame: Frame) -> Resume:
    try:
        return msgspec.msgpack.decode(frame.body, type=Resume)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a {frame.type.name} frame does not decode: {error}") from None
