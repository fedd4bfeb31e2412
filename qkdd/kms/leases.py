"""Keys drawn ahead: what a pair has just asked for at such a rate that it will ask for the next ones in a moment.

A lease is the rest of a draw: recorded at both sites and durable like all of it, so its keys may be given out of memory, each
once, in order. What is not given out in time, when the process ends or when anything is revoked is given to nobody: it stays
used at both sites and is erased there as keys are that nobody fetched. `Demand` keeps that rest small beside what was given out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from qkdd.kms.allocation import Allocation, Origin
from qkdd.kms.batch import KeyBatch

LIFETIME = 1.0  # s
MOST = 4096  # keys in one draw
_AHEAD = 0.1  # s of the present rate
_BUSY = 256  # keys that a pair was given before anything is drawn ahead for it
_GROWTH = 4  # at most one key is drawn ahead for so many that the pair was given
_SHARE = 16  # nothing is drawn ahead while more than one key in so many was given to nobody
_KNOWN = 16_384  # lines whose demand is remembered


class Line(NamedTuple):
    """What requests have in common that are drawn as one."""

    master: str
    slaves: tuple[str, ...]
    key_bytes: int


@dataclass(slots=True)
class Lease:
    """Keys `first` and following of a draw. text: theirs, one behind the other, and zeros where they were given out."""

    allocation: Allocation
    origin: Origin
    text: bytearray = field(repr=False)
    first: int
    made: float
    _at: int = 0  # bytes given out

    @property
    def left(self) -> int:
        """Keys."""
        return (len(self.text) - self._at) // self.allocation.key_bytes

    def take(self, amount: int, synthetic: bool) -> KeyBatch:
        """The next ones; not more than are left."""
        stop = self._at + amount * self.allocation.key_bytes
        text = bytes(self.text[self._at : stop])
        self.text[self._at : stop] = bytes(stop - self._at)
        batch = KeyBatch(self.allocation, text, synthetic, self.origin, self.first, amount)
        self._at, self.first = stop, self.first + amount
        return batch

    def wipe(self) -> int:
        """Nothing is left; returns how many keys nobody got."""
        left = self.left
        self.text[:] = bytes(len(self.text))
        self._at = len(self.text)
        return left


@dataclass(slots=True)
class _Asked:
    second: float  # begin of the running second
    now: int = 0  # keys in it
    rate: float = 0.0  # keys/s in the one before
    keys: int = 0  # since the process began
    unused: int = 0  # of what was drawn ahead


class Demand:
    """How many keys of a line were drawn lately, and how many of those that were drawn ahead nobody wanted."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic, self._asked = monotonic, dict[Line, _Asked]()

    def note(self, line: Line, keys: int) -> None:
        """So many are being given out."""
        now = self._monotonic()
        asked = self._asked.get(line)
        if asked is None:
            if len(self._asked) >= _KNOWN:
                self._asked.clear()
            asked = self._asked[line] = _Asked(now)
        passed = now - asked.second
        if passed >= LIFETIME:
            asked.rate = asked.now / passed if passed < 2 * LIFETIME else 0.0
            asked.now, asked.second = 0, now
        asked.keys += keys
        asked.now += keys

    def unused(self, line: Line, keys: int) -> None:
        """So many that were drawn ahead are given to nobody."""
        asked = self._asked.get(line)
        if asked is not None:
            asked.unused += keys

    def ahead(self, line: Line) -> int:
        """How many keys more to draw now than were asked for."""
        asked = self._asked.get(line)
        if asked is None or asked.keys < _BUSY or asked.unused * _SHARE > asked.keys:
            return 0
        passed = max(self._monotonic() - asked.second, LIFETIME / 10)
        return min(asked.keys // _GROWTH, int(_AHEAD * max(asked.rate, asked.now / passed)))
