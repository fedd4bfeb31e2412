"""Messages as packed little-endian structures, the way a board's C code has them."""

from __future__ import annotations

import struct
from dataclasses import fields
from typing import Any, ClassVar, Self, TypeVar

from qkdd_fwbridge.errors import Malformed

M = TypeVar("M", bound="Message")


class Message:
    """Base of frozen dataclasses. TYPE: frame type. LAYOUT: struct format of the fields, in order.

    Text fields are ASCII, padded with zero bytes. With TAIL the last field is bytes and takes the rest of the payload.
    """

    __slots__ = ()
    TYPE: ClassVar[int]
    LAYOUT: ClassVar[str] = "<"
    TAIL: ClassVar[bool] = False

    def encode(self) -> bytes:
        """Payload of the frame. Raises ValueError when a value does not fit its field."""
        values: list[Any] = [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]
        tail = values.pop() if self.TAIL else b""
        sizes = _text_sizes(self.LAYOUT)
        for index, value in enumerate(values):
            if isinstance(value, str):
                values[index] = value.encode("ascii")
            if isinstance(values[index], bytes) and len(values[index]) > sizes[index]:
                raise ValueError(f"{value!r} is longer than its {sizes[index]} bytes")
        try:
            return struct.pack(self.LAYOUT, *values) + bytes(tail)
        except struct.error as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Raises Malformed for a wrong size or a text that is none."""
        size = struct.calcsize(cls.LAYOUT)
        if len(payload) < size or (len(payload) > size and not cls.TAIL):
            raise Malformed(f"{cls.__name__} of {len(payload)} bytes, not {'at least ' if cls.TAIL else ''}{size}")
        values: list[Any] = list(struct.unpack_from(cls.LAYOUT, payload))
        named = fields(cls)  # type: ignore[arg-type]
        for index, field in enumerate(named[: len(values)]):
            if field.type == "str":
                try:
                    values[index] = values[index].rstrip(b"\0").decode("ascii")
                except UnicodeDecodeError:
                    raise Malformed(f"{field.name} of {cls.__name__} is not ASCII") from None
        if cls.TAIL:
            values.append(payload[size:])
        return cls(*values)


def _text_sizes(layout: str) -> list[int]:
    """Bytes of each field of a struct format (only its text fields matter)."""
    sizes: list[int] = []
    number = ""
    for letter in layout.lstrip("<"):
        if letter.isdigit():
            number += letter
            continue
        sizes += [int(number or 1)] if letter == "s" else [0] * int(number or 1)
        number = ""
    return sizes
