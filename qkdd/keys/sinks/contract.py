"""What a sink is, and how a chunk becomes keys with ids that are equal at both ends of the link."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from qkdd.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Item:
    """One chunk. `about`: link, index, class, auth, proof, epsilon; never secret."""

    chunk_id: str
    material: Secret
    about: dict[str, object]


@dataclass(frozen=True, slots=True)
class KeyItem:
    """One key of a chunk; `key_id` is the UUID (version 5) of the chunk's UUID and the key's number, the same at both ends."""

    key_id: str
    key: Secret


class Sink(Protocol):
    """A place that keeps keys. Every call may be repeated: the sink knows them by id."""

    async def store(self, items: list[Item]) -> set[str]:
        """Ids of the chunks that are durably there.

        Raises HandOverRefused when it is proven that nothing of them was stored and repeating is of no use, HandOverFailed
        when nothing is known (they may be stored in part): then the same items come again.
        """

    async def close(self) -> None:
        """Idempotent."""


def keys_of(item: Item, key_bytes: int) -> Iterator[KeyItem]:
    """The chunk's bytes as keys, in order; what is left at its end and fills no key is used by nobody."""
    chunk, view = uuid.UUID(item.chunk_id), item.material.reveal()
    for number in range(len(view) // key_bytes):
        key = Secret(bytes(view[number * key_bytes : (number + 1) * key_bytes]))
        yield KeyItem(str(uuid.uuid5(chunk, str(number))), key)
