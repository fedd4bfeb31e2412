"""What the two nodes say more while they distil a block of pulses. Bits are packed as in `qkdd.distill.messages`."""

from __future__ import annotations

from qkdd.distill.messages import BlockMessage


class DecoyPlan(BlockMessage, frozen=True, tag="distill.decoy-plan"):
    """alice → bob: her counts and plan, for bob to compare with his own; measured: mean photon numbers of this block, or empty.

    sample_errors of sample_size: what the leak budget rests on; size 0: the block's own test errors. The thresholds of a
    fixed-length block are 0 in other modes.
    """

    proof: str
    pulses: int
    n_key: tuple[int, ...]
    n_test: tuple[int, ...]
    measured: tuple[float, ...]
    sample_errors: int
    sample_size: int
    eps_sec: float
    eps_cor: float
    eps_auth: float
    fixed_n_key: int
    s_key_1_min: float
    phi_max: float
    leak_max: float
    fixed_length: int


class KeySubset(BlockMessage, frozen=True, tag="distill.key-subset"):
    """alice → bob, fixed length only: which detections of the key basis make key (bit map over them)."""

    subset: bytes


class DecoyTest(BlockMessage, frozen=True, tag="distill.decoy-test"):
    """Both ways: the sender's bits of the whole test basis."""

    bits: bytes


class KeyErrors(BlockMessage, frozen=True, tag="distill.key-errors"):
    """bob → alice, one-decoy modes: errors that he corrected in the verified key, per intensity."""

    errors: tuple[int, ...]


class DecoyOutcome(BlockMessage, frozen=True, tag="distill.decoy-outcome"):
    """alice → bob: what she computed; bob compares every field with his own."""

    m_test: tuple[int, ...]
    m_key: tuple[int, ...]
    leak: int
    length: int
    reason: str
