"""What the two nodes say while they distil one block. Bits and bit maps are packed, most significant bit first; unused bits
of the last byte are zero."""

from __future__ import annotations

from qkdd.peer import Message


class BlockMessage(Message, frozen=True):
    """Base: every message names its block."""

    block: int


class Plan(BlockMessage, frozen=True, tag="distill.plan"):
    """alice → bob: her plan, for bob to compare with his own (see `BlockPlan`)."""

    proof: str
    m: int
    k: int
    n: int
    tolerated_error: float
    leak_budget: int
    tag_bits: int
    length: int
    nu: float
    xi: float
    eps_pe: float
    eps_pa: float
    eps_sec: float
    eps_cor: float
    eps_auth: float
    auth_bits: int
    method: str
    ldpc_frame: int
    reason: str
    refusal: str


class TestSubset(BlockMessage, frozen=True, tag="distill.test-subset"):
    """alice → bob: which k of the m positions are opened (`kernels.pack_subset`)."""

    __test__ = False  # the name begins with Test; pytest must not collect it

    subset: bytes


class TestBits(BlockMessage, frozen=True, tag="distill.test-bits"):
    """Both ways: the sender's bits at the opened positions."""

    __test__ = False

    bits: bytes


class ReconcileSeed(BlockMessage, frozen=True, tag="distill.reconcile-seed"):
    """alice → bob: seed of Cascade's permutations (32 bytes, public), lanes, and frames in flight in each."""

    seed: bytes
    lanes: int
    in_flight: int


class Parities(BlockMessage, frozen=True, tag="distill.parities"):
    """Both ways in each round of a lane: the sender's parities of the ranges that both nodes know to be next."""

    lane: int
    round: int
    bits: bytes


class Syndromes(BlockMessage, frozen=True, tag="distill.syndromes"):
    """alice → bob, up to 32 LDPC frames a message: in round 0 the syndromes of all frames in their order, later, of those that
    failed, private bits of punctured positions or the syndromes of more rows."""

    round: int
    bits: bytes


class Decoded(BlockMessage, frozen=True, tag="distill.decoded"):
    """bob → alice: which of the frames of this round failed (bit map), and how many errors he has corrected so far."""

    round: int
    failed: bytes
    errors: int


class KeyTag(BlockMessage, frozen=True, tag="distill.key-tag"):
    """alice → bob: fresh hash key and polynomial hash of her key (16 bytes each)."""

    hash_key: bytes
    tag: bytes


class Verdict(BlockMessage, frozen=True, tag="distill.verdict"):
    """bob → alice: whether his corrected key has the same hash."""

    equal: bool


class AmplifySeed(BlockMessage, frozen=True, tag="distill.amplify-seed"):
    """bob → alice: seed of the Toeplitz matrix, n - 1 bits (see `qkdd.distill.amplify`)."""

    seed: bytes


class Amplified(BlockMessage, frozen=True, tag="distill.amplified"):
    """alice → bob: the seed arrived whole."""
