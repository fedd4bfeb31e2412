"""What a sink is, and how a chunk becomes keys with ids that are equal at both ends of the link."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qkdd.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Item:
    """One chunk. `about`: link, index, class, auth, proof, epsilon; never secret. `offered_before`: it may be there in part."""

    chunk_id: str
    material: Secret
    about: dict[str, object]
    offered_before: bool = False


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


@runtime_checkable
class Voiding(Protocol):
    """A sink that can be told to forget. `void_after`: seconds until an unacknowledged chunk is voided; 0: never."""

    void_after: float

    async def void(self, chunk_id: str, size: int) -> int:
        """Forget a chunk of `size` bytes, for good; how many of its keys were given away before. May be repeated.

        Raises HandOverFailed while nothing is known.
        """


def key_ids_of(chunk_id: str, size: int, key_bytes: int) -> Iterator[str]:
    """Ids of the keys that `keys_of` makes of a chunk of `size` bytes."""
    chunk = uuid.UUID(chunk_id)
    return (str(uuid.uuid5(chunk, str(number))) for number in range(size // key_bytes))


def keys_of(item: Item, key_bytes: int) -> Iterator[KeyItem]:
    """The chunk's bytes as keys, in order; what is left at its end and fills no key is used by nobody."""
    view = item.material.reveal()
    for number, key_id in enumerate(key_ids_of(item.chunk_id, len(view), key_bytes)):
        yield KeyItem(key_id, Secret(bytes(view[number * key_bytes : (number + 1) * key_bytes])))
