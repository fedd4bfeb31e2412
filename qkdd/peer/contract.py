"""What other rooms see of the peer room: messages, the session with the other node, and the masks it is paid with.

`distill`, `link` and `keys` program against these; `qkdd.peer.session.Session` implements PeerSession over TLS, and
`qkdd.testing.peer.session_pair` gives two of them joined in memory for tests.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeVar

import msgspec

from qkdd.core.errors import QkddError
from qkdd.core.secret import Secret

Role = Literal["alice", "bob"]
AuthMode = Literal["ml-dsa", "wegman-carter"]

ALICE_TO_BOB = "alice→bob"
BOB_TO_ALICE = "bob→alice"
DIRECTIONS = (ALICE_TO_BOB, BOB_TO_ALICE)

MASK_BYTES = 16
HASH_KEY_BYTES = 16


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag=True):
    """Base of everything that goes over the data channel.

    A room declares `class Announce(Message, frozen=True, tag="link.announce")` (frozen must be repeated only for type
    checkers; it is inherited) with plain fields; binary fields are `bytes`. The tag is `room.name` and unique. Decoding is
    strict: a wrong type, a missing or an extra field is a ProtocolError.
    """


M = TypeVar("M", bound=Message)


class Seal(msgspec.Struct, frozen=True):
    """Receipt of a seal that both sides verified. `epsilon` is the forging probability of both directions together
    (0.0 in mode ml-dsa, whose security is computational); bytes count everything the tags cover."""

    phase: str
    block: int
    mode: AuthMode
    epsilon: float
    sent_bytes: int
    received_bytes: int


class PeerSession(Protocol):
    """One authenticated session with the other node. One task uses it at a time.

    Errors of every call: PeerClosed, PeerSilent, ProtocolError (the session is over: the supervisor reconnects).
    """

    @property
    def role(self) -> Role: ...
    @property
    def local_id(self) -> str: ...
    @property
    def peer_id(self) -> str: ...
    @property
    def session_id(self) -> bytes:
        """32 bytes, equal on both sides, different in every session."""

    @property
    def mode(self) -> AuthMode:
        """How the seal that comes next is made."""

    @property
    def rtt(self) -> float:
        """Round-trip time of the classical channel, seconds."""

    @property
    def masks_left(self) -> int | None:
        """Seals that can still be paid for (the scarcer direction); None while in mode ml-dsa."""

    def require_masks(self, seals: int) -> None:
        """Raises MasksEmpty if fewer than `seals` seals can be paid for: call before a block starts."""

    async def send(self, message: Message) -> None:
        """Send one message; it is covered by the next seal. Waits while the other side does not read."""

    async def receive(self, kind: type[M], *, timeout: float | None = None) -> M:
        """The next message, which must be of this kind.

        Raises ProtocolError if it is of another kind (the session stays open so that the caller can abort the block),
        PeerAborted if the other node aborted (nothing more to do: do not call abort), PeerSilent after `timeout`
        (default: the session's answer deadline).
        """

    async def seal(self, phase: str, block: int) -> Seal:
        """Exchange and verify tags over all bytes of both directions since the last seal.

        Raises AuthenticationFailed (QKD-BLK-AUTH: discard the block and call abort with it), PeerAborted, MasksEmpty.
        """

    async def abort(self, error: QkddError) -> None:
        """Discard the block on both sides: tell the other node `error.code` and skip what it still sends of this block.

        After it both sides are at the same place and the next block can begin. Does nothing for a PeerAborted, which the
        session has answered already. Costs at most one round trip.
        """

    async def close(self) -> None:
        """Say goodbye and end the session; idempotent."""


class MaskStore(Protocol):
    """One-time masks and the hash key of Wegman-Carter authentication, durable (implemented by `keys`).

    A direction is ALICE_TO_BOB or BOB_TO_ALICE; each has its own pool, equal on both nodes, with indices from 0 up. A node
    reserves in the direction it sends and only looks up in the other.
    """

    def hash_key(self) -> Secret | None:
        """The 16-byte key of the polynomial hash; None before the first accepted block."""

    def available(self, direction: str) -> int:
        """Masks that are neither reserved nor spent."""

    def reserve(self, direction: str, count: int) -> range:
        """Take the next `count` indices (fewer if fewer are there, an empty range if none). Durable before it returns:
        after a crash these are never given out again."""

    def mask(self, direction: str, index: int) -> Secret:
        """The 16-byte mask. Raises KeyError when the index was never filled or is already wiped."""

    def spent(self, direction: str, index: int) -> None:
        """Indices up to and including this one are used: in the receiving direction they no longer count as available.
        Also marks the store as established. May become durable later than it returns."""

    @property
    def established(self) -> bool:
        """True once any mask was reserved or spent: from then on there is no way back to ML-DSA but `rebootstrap`."""

    def rebootstrap(self) -> None:
        """Operator action: forget hash key and masks, so that the next session starts with ML-DSA."""
