"""Prepared symbols: four bits a pulse, two pulses a byte; slot numbers, losses and credit of a stream.

A symbol is basis << 3 | bit << 2 | intensity: basis 0 = Z, 1 = X; intensity 0 = signal, 1 and 2 = decoys, 3 never. The even
index of a pair is in the high half of the byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd.kernels import gap_encode, pack_bits, unpack_bits
from qkdd_fwbridge.errors import Malformed, SymbolsContradict, SymbolsLost
from qkdd_fwbridge.frames import MAX_PAYLOAD
from qkdd_fwbridge.messages import Credit, Demand, Demanded, Symbols

U8 = NDArray[np.uint8]
NO_INTENSITY = 3
MAX_DEMAND = 65536
"""Most slots in one Demand: its answer must fit into a frame."""
_GAPS_MOST = MAX_PAYLOAD - 12  # base and count stand before them


def symbol(basis: U8, bit: U8, intensity: U8) -> U8:
    """uint8[n] symbols from uint8[n] choices."""
    return (basis << 3 | bit << 2 | intensity).astype(np.uint8)


def split(symbols: U8) -> tuple[U8, U8, U8]:
    """basis, bit, intensity: uint8[n] each."""
    three, two, one = np.uint8(3), np.uint8(2), np.uint8(1)
    return symbols >> three, (symbols >> two) & one, symbols & three


def pack(symbols: U8) -> bytes:
    """uint8[n] values 0 to 15 → ceil(n/2) bytes; the last half byte of an odd count is 0."""
    padded = np.zeros(len(symbols) + len(symbols) % 2, np.uint8)
    padded[: len(symbols)] = symbols
    return (padded[0::2] << 4 | padded[1::2]).astype(np.uint8).tobytes()


def unpack(data: bytes, count: int) -> U8:
    """Raises Malformed for a wrong size, a filled last half, or a symbol that does not exist."""
    if len(data) != (count + 1) // 2:
        raise Malformed(f"{count} symbols in {len(data)} bytes")
    raw = np.frombuffer(data, np.uint8)
    symbols = np.empty(2 * len(raw), np.uint8)
    symbols[0::2], symbols[1::2] = raw >> 4, raw & 15
    if symbols[count:].any():
        raise Malformed("the unused half of the last byte of symbols is not 0")
    symbols = symbols[:count]
    if ((symbols & 3) == NO_INTENSITY).any():
        raise Malformed("a symbol has intensity 3, which does not exist")
    return symbols


@dataclass(frozen=True, slots=True)
class SymbolBlock:
    """Consecutive slots from `first_slot` on. basis, bit, intensity: uint8[n].

    skipped: slots just before that carried no pulse, by the board's own count. lost: slots just before whose symbols the
    cable lost. faults: stable codes; not empty means that the block these slots belong to must be discarded.
    """

    first_slot: int
    basis: U8
    bit: U8
    intensity: U8
    skipped: int
    lost: int

    @property
    def faults(self) -> tuple[str, ...]:
        return (SymbolsLost.code,) if self.lost else ()


class SymbolStream:
    """Host's end of a full stream: sees to it that no slot is missing without being counted, and gives credit.

    ahead: symbols that the board may send beyond what was taken. Slots that are neither delivered nor announced as skipped
    are lost; `lost` and `skipped` are totals. Credit counts symbols, not slots: slots go on while the board is held.
    """

    def __init__(self, first_slot: int, ahead: int) -> None:
        if ahead < 2:
            raise ValueError("a stream needs credit for at least two symbols")
        self._next, self._ahead = first_slot, ahead
        self._granted = ahead
        self.taken = self.lost = self.skipped = 0

    @property
    def granted(self) -> int:
        return self._granted

    def take(self, message: Symbols) -> SymbolBlock:
        """Raises Malformed, SymbolsContradict."""
        values = unpack(message.data, message.count)
        gap, skipped = message.first_slot - self._next, message.skipped - self.skipped
        if gap < 0 or skipped < 0 or skipped > gap:
            raise SymbolsContradict(
                f"slot {message.first_slot} with {message.skipped} skipped after slot {self._next} with {self.skipped}"
            )
        lost = gap - skipped
        if self.taken + self.lost + lost + message.count > self._granted:
            raise SymbolsContradict(f"more symbols than the credit of {self._granted}")
        self.lost += lost
        self.taken += message.count
        self.skipped = message.skipped
        self._next = message.first_slot + message.count
        return SymbolBlock(message.first_slot, *split(values), skipped, lost)

    def credit(self) -> Credit | None:
        """What to send now: new credit once half of the old one is used up, else None."""
        sent = self.taken + self.lost
        if self._granted - sent > self._ahead // 2:
            return None
        self._granted = sent + self._ahead
        return Credit(self._granted)

    def again(self) -> Credit:
        """The credit in force, for a host that hears nothing and fears that the line lost its last one."""
        return Credit(self._granted)

    def end(self, next_slot: int, skipped: int, unsent: int) -> int:
        """The board stopped: returns slots lost at the end (also added to `lost`). Raises SymbolsContradict."""
        missing = next_slot - self._next - (skipped - self.skipped) - unsent
        if missing < 0 or skipped < self.skipped:
            raise SymbolsContradict(f"the board says that it ended at {next_slot}; {self._next} was already here")
        self.lost += missing
        self.skipped, self._next = skipped, next_slot
        return missing


@dataclass(frozen=True, slots=True)
class DemandedSymbols:
    """Answer for the asked slots: here bool[n]; the choices are 0 where `here` is False (overwritten or never made)."""

    here: NDArray[np.bool_]
    basis: U8
    bit: U8
    intensity: U8
    oldest: int
    next_slot: int


def demand(slots: NDArray[np.int64]) -> Demand:
    """Ask for rising slot numbers, at most MAX_DEMAND of them. Raises ValueError."""
    if not 0 < len(slots) <= MAX_DEMAND:
        raise ValueError(f"between 1 and {MAX_DEMAND} slots can be asked for at once, not {len(slots)}")
    if int(slots[0]) < 0 or (len(slots) > 1 and int(np.diff(slots).min()) <= 0):
        raise ValueError("slots must rise strictly from 0 on")
    base = int(slots[0])
    return Demand(base, len(slots), gap_encode(slots - base))


def demands(slots: NDArray[np.int64]) -> list[Demand]:
    """The same for slots that lie so far apart that their gaps may not fit into one frame: as few as halving gives."""
    whole = demand(slots)
    if len(whole.gaps) <= _GAPS_MOST:
        return [whole]
    half = len(slots) // 2
    return [*demands(slots[:half]), *demands(slots[half:])]


def demanded(answer: Demanded, asked: int) -> DemandedSymbols:
    """Raises Malformed, SymbolsContradict."""
    if answer.count != asked:
        raise SymbolsContradict(f"{answer.count} symbols for {asked} slots")
    flags = (asked + 7) // 8
    if len(answer.data) < flags:
        raise Malformed(f"{len(answer.data)} bytes for {asked} slots")
    here = unpack_bits(answer.data[:flags], 8 * flags).astype(bool)
    if here[asked:].any():
        raise Malformed("unused flags are not 0")
    here = here[:asked]
    values = unpack(answer.data[flags:], asked)
    if values[~here].any():
        raise Malformed("a symbol that is not there has a value")
    return DemandedSymbols(here, *split(values), answer.oldest, answer.next_slot)


def answer_demand(about: int, here: NDArray[np.bool_], symbols: U8, oldest: int, next_slot: int) -> Demanded:
    """The board's side of `demanded`."""
    data = pack_bits(here.astype(np.uint8)) + pack(np.where(here, symbols, 0).astype(np.uint8))
    return Demanded(about, oldest, next_slot, len(here), data)


def choose(words: NDArray[np.uint32], x: int, first: int, second: int) -> U8:
    """Symbols from 32 random bits a pulse, as `messages.Prepare` says; what a board does in hardware.

    In single bytes and halves of words: a board at 10 MHz makes ten million of them a second beside everything else.
    """
    halves = np.ascontiguousarray(words, "<u4").view("<u2")
    low, level = halves[0::2], halves[1::2]
    out = (low & 1).astype(np.uint8) << np.uint8(2)
    out |= ((low >> 1) < x).view(np.uint8) << np.uint8(3)
    out |= _reaches(level, first)
    out += _reaches(level, second)
    return out


def _reaches(level: NDArray[np.uint16], threshold: int) -> U8:
    """uint8[n]: 1 where level >= threshold; 65536 is above every level."""
    if threshold > 0xFFFF:
        return np.zeros(len(level), np.uint8)
    return (level >= threshold).view(np.uint8)
