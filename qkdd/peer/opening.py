"""How a session opens: both hellos, their judgement, and READY as the proof that both mean the same session."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import msgspec

from qkdd import __version__
from qkdd.core.clock import Clock
from qkdd.peer import frames, hello
from qkdd.peer.auth import Authenticator, auth_state
from qkdd.peer.contract import MaskStore, Role
from qkdd.peer.errors import FrameReplayed, ProtocolError
from qkdd.peer.frames import Frame, FrameType
from qkdd.peer.wire import Connection


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Deadlines in seconds: `silence` without any frame, `ping` between pings, `answer` of one awaited message, `hello` of
    the opening."""

    silence: float = 30.0
    ping: float = 5.0
    answer: float = 600.0
    hello: float = 15.0


class LinkIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is on this link. `shared` is the canonical form of [link.shared]: dotted key → value as text."""

    role: Role
    local_id: str
    peer_id: str
    link: str
    shared: Mapping[str, str]
    boot_id: bytes


class Opened(msgspec.Struct, frozen=True):
    """What an opening came to; the authenticator has absorbed all four frames."""

    terms: hello.Terms
    authenticator: Authenticator
    rtt: float


async def exchange(connection: Connection, who: LinkIdentity, store: MaskStore, clock: Clock) -> Opened:
    """Say hello, judge both hellos, be ready. Raises what `hello.agree` and `decide_mode` raise, FrameReplayed,
    ProtocolError, and why the connection was lost."""
    ours = hello.Hello(
        protocol_min=hello.PROTOCOL_MIN,
        protocol_max=hello.PROTOCOL_MAX,
        software=f"qkdd {__version__}",
        node_id=who.local_id,
        peer_id=who.peer_id,
        role=who.role,
        link=who.link,
        boot_id=who.boot_id,
        nonce=secrets.token_bytes(hello.NONCE_BYTES),
        capabilities=sorted(hello.CAPABILITIES),
        required=sorted(name for name, needed in hello.CAPABILITIES.items() if needed),
        shared=dict(who.shared),
        auth=auth_state(store),
    )
    sent = _frame(FrameType.HELLO, 0, hello.encode(ours))
    connection.wire.write(*sent)
    first = await _expect(connection, FrameType.HELLO, 0)
    facts = connection.facts
    theirs = hello.decode(first.body)
    terms = hello.agree(ours, theirs, facts.peer, facts.exporter)
    context: list[str | bytes] = [terms.session_id, who.link, facts.binding, terms.shared_hash]
    context += [who.local_id, who.peer_id] if who.role == "alice" else [who.peer_id, who.local_id]
    authenticator = Authenticator(who.role, context, store, facts.signing_key, facts.peer_key)
    authenticator.start(ours.auth, theirs.auth)
    ready = _frame(FrameType.READY, 1, terms.session_id)
    connection.wire.write(*ready)
    started = clock.monotonic()
    second = await _expect(connection, FrameType.READY, 1)
    if second.body != terms.session_id:
        raise ProtocolError("the other node is ready for another session than this one (old frames?)")
    authenticator.sent(*sent, *ready)
    authenticator.received(first)
    authenticator.received(second)
    return Opened(terms, authenticator, clock.monotonic() - started)


def _frame(kind: FrameType, sequence: int, body: bytes) -> tuple[bytes, bytes]:
    return frames.header(kind, sequence, len(body)), body


async def _expect(connection: Connection, kind: FrameType, sequence: int) -> Frame:
    frame = await connection.next()
    if frame.sequence != sequence:
        raise FrameReplayed(f"frame {frame.sequence} arrived, {sequence} was due", got=frame.sequence, due=sequence)
    if frame.type is not kind:
        raise ProtocolError(f"a {frame.type.name} frame arrived where {kind.name} was expected")
    return frame
