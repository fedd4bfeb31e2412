"""The first words of a session: versions, capabilities, who is who, and whether the shared configuration is the same.

Each node sends its Hello and then judges both, so both come to the same refusal and both say it. A Hello is a msgpack map in
which unknown keys are allowed: a newer node can say more, and an older one still understands enough to refuse it by version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from qkdd.peer.auth import AuthState
from qkdd.peer.contract import Role
from qkdd.peer.errors import CertIdentity, ConfigMismatch, FrameGarbage, ProtocolError, RoleMismatch, VersionMismatch

PROTOCOL_MIN, PROTOCOL_MAX = 3, 3
NONCE_BYTES = 32

# capability → whether both nodes must have it. What is optional is used only when both have it.
CAPABILITIES: dict[str, bool] = {
    "seal.phase": True,  # tags over all bytes since the last tag
    "auth.pqc-then-its": True,  # ML-DSA, then Wegman-Carter from the first key on
    "tls.make-before-break": False,  # a new TLS connection takes over a running session
}


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says first. `boot_id` changes when its process starts anew; `shared` is the canonical form of
    [link.shared]."""

    protocol_min: int
    protocol_max: int
    software: str
    node_id: str
    peer_id: str
    role: str
    link: str
    boot_id: bytes
    nonce: bytes
    capabilities: list[str]
    required: list[str]
    shared: dict[str, str]
    auth: AuthState


class Terms(msgspec.Struct, frozen=True):
    """What the two hellos come to."""

    protocol: int
    capabilities: frozenset[str]
    shared_hash: bytes
    session_id: bytes


def encode(hello: Hello) -> bytes:
    return msgspec.msgpack.encode(hello)


def decode(body: bytes) -> Hello:
    """Raises FrameGarbage."""
    try:
        hello = msgspec.msgpack.decode(body, type=Hello)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameGarbage(f"the other node's hello does not decode: {error}") from None
    if len(hello.nonce) != NONCE_BYTES:
        raise FrameGarbage("the other node's hello has a nonce of another size")
    return hello


def shared_hash(shared: Mapping[str, str]) -> bytes:
    """SHA-256 over the sorted pairs, each with its lengths."""
    return hashlib.sha256(msgspec.msgpack.encode(sorted(shared.items()))).digest()


def agree(ours: Hello, theirs: Hello, tls_peer: str, exporter: bytes) -> Terms:
    """Judge the two hellos; `tls_peer` is the identity in the other end's certificate.

    Raises VersionMismatch, CertIdentity, RoleMismatch, ConfigMismatch (naming the first differing key with both values),
    ProtocolError.
    """
    protocol = min(ours.protocol_max, theirs.protocol_max)
    if protocol < max(ours.protocol_min, theirs.protocol_min):
        raise VersionMismatch(
            f"the other node ({theirs.software}) speaks protocol {theirs.protocol_min} to {theirs.protocol_max}, "
            f"this node ({ours.software}) {ours.protocol_min} to {ours.protocol_max}",
            theirs=f"{theirs.protocol_min}-{theirs.protocol_max}",
            ours=f"{ours.protocol_min}-{ours.protocol_max}",
        )
    common = frozenset(ours.capabilities) & frozenset(theirs.capabilities)
    for wants, who in ((theirs, "the other node"), (ours, "this node")):
        for name in sorted(set(wants.required) - common):
            raise VersionMismatch(
                f"{who} requires the capability {name!r}, which the two do not have in common", capability=name
            )
    if theirs.node_id != tls_peer or theirs.node_id != ours.peer_id:
        raise CertIdentity(
            f"the other node calls itself {theirs.node_id!r}, its certificate says {tls_peer!r}, configured is {ours.peer_id!r}"
        )
    if theirs.peer_id != ours.node_id:
        raise RoleMismatch(f"the other node expects {theirs.peer_id!r} as its peer, this node is {ours.node_id!r}")
    if {ours.role, theirs.role} != {"alice", "bob"}:
        raise RoleMismatch(f"this node has role {ours.role!r}, the other {theirs.role!r}")
    if ours.link != theirs.link:
        raise RoleMismatch(f"this node's link is {ours.link!r}, the other's {theirs.link!r}")
    compare_shared(ours.shared, theirs.shared)
    if ours.nonce == theirs.nonce:
        raise ProtocolError("the other node sent this node's own hello back")
    alice, bob = (ours, theirs) if ours.role == "alice" else (theirs, ours)
    session_id = hashlib.sha256(
        msgspec.msgpack.encode(["qkdd-peer session", protocol, alice.nonce, bob.nonce, exporter])
    ).digest()
    return Terms(protocol, common, shared_hash(ours.shared), session_id)


def compare_shared(ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    """Raises ConfigMismatch naming the first differing key (in sorted order) with both values."""
    if shared_hash(ours) == shared_hash(theirs):
        return
    for key in sorted({*ours, *theirs}):
        here, there = ours.get(key), theirs.get(key)
        if here != there:
            raise ConfigMismatch(
                f"[link.shared] {key}: here {_shown(here)}, on the other node {_shown(there)}",
                key=key,
                here=here,
                there=there,
            )


def _shown(value: str | None) -> str:
    return "absent" if value is None else repr(value[:200])


def opposite(role: Role) -> Role:
    return "bob" if role == "alice" else "alice"
