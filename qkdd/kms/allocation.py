"""What the KMS calls a draw, and what can come of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa

from qkdd.kms.classes import KeyClass
from qkdd.kms.exchange import Offer

Piece = tuple[str, int, int]  # chunk id, first byte, byte after the last


@dataclass(frozen=True, slots=True)
class Allocation:
    """One draw: `amount` keys of `key_bytes` bytes, cut in order from `pieces` taken as one string of bytes.

    `offer` and `mix` (sealed): the post-quantum share of the classes that have one; a `pqc-only` draw has no pieces.
    """

    id: bytes
    master: str
    slaves: tuple[str, ...]
    key_bytes: int
    amount: int
    pieces: tuple[Piece, ...]
    key_class: KeyClass = KeyClass.ITS
    offer: Offer | None = None
    mix: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def quantum_bytes(self) -> int:
        """Bytes of a quantum link that it takes."""
        return 0 if self.key_class is KeyClass.PQC_ONLY else self.key_bytes * self.amount


def parted(pieces: Sequence[Piece], size: int) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """The first `size` bytes of pieces taken as one string, and the rest."""
    head: list[Piece] = []
    rest: list[Piece] = []
    for chunk_id, start, stop in pieces:
        at = min(stop, start + size)
        size -= at - start
        if at > start:
            head.append((chunk_id, start, at))
        if stop > at:
            rest.append((chunk_id, at, stop))
    return tuple(head), tuple(rest)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the bytes of a draw come from. epsilon: the sum of what is claimed for its chunks; None if one claims nothing."""

    links: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # watched folders; nothing for our own nodes
    epsilon: float | None = None


UNKNOWN = Origin()


@dataclass(frozen=True, slots=True)
class Conflict:
    """The other site's ranges and ours do not fit: one of the stores was restored. `cursor`: first free byte here."""

    chunk_id: str
    reason: str
    cursor: int

    @property
    def facts(self) -> dict[str, str]:
        """For the log."""
        return {"chunk": self.chunk_id, "reason": self.reason}


EVERYTHING = 1 << 40  # a conflict's cursor that skips the whole chunk


@dataclass(frozen=True, slots=True)
class FetchRefused:
    """Why nothing was given: "entitlement" or "missing"."""

    reason: str


def from_row(row: sa.Row[tuple[object, ...]] | Mapping[str, Any]) -> Allocation:
    facts = row if isinstance(row, Mapping) else row._mapping
    return Allocation(
        facts["id"],
        facts["master"],
        tuple(json.loads(facts["slaves"])),
        facts["key_bytes"],
        facts["amount"],
        tuple((c, a, b) for c, a, b in json.loads(facts["pieces"])),
        KeyClass(facts["key_class"]),
        msgspec.json.decode(facts["offer"], type=Offer) if facts["offer"] is not None else None,
        facts["mix"],
    )
