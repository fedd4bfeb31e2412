"""Messages of the two-phase commit. None carries a bit of the key or a digest of it."""

from __future__ import annotations

from qkdd.peer import Message


class Prepare(Message, frozen=True, tag="keys.prepare"):
    """alice → bob, after her durable write. `masks_total`: masks ever filled per direction before this block."""

    sequence: int
    block_id: bytes
    number: int
    size: int  # bytes of key
    first: bool  # the head begins with the hash key
    masks: int  # in each direction, cut from the head
    masks_total: int


class Prepared(Message, frozen=True, tag="keys.prepared"):
    """bob → alice, after his durable write."""

    block_id: bytes


class Commit(Message, frozen=True, tag="keys.commit"):
    """alice → bob: her decision, durable."""

    block_id: bytes


class Committed(Message, frozen=True, tag="keys.committed"):
    """bob → alice: he wrote her decision down."""

    block_id: bytes


class Settle(Message, frozen=True, tag="keys.settle"):
    """Both ways, first thing in a session: the blocks that this side is in doubt about, oldest first."""

    last_sequence: int
    masks_total: int
    ids: tuple[bytes, ...]


class SettleStates(Message, frozen=True, tag="keys.settle-states"):
    """Both ways: this side's state of each block that the other one asked for; "unknown" when there is none."""

    states: tuple[str, ...]
