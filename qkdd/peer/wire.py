"""A wire carries bytes to the other node and back: over TLS here, joined in memory in `qkdd.testing.peer`.

`Connection` puts the frame decoder on a wire and hands frames to whoever owns it at the moment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import msgspec

from qkdd.core.errors import QkddError
from qkdd.peer import tls
from qkdd.peer.certificates import MLDSAPrivateKey, MLDSAPublicKey
from qkdd.peer.contract import Role
from qkdd.peer.errors import CertPurpose, PeerClosed, PeerError
from qkdd.peer.frames import Frame, FrameDecoder
from qkdd.peer.tls_errors import explain

_PIECE = 1 << 18  # bytes that go to the transport at once
OnBytes = Callable[[bytes], None]
OnLost = Callable[[QkddError], None]


class Wire(Protocol):
    """Bytes both ways. `attach` is called once, before any byte is delivered."""

    def attach(self, on_bytes: OnBytes, on_lost: OnLost) -> None: ...

    def write(self, *parts: bytes) -> None: ...

    async def drain(self) -> None:
        """Wait until the other side has read enough."""

    def close(self) -> None:
        """Send what was written and end; idempotent."""

    def drop(self) -> None:
        """End at once; what was not sent is lost."""


class ChannelFacts(msgspec.Struct, frozen=True):
    """What is known of a connection below the frames. `binding` is equal on both ends and names all that was negotiated;
    the keys make and verify seals in mode ml-dsa."""

    peer: str
    binding: bytes
    exporter: bytes
    signing_key: MLDSAPrivateKey
    peer_key: MLDSAPublicKey


def facts_of(transport: asyncio.BaseTransport, role: Role) -> ChannelFacts:
    """Facts of a TLS transport. Raises CertPurpose unless both certificates carry ML-DSA keys."""
    found = tls.negotiated(transport)
    exporter = tls.exporter(transport, "EXPORTER-qkdd-peer-1")
    context = cast(tls.TlsContext, transport.get_extra_info("ssl_object").context)
    ours, theirs = context.material.key, tls.peer_certificate(transport).public_key()
    if not isinstance(ours, MLDSAPrivateKey) or not isinstance(theirs, MLDSAPublicKey):
        raise CertPurpose("the peer channel needs ML-DSA certificates on both ends")
    ends = [
        (found.local_signature, found.local_certificate),
        (found.signature, found.peer_chain[0] if found.peer_chain else ""),
    ]
    alice, bob = ends if role == "alice" else reversed(ends)
    binding = msgspec.msgpack.encode([found.version, found.group, found.cipher, *alice, *bob, exporter])
    return ChannelFacts(found.peer, binding, exporter, ours, theirs)


class TlsWire(asyncio.Protocol):
    """A wire over an asyncio transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._on_bytes: OnBytes | None = None
        self._on_lost: OnLost | None = None
        self._lost: QkddError | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._rest: deque[memoryview] = deque()  # what the transport has not taken yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._on_bytes is None:
            self._early.append(data)
        else:
            self._on_bytes(data)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = PeerClosed("the other node closed the connection") if exc is None else explain(exc, "peer")
        self._rest.clear()
        self._writable.set()
        if self._on_lost is not None:
            self._on_lost(self._lost)

    def attach(self, on_bytes: OnBytes, on_lost: OnLost) -> None:
        self._on_bytes, self._on_lost = on_bytes, on_lost
        early, self._early = self._early, []
        for data in early:
            on_bytes(data)
        if self._lost is not None:
            on_lost(self._lost)

    def write(self, *parts: bytes) -> None:
        """Large parts go in pieces: megabytes at once cost the TLS layer ten times as much a byte (decision 0118)."""
        if self.transport is None or self._lost is not None:
            return
        if sum(map(len, parts)) <= _PIECE:
            self._rest.append(memoryview(b"".join(parts)))
        else:
            for part in parts:
                view = memoryview(part)
                self._rest.extend(view[i : i + _PIECE] for i in range(0, len(part), _PIECE))
        self._pump()

    def _pump(self) -> None:
        while self._rest and self._writable.is_set() and self.transport is not None:
            self.transport.write(self._rest.popleft())

    async def drain(self) -> None:
        while not self._writable.is_set():
            await self._writable.wait()

    def close(self) -> None:
        if self.transport is not None:
            while self._rest:
                self.transport.write(self._rest.popleft())
            self.transport.close()

    def drop(self) -> None:
        self._rest.clear()
        if self.transport is not None:
            self.transport.abort()


class Connection:
    """A wire with its frame decoder. Frames go to `on_frame`, or are kept until somebody takes the connection over."""

    def __init__(self, wire: Wire, facts: ChannelFacts) -> None:
        self.wire = wire
        self.facts = facts
        self.lost: QkddError | None = None
        self.received_bytes = 0
        self._decoder = FrameDecoder()
        self._kept: deque[Frame] = deque()
        self._on_frame: Callable[[Frame], None] | None = None
        self._on_lost: OnLost | None = None
        self._arrived = asyncio.Event()
        wire.attach(self._bytes, self._gone)

    def _bytes(self, data: bytes) -> None:
        if self.lost is not None:
            return
        self.received_bytes += len(data)
        try:
            frames = self._decoder.feed(data)
        except PeerError as error:
            self._gone(error)
            self.wire.close()
            return
        for frame in frames:
            if self._on_frame is None:
                self._kept.append(frame)
                self._arrived.set()
            else:
                self._on_frame(frame)

    def _gone(self, error: QkddError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        self._arrived.set()
        if self._on_lost is not None:
            self._on_lost(error)

    async def next(self) -> Frame:
        """The next frame, while nobody has taken the connection over. Raises why the connection was lost."""
        await self.peek()
        return self._kept.popleft()

    async def peek(self) -> Frame:
        """As `next`, and the frame stays where it is."""
        while not self._kept:
            if self.lost is not None:
                raise self.lost
            self._arrived.clear()
            await self._arrived.wait()
        return self._kept[0]

    def take_over(self, on_frame: Callable[[Frame], None], on_lost: OnLost) -> None:
        """From now on frames go to `on_frame`, beginning with those that were kept."""
        self._on_lost = on_lost
        while self._kept:
            on_frame(self._kept.popleft())
        self._on_frame = on_frame
        if self.lost is not None:
            on_lost(self.lost)
