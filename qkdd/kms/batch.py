"""Keys on their way to an application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import msgspec

from qkdd.kms.allocation import UNKNOWN, Allocation, Origin
from qkdd.kms.classes import KeyClass
from qkdd.kms.key_ids import key_id


class Key(msgspec.Struct, frozen=True):
    """One key for an application; `slaves` are those who may fetch it."""

    key_id: str
    key: bytes
    slaves: tuple[str, ...]
    synthetic: bool = False  # from `qkdd-kms dev-pair`: no secret
    key_class: KeyClass = KeyClass.ITS
    origin: Origin = UNKNOWN

    def __repr__(self) -> str:
        return f"Key({self.key_id}, {8 * len(self.key)} bits)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("key_id", self.key_id)]


class KeyBatch(Sequence[Key]):
    """Keys of one draw, all or a stretch of them; a key's id is made when it is asked for."""

    def __init__(
        self,
        allocation: Allocation,
        text: bytes,
        synthetic: bool,
        origin: Origin = UNKNOWN,
        first: int = 0,
        amount: int | None = None,
    ) -> None:
        """text: these keys one behind the other. first: number of the first one in the draw; amount: None for all."""
        self.allocation, self.text, self.synthetic = allocation, text, synthetic
        self.origin, self.first = origin, first
        self._amount = allocation.amount if amount is None else amount

    def __len__(self) -> int:
        return self._amount

    @overload
    def __getitem__(self, index: int) -> Key: ...

    @overload
    def __getitem__(self, index: slice) -> list[Key]: ...

    def __getitem__(self, index: int | slice) -> Key | list[Key]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(self._amount)[index]
        size = self.allocation.key_bytes
        key = self.text[at * size : (at + 1) * size]
        allocation = self.allocation
        return Key(
            key_id(allocation.id, self.first + at),
            key,
            allocation.slaves,
            self.synthetic,
            allocation.key_class,
            self.origin,
        )

    def __repr__(self) -> str:
        return f"KeyBatch({len(self)} keys of {8 * self.allocation.key_bytes} bits)"
