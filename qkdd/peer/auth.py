"""Authentication of everything the two nodes say: ML-DSA until the first key, Wegman-Carter tags from then on.

A seal covers, for one direction: a prefix (protocol, session, direction, both ids, link, what TLS negotiated, hash of the
shared configuration), every byte of every frame since that direction's last seal (headers with their sequence numbers too),
and the seal's own header and claims (phase, block, counter, mode, mask index). There is no digest in between.

Mode "wegman-carter": tag = PolyHash_r(covered bytes) XOR mask, in GF(2^128) (Wegman and Carter, JCSS 22, 265 (1981); the hash
key r is reused, each mask is used once: Portmann, IEEE Trans. Inf. Theory 60, 4383 (2014)). Forging probability per tag:
`forging_probability`. Mode "ml-dsa": an ML-DSA signature (FIPS 204) with context string `CONTEXT`.

The mode of the next interval follows from the claims that both sides exchanged in the seal before (or in the hello), so both
always agree; it only ever changes from ml-dsa to wegman-carter. A seal in any other mode than the agreed one is a forgery.
"""

from __future__ import annotations

import hmac

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa

from qkdd import kernels
from qkdd.core.secret import ByteLike, Secret
from qkdd.peer.certificates import MLDSAPrivateKey, MLDSAPublicKey
from qkdd.peer.contract import ALICE_TO_BOB, BOB_TO_ALICE, HASH_KEY_BYTES, MASK_BYTES, AuthMode, MaskStore, Role
from qkdd.peer.errors import AuthenticationFailed, AuthStateMismatch, MasksEmpty
from qkdd.peer.frames import Frame, FrameType, header

CONTEXT = b"qkdd-peer/1 seal"
RESERVE_BATCH = 16  # two blocks: one durable write pays for sixteen tags, a crash burns at most these
_SIGNATURE_BYTES = {mldsa.MLDSA44PublicKey: 2420, mldsa.MLDSA65PublicKey: 3309, mldsa.MLDSA87PublicKey: 4627}


def forging_probability(covered_bytes: int) -> float:
    """Probability that one forged tag over a message of this length is accepted: degree of the polynomial over 2^128."""
    return (-(-covered_bytes // 16) + 1) * 2.0**-128


class AuthState(msgspec.Struct, frozen=True, array_like=True):
    """What a node says about its masks, in the hello and in every seal: has a hash key, has ever used a mask, masks left in
    either direction (its own view)."""

    ready: bool
    established: bool
    alice_to_bob: int
    bob_to_alice: int


class Claims(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a seal says beside its tag. `index` is -1 in mode ml-dsa; `counter` counts the direction's seals in the session."""

    phase: str
    block: int
    counter: int
    mode: AuthMode
    index: int
    state: AuthState


class ReceivedSeal(msgspec.Struct, frozen=True):
    """A seal that arrived, with the digest of what it should cover taken at its place in the stream."""

    claims: Claims
    tag: bytes
    digest: bytes
    covered_bytes: int
    place: int  # how many seals of this direction came before


class SealCost(msgspec.Struct, frozen=True):
    """What a verified exchange of seals was: its mode, the forging probability of both tags, bytes that each covers."""

    mode: AuthMode
    epsilon: float
    sent_bytes: int
    received_bytes: int


class _Muhash:
    """ML-DSA's own message representative, streamed (FIPS 204, external mu)."""

    def __init__(self, public_key: MLDSAPublicKey) -> None:
        self._hasher = mldsa.MLDSAMuHasher(public_key, CONTEXT)

    def update(self, data: ByteLike) -> None:
        self._hasher.update(data)

    def finish(self) -> bytes:
        return bytes(self._hasher.finalize())


class _PolyHash:
    def __init__(self, key: ByteLike) -> None:
        self._hasher = kernels.PolyHash(key)

    def update(self, data: ByteLike) -> None:
        self._hasher.update(data)

    def finish(self) -> bytes:
        return self._hasher.digest()


def claimed_length(public_key: MLDSAPublicKey, mode: AuthMode) -> int:
    """Length of a tag in bytes."""
    if mode == "wegman-carter":
        return MASK_BYTES
    return next(size for kind, size in _SIGNATURE_BYTES.items() if isinstance(public_key, kind))


def decide_mode(current: AuthMode | None, ours: AuthState, theirs: AuthState) -> AuthMode:
    """The mode both nodes come to from the two states. `current` is None at a session's start.

    Raises AuthStateMismatch when one node has used its masks and the other has none any more.
    """
    if current == "wegman-carter":
        return current
    if (ours.established or theirs.established) and not (ours.ready and theirs.ready):
        who = "this node" if not ours.ready else "the other node"
        raise AuthStateMismatch(f"{who} has lost the masks that the two nodes had established")
    if ours.established or theirs.established:
        return "wegman-carter"
    both = (ours, theirs)
    paid = all(s.ready and s.alice_to_bob > 0 and s.bob_to_alice > 0 for s in both)
    return "wegman-carter" if paid else "ml-dsa"


class _Direction:
    """The bytes of one direction since its last seal. Until the mode of the interval is known they are kept."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.counter = 0
        self.covered_bytes = 0
        self._hasher: _Muhash | _PolyHash | None = None
        self._kept: list[ByteLike] = []

    def begin(self, hasher: _Muhash | _PolyHash) -> None:
        """Start an interval with what was kept since the last one ended."""
        kept, self._kept = self._kept, []
        hasher.update(self.prefix)
        self.covered_bytes = len(self.prefix)
        self._hasher = hasher
        for data in kept:
            self.absorb(data)

    def absorb(self, data: ByteLike) -> None:
        if self._hasher is None:
            self._kept.append(data)
        else:
            self._hasher.update(data)
            self.covered_bytes += len(data)

    @property
    def undecided(self) -> bool:
        return self._hasher is None

    def finish(self) -> bytes:
        """End the interval; what comes next belongs to the one after."""
        if self._hasher is None:
            raise AuthenticationFailed("a second seal arrived before the first was answered")
        digest = self._hasher.finish()
        self._hasher = None
        self.counter += 1
        return digest


class Authenticator:
    """Seals of both directions of one session, sans-I/O.

    `context` is bound into every seal and must be equal on both sides. All bytes of all frames are absorbed in their order;
    `make` returns the seal frame to send, `arrived` takes the one of the other side at its place in the stream, `settle`
    verifies it and decides the mode of what follows.
    """

    def __init__(
        self,
        role: Role,
        context: list[str | bytes],
        store: MaskStore,
        signing_key: MLDSAPrivateKey,
        peer_key: MLDSAPublicKey,
    ) -> None:
        self._sending = ALICE_TO_BOB if role == "alice" else BOB_TO_ALICE
        self._receiving = BOB_TO_ALICE if role == "alice" else ALICE_TO_BOB
        self._store = store
        self._signing_key, self._peer_key = signing_key, peer_key
        self._sent = _Direction(self._prefix(context, self._sending))
        self._received = _Direction(self._prefix(context, self._receiving))
        self._reserved: list[int] = []
        self._last_index = -1
        self._made: Claims | None = None
        self._sent_bytes = 0
        self.mode: AuthMode = "ml-dsa"

    @staticmethod
    def _prefix(context: list[str | bytes], direction: str) -> bytes:
        body = msgspec.msgpack.encode([CONTEXT, direction, *context])
        return len(body).to_bytes(4, "big") + body

    def state(self) -> AuthState:
        """What this node says of its masks now."""
        return auth_state(self._store, **{self._sending: len(self._reserved)})

    def start(self, ours: AuthState, theirs: AuthState) -> None:
        """Decide the first mode from the two hellos. Raises AuthStateMismatch."""
        self.mode = decide_mode(None, ours, theirs)
        self._begin()

    def _begin(self) -> None:
        for direction, key in ((self._sent, self._signing_key.public_key()), (self._received, self._peer_key)):
            if direction.undecided:
                direction.begin(self._hasher(key))

    def _hasher(self, signer: MLDSAPublicKey) -> _Muhash | _PolyHash:
        if self.mode == "ml-dsa":
            return _Muhash(signer)
        key = self._store.hash_key()
        if key is None or len(key) != HASH_KEY_BYTES:
            raise AuthStateMismatch("the hash key of the established authentication is gone")
        return _PolyHash(key.reveal())

    def sent(self, *parts: ByteLike) -> None:
        for part in parts:
            self._sent.absorb(part)

    def received(self, frame: Frame) -> None:
        self._received.absorb(frame.header)
        self._received.absorb(frame.body)

    # masks -----------------------------------------------------------------------------------------------------------

    @property
    def masks_left(self) -> int | None:
        if self.mode == "ml-dsa":
            return None
        ours = self._store.available(self._sending) + len(self._reserved)
        return min(ours, self._store.available(self._receiving))

    def require(self, seals: int) -> None:
        left = self.masks_left
        if left is not None and left < seals:
            raise MasksEmpty(f"{left} one-time masks are left, {seals} are needed", left=left, needed=seals)

    def _next_mask(self) -> tuple[int, Secret]:
        if not self._reserved:
            self._reserved = list(self._store.reserve(self._sending, RESERVE_BATCH))
        if not self._reserved:
            raise MasksEmpty("no one-time mask is left to authenticate with", left=0, needed=1)
        index = self._reserved.pop(0)
        return index, self._store.mask(self._sending, index)

    # seals -----------------------------------------------------------------------------------------------------------

    def make(self, phase: str, block: int, sequence: int) -> tuple[bytes, bytes]:
        """Header and body of our seal frame; everything sent before it is covered. Raises MasksEmpty before any change."""
        state = self.state()
        index, mask = self._next_mask() if self.mode == "wegman-carter" else (-1, None)
        claims = Claims(phase, block, self._sent.counter, self.mode, index, state)
        text = msgspec.msgpack.encode(claims)
        size = claimed_length(self._signing_key.public_key(), self.mode)
        head = header(FrameType.SEAL, sequence, 2 + len(text) + size)
        self.sent(head, len(text).to_bytes(2, "big"), text)
        self._sent_bytes = self._sent.covered_bytes
        digest = self._sent.finish()
        self._made = claims
        if mask is None:
            tag = self._signing_key.sign_mu(digest)
        else:
            tag = _xor(digest, mask.reveal())
            self._store.spent(self._sending, index)
        return head, len(text).to_bytes(2, "big") + text + tag

    def arrived(self, frame: Frame) -> ReceivedSeal:
        """Take the other side's seal frame in its place. Raises AuthenticationFailed if it is not even shaped like one."""
        size = int.from_bytes(frame.body[:2], "big")
        text, tag = frame.body[2 : 2 + size], frame.body[2 + size :]
        try:
            claims = msgspec.msgpack.decode(text, type=Claims)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise AuthenticationFailed("a seal arrived whose claims do not decode") from None
        self._received.absorb(frame.header)
        self._received.absorb(frame.body[: 2 + size])
        covered = self._received.covered_bytes
        place = self._received.counter
        return ReceivedSeal(claims, tag, self._received.finish(), covered, place)

    def settle(self, seal: ReceivedSeal, phase: str, block: int) -> SealCost:
        """Verify the other side's seal after ours was made, and decide the mode of the next interval.

        Returns what both tags cover and their forging probability. Raises AuthenticationFailed; the session must end then.
        """
        made = self._made
        if made is None:
            raise AuthenticationFailed("a seal arrived although none was asked for")
        claims = seal.claims
        expected = (phase, block, seal.place, self.mode)
        if (claims.phase, claims.block, claims.counter, claims.mode) != expected:
            raise AuthenticationFailed(
                f"the other node sealed {claims.phase}/{claims.block}/{claims.counter} in mode {claims.mode}, "
                f"expected was {phase}/{block}/{seal.place} in mode {self.mode}"
            )
        if self.mode == "ml-dsa":
            self._verify_signature(seal)
            epsilon = 0.0
        else:
            self._verify_tag(seal)
            epsilon = forging_probability(seal.covered_bytes) + forging_probability(self._sent_bytes)
        cost = SealCost(self.mode, epsilon, self._sent_bytes, seal.covered_bytes)
        self._made = None
        self.mode = decide_mode(self.mode, made.state, claims.state)
        self._begin()
        return cost

    def drop_round(self) -> None:
        """A block was aborted: half-made seals count for nothing, the mode stays, new intervals begin."""
        self._made = None
        self._begin()

    def _verify_signature(self, seal: ReceivedSeal) -> None:
        try:
            self._peer_key.verify_mu(seal.tag, seal.digest)
        except (InvalidSignature, ValueError):
            raise AuthenticationFailed("the other node's signature over the messages does not verify") from None

    def _verify_tag(self, seal: ReceivedSeal) -> None:
        index = seal.claims.index
        if index <= self._last_index:
            raise AuthenticationFailed(f"the other node used mask {index} after mask {self._last_index}", index=index)
        try:
            mask = self._store.mask(self._receiving, index)
        except KeyError:
            raise AuthenticationFailed(
                f"the other node used mask {index}, which is not in the pool", index=index
            ) from None
        if not hmac.compare_digest(_xor(seal.digest, mask.reveal()), seal.tag):
            raise AuthenticationFailed("the other node's tag over the messages does not verify", index=index)
        self._last_index = index
        self._store.spent(self._receiving, index)


def auth_state(store: MaskStore, **reserved: int) -> AuthState:
    """State of a mask store as it is told to the other node; `reserved` adds what is taken but not used, by direction."""
    return AuthState(
        ready=store.hash_key() is not None,
        established=store.established,
        alice_to_bob=store.available(ALICE_TO_BOB) + reserved.get(ALICE_TO_BOB, 0),
        bob_to_alice=store.available(BOB_TO_ALICE) + reserved.get(BOB_TO_ALICE, 0),
    )


def _xor(left: ByteLike, right: ByteLike) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
