"""Seals by themselves: what they cover, what they refuse, what a crash costs."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels
from qkdd.peer import ALICE_TO_BOB, BOB_TO_ALICE, AuthenticationFailed, MasksEmpty, auth, frames
from qkdd.peer.auth import Authenticator, AuthState, decide_mode
from qkdd.peer.errors import AuthStateMismatch
from qkdd.peer.frames import Frame, FrameDecoder, FrameType
from qkdd.testing.peer import MemoryMasks

KEYS = {"alice": mldsa.MLDSA65PrivateKey.generate(), "bob": mldsa.MLDSA87PrivateKey.generate()}
PHASE, BLOCK = "sift", 7


class Side:
    """An authenticator with the frames that it has sent."""

    def __init__(self, role: str, store: MemoryMasks, context: list[Any] | None = None) -> None:
        other = "bob" if role == "alice" else "alice"
        self.store, self.sequence = store, 0
        self.auth = Authenticator(
            role,
            context or [b"session", "a-b"],
            store,
            KEYS[role],
            KEYS[other].public_key(),  # type: ignore[arg-type]
        )

    def message(self, body: bytes) -> bytes:
        head = frames.header(FrameType.MESSAGE, self.sequence, len(body))
        self.sequence += 1
        self.auth.sent(head, body)
        return head + body

    def seal(self, phase: str = PHASE, block: int = BLOCK) -> bytes:
        head, body = self.auth.make(phase, block, self.sequence)
        self.sequence += 1
        return head + body

    def take(self, data: bytes) -> auth.ReceivedSeal:
        found: list[Frame] = FrameDecoder().feed(data)
        for frame in found[:-1]:
            self.auth.received(frame)
        return self.auth.arrived(found[-1])


def pair(masks: int = 0, contexts: tuple[Any, Any] = (None, None)) -> tuple[Side, Side]:
    stores = [MemoryMasks(b"seed", masks) if masks else MemoryMasks() for _ in range(2)]
    alice, bob = Side("alice", stores[0], contexts[0]), Side("bob", stores[1], contexts[1])
    alice.auth.start(alice.auth.state(), bob.auth.state())
    bob.auth.start(bob.auth.state(), alice.auth.state())
    return alice, bob


def exchange(alice: Side, bob: Side, bodies: tuple[bytes, ...] = (b"hello", b"")) -> auth.SealCost:
    to_bob = b"".join(alice.message(b) for b in bodies) + alice.seal()
    to_alice = bob.message(b"answer") + bob.seal()
    cost = bob.auth.settle(bob.take(to_bob), PHASE, BLOCK)
    alice.auth.settle(alice.take(to_alice), PHASE, BLOCK)
    return cost


@pytest.mark.parametrize("masks", [0, 40])
def test_seal_after_seal(masks: int) -> None:
    alice, bob = pair(masks)
    assert alice.auth.mode == ("wegman-carter" if masks else "ml-dsa")
    for _ in range(20):
        cost = exchange(alice, bob)
    assert (cost.epsilon > 0) is (masks > 0)
    assert alice.auth.masks_left == (masks - 20 if masks else None)


@pytest.mark.parametrize("masks", [0, 4])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), body=st.binary(min_size=1, max_size=100))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_anywhere_is_refused(masks: int, place: float, bit: int, body: bytes) -> None:
    """Frame headers, bodies, claims and the tag itself."""
    alice, bob = pair(masks)
    data = bytearray(alice.message(body) + alice.seal())
    bob.seal()
    data[int(place * len(data))] ^= 1 << bit
    with pytest.raises((AuthenticationFailed, frames.FrameGarbage, frames.VersionMismatch)):
        receive_one_and_seal(bob, bytes(data))


def receive_one_and_seal(bob: Side, data: bytes) -> None:
    found = FrameDecoder().feed(data)
    if len(found) != 2 or found[1].type is not FrameType.SEAL or found[0].type is FrameType.SEAL:
        raise AuthenticationFailed("the stream lost its shape: a session would wait in vain, or end")
    bob.auth.received(found[0])
    bob.auth.settle(bob.auth.arrived(found[1]), PHASE, BLOCK)


@pytest.mark.parametrize("masks", [0, 4])
def test_dropped_added_and_reordered_frames_are_refused(masks: int) -> None:
    for change in ("drop", "twice", "swap"):
        alice, bob = pair(masks)
        one, two, seal = alice.message(b"one"), alice.message(b"two"), alice.seal()
        bob.seal()
        stream = {"drop": one + seal, "twice": one + two + two + seal, "swap": two + one + seal}[change]
        with pytest.raises(AuthenticationFailed):
            bob.auth.settle(bob.take(stream), PHASE, BLOCK)


@pytest.mark.parametrize("masks", [0, 4])
def test_everything_that_is_bound_must_be_equal(masks: int) -> None:
    """Another session, another negotiation below, another phase or block."""
    for context in ([b"another session", "a-b"], [b"session", "a-c"]):
        alice, bob = pair(masks, (None, context))
        data = alice.seal()
        bob.seal()
        with pytest.raises(AuthenticationFailed):
            bob.auth.settle(bob.take(data), PHASE, BLOCK)
    for phase, block in (("amplify", BLOCK), (PHASE, BLOCK + 1)):
        alice, bob = pair(masks)
        data = alice.seal(phase, block)
        bob.seal()
        with pytest.raises(AuthenticationFailed, match="expected was"):
            bob.auth.settle(bob.take(data), PHASE, BLOCK)


@pytest.mark.parametrize("masks", [0, 4])
def test_a_seal_reflected_to_its_maker_is_refused(masks: int) -> None:
    alice, _bob = pair(masks)
    data = alice.seal()
    with pytest.raises(AuthenticationFailed):
        alice.auth.settle(alice.take(data), PHASE, BLOCK)


def test_tag_is_the_polynomial_hash_of_the_very_bytes() -> None:
    """No digest in between: recomputed from the wire's bytes with the kernel alone."""
    alice, bob = pair(8)
    data = alice.message(b"x" * 1000) + alice.seal()
    key, mask = bob.store.hash_key(), bob.store.mask(ALICE_TO_BOB, 0)
    assert key is not None
    prefix = Authenticator._prefix([b"session", "a-b"], ALICE_TO_BOB)
    digest = kernels.poly_hash(prefix + data[:-16], key.reveal())
    assert bytes(a ^ b for a, b in zip(digest, mask.reveal(), strict=True)) == data[-16:]


def test_first_key_changes_the_mode_on_both_sides_at_the_same_place() -> None:
    alice, bob = pair()
    exchange(alice, bob)
    alice.store.fill(b"first key", 50)
    assert exchange(alice, bob).mode == "ml-dsa"  # bob has none yet
    assert alice.auth.mode == bob.auth.mode == "ml-dsa"
    bob.store.fill(b"first key", 50)
    assert exchange(alice, bob).mode == "ml-dsa"  # the seal that tells of it
    assert alice.auth.mode == bob.auth.mode == "wegman-carter"
    assert exchange(alice, bob).mode == "wegman-carter"


def test_a_seal_in_the_old_mode_is_a_forgery() -> None:
    alice, bob = pair(8)
    alice.auth.mode = "ml-dsa"  # what a downgrade would look like
    alice.auth._sent.finish()
    alice.auth._begin()
    data = alice.seal()
    bob.seal()
    with pytest.raises(AuthenticationFailed, match="in mode ml-dsa"):
        bob.auth.settle(bob.take(data), PHASE, BLOCK)


def test_an_index_is_never_accepted_twice() -> None:
    alice, bob = pair(8)
    exchange(alice, bob)
    alice.auth._reserved = [0]  # a sender that lost its count
    with pytest.raises(KeyError):  # its own store does not give a spent mask again
        alice.seal()
    alice, bob = pair(8)
    exchange(alice, bob)
    bob.auth._last_index = 5
    data = alice.message(b"x") + alice.seal()
    bob.seal()
    with pytest.raises(AuthenticationFailed, match="after mask 5"):
        bob.auth.settle(bob.take(data), PHASE, BLOCK)


def test_a_crash_between_reserve_and_use_burns_the_batch() -> None:
    alice, bob = pair(100)
    exchange(alice, bob)
    after = alice.store.crash()
    assert after.reserve(ALICE_TO_BOB, 1) == range(auth.RESERVE_BATCH, auth.RESERVE_BATCH + 1)
    again = Side("alice", after, [b"next session"])
    fresh_bob = Side("bob", bob.store, [b"next session"])
    again.auth.start(again.auth.state(), fresh_bob.auth.state())
    fresh_bob.auth.start(fresh_bob.auth.state(), again.auth.state())
    assert exchange(again, fresh_bob).mode == "wegman-carter"
    assert fresh_bob.auth._last_index > auth.RESERVE_BATCH


def test_an_empty_pool_refuses_and_never_falls_back() -> None:
    alice, bob = pair(3)
    for _ in range(3):
        exchange(alice, bob)
    with pytest.raises(MasksEmpty):
        alice.auth.require(1)
    with pytest.raises(MasksEmpty):
        alice.seal()
    assert alice.auth.mode == "wegman-carter"
    with pytest.raises(MasksEmpty):  # and a refusal changes nothing: after a refill it goes on
        alice.seal()
    for side in (alice, bob):
        side.store.fill(b"refill", 10)
    assert exchange(alice, bob).mode == "wegman-carter"
    alice.store.rebootstrap()
    bob.store.rebootstrap()
    assert decide_mode(None, auth.auth_state(alice.store), auth.auth_state(bob.store)) == "ml-dsa"


def test_pools_of_the_two_directions_are_apart() -> None:
    store = MemoryMasks(b"seed", 4)
    masks = {direction: [store.mask(direction, i) for i in range(4)] for direction in (ALICE_TO_BOB, BOB_TO_ALICE)}
    values = {bytes(mask.reveal()) for pool in masks.values() for mask in pool}
    assert len(values) == 8


@given(*[st.builds(AuthState, st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 3))] * 2)
def test_both_nodes_come_to_the_same_mode(ours: AuthState, theirs: AuthState) -> None:
    def decide(a: AuthState, b: AuthState) -> str:
        try:
            return decide_mode(None, a, b)
        except AuthStateMismatch:
            return "refused"

    assert decide(ours, theirs) == decide(theirs, ours)
    if ours.established or theirs.established:
        assert decide(ours, theirs) != "ml-dsa"


def test_forging_probability() -> None:
    assert auth.forging_probability(0) == 2.0**-128
    assert auth.forging_probability(16) == 2.0**-127
    assert auth.forging_probability(10_000_000) == 625_001 * 2.0**-128
