"""What goes over the wire when a block of pulses is sifted, near its entropy, and what is refused of it.

Slots. After a detection all detectors are blanked, so two detections lie at least `spacing` slots apart. A sender takes
spacing·i off the i-th slot and Rice-codes the differences of what is left (native.md); a receiver that adds it again cannot
even read repeated slots, slots out of order, or more detections than the dead time allows. Without afterpulses the gaps are
geometric, for which such a code is within some hundredths of a bit of the entropy.

Bases, and alice's answer ("another basis", or "the same and intensity k", separately for bob's two bases): range coded at the
entropy of their frequencies. The order of the messages is security-proofs S4.10 E11: bases and intensities follow only after
all detections of the block are registered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.distill.errors import BlockMalformed
from qkdd.link.config import LinkShared
from qkdd.link.delay_search import SYMBOL_ABSENT
from qkdd.link.errors import DetectionsRefused

_CORRECTION = 0.1  # slots
_NO_PULSE = 3  # an intensity that does not exist
# Alice's answer by bob's basis (high byte) and her symbol: 0 if her basis is another or no pulse went out, else 1 + intensity.
_ANSWERS = np.zeros(512, np.uint8)
for _basis in (0, 1):
    for _symbol in range(16):
        if _symbol >> 3 == _basis:
            _ANSWERS[_basis << 8 | _symbol] = 1 + (_symbol & 3)


def spacing(shared: LinkShared) -> int:
    """Slots between two detections at least: the dead time, less the width of the gate, what a clock may be off, and what the
    loop may correct between the two."""
    slots = shared.dead_ps / shared.slot_ps * (1 - 3 * shared.clock_error_max) - float(shared.gate)
    return max(1, math.ceil(slots - _CORRECTION))


def encode_slots(slots: NDArray[np.int64], first: int, apart: int) -> bytes:
    """Strictly rising slots from `first` on, at least `apart` from each other."""
    return kernels.gap_encode(slots - first - apart * np.arange(len(slots), dtype=np.int64))


def decode_slots(data: bytes, count: int, first: int, stop: int, apart: int) -> NDArray[np.int64]:
    """Inverse of encode_slots. Raises DetectionsRefused."""
    length = stop - first
    if not 0 <= count <= (length + apart - 1) // apart:
        raise DetectionsRefused(f"{count} detections in {length} slots, at most one in {apart} is possible")
    try:
        values = kernels.gap_decode(data, count)
    except kernels.KernelError as error:
        raise DetectionsRefused(f"coded slots of the other node: {error.message}") from None
    if count and int(values[-1]) + apart * (count - 1) >= length:
        raise DetectionsRefused(f"a detection lies in slot {int(values[-1]) + apart * (count - 1)} of {length}")
    return values + apart * np.arange(count, dtype=np.int64) + first


def pack_symbols(symbols: NDArray[np.uint8]) -> bytes:
    """uint8[n] symbols (SYMBOL_ABSENT without a pulse) in half a byte each."""
    whole = np.zeros(len(symbols) + len(symbols) % 2, np.uint8)
    whole[: len(symbols)] = np.where(symbols == SYMBOL_ABSENT, _NO_PULSE, symbols)
    return (whole[0::2] << 4 | whole[1::2]).astype(np.uint8).tobytes()


def unpack_symbols(data: bytes, count: int) -> NDArray[np.uint8]:
    """Inverse of pack_symbols. Raises BlockMalformed."""
    if len(data) != (count + 1) // 2:
        raise BlockMalformed(f"{count} symbols in {len(data)} bytes")
    raw = np.frombuffer(data, np.uint8)
    symbols = np.empty(2 * len(raw), np.uint8)
    symbols[0::2], symbols[1::2] = raw >> 4, raw & 15
    if symbols[count:].any():
        raise BlockMalformed("the unused half of the last byte of symbols is not 0")
    symbols = symbols[:count]
    return np.where((symbols & 3) == _NO_PULSE, SYMBOL_ABSENT, symbols).astype(np.uint8)


def encode_bases(bases: NDArray[np.uint8]) -> bytes:
    return kernels.symbol_encode(bases, 2)


def decode_bases(data: bytes, count: int) -> NDArray[np.uint8]:
    """Raises BlockMalformed."""
    return _symbols(data, 2, count)


def _symbols(data: bytes, alphabet: int, count: int) -> NDArray[np.uint8]:
    try:
        return kernels.symbol_decode(data, alphabet, count)
    except kernels.KernelError as error:
        raise BlockMalformed(f"coded symbols of the other node: {error.message}") from None


@dataclass(frozen=True, slots=True, eq=False)
class Rounds:
    """The rounds of equal basis. chosen: int64[m] indices of bob's detections. bases, intensities: uint8[m]."""

    chosen: NDArray[np.int64]
    bases: NDArray[np.uint8]
    intensities: NDArray[np.uint8]


def compare(symbols: NDArray[np.uint8], bases: NDArray[np.uint8], intensities: int) -> tuple[Rounds, bytes, bytes]:
    """Alice: her symbols at bob's detections and his bases -> (rounds, her answer for Z, for X).

    Raises BlockMalformed when the transmitter made an intensity that the proof does not have.
    """
    answer = _ANSWERS[(bases.astype(np.uint16) << 8) | symbols]
    if int(answer.max(initial=0)) > intensities:
        raise BlockMalformed(f"the transmitter made an intensity beyond the {intensities} of the proof")
    in_x = bases.astype(np.bool_)
    z, x = (kernels.symbol_encode(answer[chosen], intensities + 1) for chosen in (~in_x, in_x))
    return _rounds(answer, bases), z, x


def chosen_rounds(z: bytes, x: bytes, bases: NDArray[np.uint8], intensities: int) -> Rounds:
    """Bob: alice's answer about his detections. Raises BlockMalformed."""
    answer = np.empty(len(bases), np.uint8)
    in_x = bases.astype(np.bool_)
    for mine, data in ((~in_x, z), (in_x, x)):
        answer[mine] = _symbols(data, intensities + 1, int(np.count_nonzero(mine)))
    return _rounds(answer, bases)


def _rounds(answer: NDArray[np.uint8], bases: NDArray[np.uint8]) -> Rounds:
    chosen = np.flatnonzero(answer)
    return Rounds(chosen.astype(np.int64, copy=False), bases[chosen], answer[chosen] - np.uint8(1))


@dataclass(frozen=True, slots=True)
class SlipTest:
    """Tells detections of pulses from detections at slots that were counted wrongly.

    A right detection picks bright pulses: the share of signals among detections is q = p0·mu0 / sum(p·mu) instead of p0. Less
    than a quarter of the way from p0 to q is a slip; `least` detections make that a decision of four standard deviations.
    """

    limit: float
    least: int

    @classmethod
    def of(cls, p: tuple[float, ...], mu: tuple[float, ...]) -> SlipTest:
        rise = p[0] * mu[0] / math.fsum(a * b for a, b in zip(p, mu, strict=True)) - p[0]
        return cls(p[0] + rise / 4, math.ceil((16 / rise) ** 2 * p[0] * (1 - p[0])))

    def slipped(self, symbols: NDArray[np.uint8]) -> int | None:
        """The first piece (0 to 15) of a block's symbols at bob's detections that does not fit, None if all do."""
        count = len(symbols) // max(1, min(16, len(symbols) // self.least)) if len(symbols) >= self.least else 0
        if not count:
            return None
        signal = ((symbols & 3) == 0) & (symbols != SYMBOL_ABSENT)
        for piece in range(len(symbols) // count):
            if float(np.mean(signal[piece * count : (piece + 1) * count])) < self.limit:
                return piece
        return None
