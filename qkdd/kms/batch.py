"""Keys on their way to an application."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from qkdd.kms.allocation import UNKNOWN, Allocation, Origin
from qkdd.kms.classes import KeyClass
from qkdd.kms.key_ids import key_id


@dataclass(frozen=True, slots=True)
class Key:
    """One key for an application; `slaves` are those who may fetch it."""

    key_id: str
    key: bytes = field(repr=False)
    slaves: tuple[str, ...]
    synthetic: bool = False  # from `qkdd-kms dev-pair`: no secret
    key_class: KeyClass = KeyClass.ITS
    origin: Origin = UNKNOWN


class KeyBatch(Sequence[Key]):
    """The keys of one draw; a key's id is made when it is asked for."""

    def __init__(self, allocation: Allocation, text: bytes, synthetic: bool, origin: Origin = UNKNOWN) -> None:
        """text: the keys one behind the other."""
        self._allocation, self._text, self._synthetic = allocation, text, synthetic
        self._origin = origin

    def __len__(self) -> int:
        return self._allocation.amount

    @overload
    def __getitem__(self, index: int) -> Key: ...

    @overload
    def __getitem__(self, index: slice) -> list[Key]: ...

    def __getitem__(self, index: int | slice) -> Key | list[Key]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        size = self._allocation.key_bytes
        key = self._text[number * size : (number + 1) * size]
        allocation = self._allocation
        return Key(
            key_id(allocation.id, number), key, allocation.slaves, self._synthetic, allocation.key_class, self._origin
        )

    def __repr__(self) -> str:
        return f"KeyBatch({len(self)} keys of {8 * self._allocation.key_bytes} bits)"
