"""Key IDs: a UUID (version 8, RFC 9562) that holds the allocation (96 random bits) and the key's number in it (26 bits).

So a key is found by its allocation's primary key, and a million keys need no million rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

ALLOCATION_BYTES = 12
MAX_NUMBER = (1 << 26) - 1
_FORM = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def key_id(allocation: bytes, number: int) -> str:
    """The lower-case UUID of key `number` of an allocation."""
    if len(allocation) != ALLOCATION_BYTES or not 0 <= number <= MAX_NUMBER:
        raise ValueError("an allocation id has 12 bytes, a key's number 26 bits")
    text = allocation.hex()
    low = f"{2 << 62 | int(text[15:], 16) << 26 | number:016x}"
    return f"{text[:8]}-{text[8:12]}-8{text[12:15]}-{low[:4]}-{low[4:]}"


class Run(NamedTuple):
    """Consecutive keys of one allocation; an allocation without a name stands for an ID that is none of ours."""

    allocation: bytes
    first: int
    amount: int


def stem(allocation: bytes, first: int, amount: int) -> tuple[str, int]:
    """What `key_id` of consecutive keys has in common, and the number that is the last twelve digits of the first one."""
    start = key_id(allocation, first)
    if first + amount - 1 > MAX_NUMBER:
        raise ValueError("a key's number has 26 bits")
    return start[:24], int(start[24:], 16)


def key_ids(allocation: bytes, first: int, amount: int) -> list[str]:
    """`key_id` of consecutive keys."""
    head, tail = stem(allocation, first, amount)
    return [f"{head}{number:012x}" for number in range(tail, tail + amount)]


def canonical(text: str) -> str:
    """The lower-case form of a UUID in its 36-character form. Raises ValueError."""
    if not _FORM.fullmatch(text):
        raise ValueError("is no UUID")
    return text.lower()


def split(text: str) -> tuple[bytes, int] | None:
    """Allocation and number of a key ID (a UUID in its 36-character form); None for one that is none of ours."""
    value = int(text.replace("-", ""), 16)
    if (value >> 76) & 0xF != 8 or (value >> 62) & 0x3 != 2:
        return None
    bits = (value >> 80) << 48 | ((value >> 64) & 0xFFF) << 36 | ((value >> 26) & ((1 << 36) - 1))
    return bits.to_bytes(ALLOCATION_BYTES, "big"), value & MAX_NUMBER


def runs(ids: Sequence[str]) -> list[Run]:
    """Key IDs in their canonical form, as few runs as they are, in this order."""
    found: list[Run] = []
    for text in ids:
        allocation, number = split(text) or (b"", 0)
        last = found[-1] if found else None
        if last is not None and allocation and last.allocation == allocation and last.first + last.amount == number:
            found[-1] = Run(allocation, last.first, last.amount + 1)
        else:
            found.append(Run(allocation, number, 1))
    return found


def one_run(texts: list[str]) -> Run | None:
    """The run that these are, as an answer lists them; None for anything else, whatever its form."""
    if not _FORM.fullmatch(texts[0]) or (begin := split(texts[0])) is None:
        return None
    if len(texts) == 1:
        return Run(*begin, 1)
    head, tail = texts[0][:24], int(texts[0][24:], 16)
    if begin[1] + len(texts) - 1 > MAX_NUMBER or texts != [f"{head}{n:012x}" for n in range(tail, tail + len(texts))]:
        return None
    return Run(*begin, len(texts))
