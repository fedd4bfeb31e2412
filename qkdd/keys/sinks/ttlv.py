"""KMIP's encoding, Tag-Type-Length-Value (OASIS KMIP specification 1.2, section 9.1): the types that the sink needs."""

from __future__ import annotations

from dataclasses import dataclass

STRUCTURE, INTEGER, ENUMERATION, TEXT, BYTES = 1, 2, 5, 7, 8
_HEADER = 8
_DEPTH = 16


class MalformedTtlv(ValueError):
    """What a server sent is no TTLV."""


@dataclass(frozen=True, slots=True)
class Node:
    """One item. `value`: int, str, bytes, or a list of nodes."""

    tag: int
    kind: int
    value: object

    def all(self, tag: int) -> list[Node]:
        """Members with this tag."""
        return [n for n in self.value if n.tag == tag] if isinstance(self.value, list) else []

    def first(self, *path: int) -> Node | None:
        """The first member along a path of tags."""
        node: Node | None = self
        for tag in path:
            found = node.all(tag) if node is not None else []
            node = found[0] if found else None
        return node


def structure(tag: int, *members: bytes) -> bytes:
    return _item(tag, STRUCTURE, b"".join(members))


def integer(tag: int, value: int) -> bytes:
    return _item(tag, INTEGER, value.to_bytes(4, "big", signed=True))


def enumeration(tag: int, value: int) -> bytes:
    return _item(tag, ENUMERATION, value.to_bytes(4, "big"))


def text(tag: int, value: str) -> bytes:
    return _item(tag, TEXT, value.encode())


def octets(tag: int, value: bytes) -> bytes:
    return _item(tag, BYTES, value)


def _item(tag: int, kind: int, value: bytes) -> bytes:
    return tag.to_bytes(3, "big") + bytes([kind]) + len(value).to_bytes(4, "big") + value + bytes(-len(value) % 8)


def length_of(header: bytes) -> int:
    """Bytes that follow the first eight of an item."""
    size = int.from_bytes(header[4:8], "big")
    return size + -size % 8


def decode(data: bytes, depth: int = 0) -> list[Node]:
    """The items one behind the other in `data`. Raises MalformedTtlv."""
    if depth > _DEPTH:
        raise MalformedTtlv("nested too deeply")
    found, at = [], 0
    while at < len(data):
        header = data[at : at + _HEADER]
        if len(header) < _HEADER:
            raise MalformedTtlv("cut off in a header")
        size, kind = int.from_bytes(header[4:8], "big"), header[3]
        value = data[at + _HEADER : at + _HEADER + size]
        if len(value) < size:
            raise MalformedTtlv("cut off in a value")
        found.append(Node(int.from_bytes(header[:3], "big"), kind, _value(kind, value, depth)))
        at += _HEADER + size + -size % 8
    return found


def _value(kind: int, value: bytes, depth: int) -> object:
    if kind == STRUCTURE:
        return decode(value, depth + 1)
    if kind in (INTEGER, ENUMERATION):
        if len(value) != 4:
            raise MalformedTtlv("a number of another length than 4")
        return int.from_bytes(value, "big", signed=kind == INTEGER)
    if kind == TEXT:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise MalformedTtlv("a text that is no UTF-8") from None
    return value
