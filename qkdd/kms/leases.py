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
_SECOND = 1.0  # over which a rate is counted
_AHEAD = 0.5  # s of the present rate
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
    """Keys `first` and following of a draw from the other KMS `peer`. text: theirs, one behind the other, and zeros where they
    were given out."""

    peer: str
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

    @property
    def line(self) -> Line:
        return Line(self.allocation.master, self.allocation.slaves, self.allocation.key_bytes)

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


class Leases:
    """Those that are held, by line, oldest first."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic, self._of = monotonic, dict[Line, list[Lease]]()
        self.over: list[Allocation] = []  # draws whose lease was used up; for the store to close

    def find(self, line: Line, amount: int) -> Lease | None:
        """One that has so many keys."""
        held = self._of.get(line)
        if held is None:
            return None
        if not held[0].left:
            self.over.append(held.pop(0).allocation)
            if not held:
                del self._of[line]
        oldest = self._monotonic() - LIFETIME
        for lease in held:
            if lease.left >= amount and lease.made >= oldest:
                return lease
        return None

    def low(self, line: Line) -> bool:
        """Whether less than half of the last draw is left: time to draw the next one."""
        held = self._of.get(line, ())
        return not held or 2 * sum(lease.left for lease in held) < len(held[-1].text) // line.key_bytes

    def add(self, lease: Lease) -> None:
        self._of.setdefault(lease.line, []).append(lease)

    def all(self) -> list[Lease]:
        return [lease for held in self._of.values() for lease in held]

    def drop(self, *, old: bool) -> list[Lease]:
        """Those that are too old, or all: held no longer."""
        least = self._monotonic() - LIFETIME if old else float("inf")
        dropped = [lease for lease in self.all() if lease.made < least]
        for line, held in list(self._of.items()):
            if kept := [lease for lease in held if lease.made >= least]:
                self._of[line] = kept
            else:
                del self._of[line]
        return dropped


@dataclass(slots=True)
class _Asked:
    second: float  # begin of the running second
    amount: int = 0  # keys of the last request
    now: int = 0  # keys in that second
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
        if passed >= _SECOND:
            asked.rate = asked.now / passed if passed < 2 * _SECOND else 0.0
            asked.now, asked.second = 0, now
        asked.amount = keys
        asked.keys += keys
        asked.now += keys

    def unused(self, line: Line, keys: int) -> None:
        """So many that were drawn ahead are given to nobody."""
        asked = self._asked.get(line)
        if asked is not None:
            asked.unused += keys

    def ahead(self, line: Line) -> int:
        """How many keys more to draw now than were asked for, for whole requests like the last one."""
        asked = self._asked.get(line)
        if asked is None or asked.keys < _BUSY or asked.unused * _SHARE > asked.keys:
            return 0
        passed = max(self._monotonic() - asked.second, _SECOND / 10)
        ahead = min(MOST, asked.keys // _GROWTH, int(_AHEAD * max(asked.rate, asked.now / passed)))
        return ahead - ahead % asked.amount

    def step(self, line: Line) -> int:
        """Keys of a request, as the last one: what is drawn ahead is for whole ones."""
        asked = self._asked.get(line)
        return asked.amount if asked is not None else 1
