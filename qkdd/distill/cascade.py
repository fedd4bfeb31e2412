"""Cascade without I/O: which ranges to compare next, and which positions are errors.

Both nodes run the same machine on the same public bits, the XOR of their two parities of each range, so they always agree
on the next ranges without naming them on the wire. Every pass keeps the whole partition that its parities know: a
bisection splits a segment for good, and an error found in any pass flips the segment around it in all others (Brassard
and Salvail 1993 with sub-block reuse; block sizes near Yan et al. 2009).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qkdd.distill.errors import BlockMalformed

Bits = NDArray[np.uint8]
Positions = NDArray[np.uint32]

# Block sizes of the first passes in units of the first, whose size is FIRST_BLOCK over the error rate.
FIRST_BLOCK = 0.8
GROWTH = (1.0, 4.0, 20.0)
# Passes over two random halves after them: each misses a given remaining error pattern with probability about 1/2.
HALF_PASSES = 16
PASSES = len(GROWTH) + HALF_PASSES


class ParityFrame(Protocol):
    """One node's bits in the order of every pass; `qkdd.kernels.CascadeFrame` is the real one."""

    def range_parities(self, pass_: int, starts: Positions, stops: Positions) -> Bits: ...
    def flip(self, positions: Positions) -> None: ...
    def to_original(self, pass_: int, positions: Positions) -> Positions: ...
    def to_permuted(self, pass_: int, positions: Positions) -> Positions: ...


@dataclass(frozen=True, slots=True)
class Ranges:
    """Compare these parities: positions start <= i < stop in the order of `pass_index`."""

    pass_index: int
    starts: Positions
    stops: Positions

    def __len__(self) -> int:
        return int(self.starts.size)


@dataclass(slots=True)
class _Pass:
    """A partition of 0 .. n - 1: segment i is bounds[i] .. bounds[i + 1] - 1, odd[i] its known parity difference."""

    bounds: NDArray[np.int64]
    odd: Bits

    def toggle(self, permuted: Positions) -> None:
        segments = np.searchsorted(self.bounds, permuted, side="right") - 1
        np.bitwise_xor.at(self.odd, segments, np.uint8(1))


def error_estimate(errors: int, size: int) -> float:
    """Error rate for which the first blocks are sized: (errors + 1)/(size + 2), never 0 (Laplace's rule)."""
    return (errors + 1) / (size + 2)


def block_counts(n: int, error_rate: float) -> list[int]:
    """Number of blocks of each of the first passes."""
    first = FIRST_BLOCK / min(max(error_rate, 1e-9), 0.5)
    return [max(1, min(n, round(n / (first * growth)))) for growth in GROWTH]


class Cascade:
    """The machine for one frame of n bits. With `correct` it flips what it finds in the frame (bob does, alice does not)."""

    def __init__(self, n: int, error_rate: float, frame: ParityFrame, *, correct: bool) -> None:
        self._n, self._frame, self._flips = n, frame, correct
        self._counts = block_counts(n, error_rate)
        self._passes: list[_Pass] = []
        self._corrected = np.zeros(n, np.bool_)

    @property
    def error_count(self) -> int:
        return int(np.count_nonzero(self._corrected))

    def run(self) -> Generator[list[Ranges], list[Bits], None]:
        """Yields ranges, wants the parity differences of each in the order asked, and ends when all parities agree.

        Raises BlockMalformed if the differences contradict each other.
        """
        for count in self._counts:
            yield from self._open([count])
            yield from self._settle()
        yield from self._open([min(2, self._n)] * HALF_PASSES)
        yield from self._settle()

    def _open(self, counts: list[int]) -> Generator[list[Ranges], list[Bits], None]:
        ask: list[Ranges] = []
        opened: list[NDArray[np.int64]] = []
        first = len(self._passes)
        for offset, count in enumerate(counts):
            bounds = (np.arange(count + 1, dtype=np.int64) * self._n) // count
            opened.append(bounds)
            # all earlier parities are even by now, so the last block of a later pass follows from its others
            stop = count if first == 0 and offset == 0 else count - 1
            ask.append(Ranges(first + offset, bounds[:stop].astype(np.uint32), bounds[1 : stop + 1].astype(np.uint32)))
        wanted = [ranges for ranges in ask if len(ranges)]
        answers = iter((yield wanted) if wanted else [])
        for bounds, ranges in zip(opened, ask, strict=True):
            odd = np.zeros(bounds.size - 1, np.uint8)
            if len(ranges):
                odd[: len(ranges)] = next(answers)
            if len(ranges) < odd.size:
                odd[-1] = np.bitwise_xor.reduce(odd)
            self._passes.append(_Pass(bounds, odd))

    def _settle(self) -> Generator[list[Ranges], list[Bits], None]:
        """Bisect until no known segment is odd: always all odd segments of the pass where they are shortest."""
        while True:
            best, best_mean = -1, math.inf
            for index, known in enumerate(self._passes):
                segments = np.flatnonzero(known.odd)
                if segments.size:
                    mean = float(np.mean(known.bounds[segments + 1] - known.bounds[segments]))
                    if mean < best_mean:
                        best, best_mean = index, mean
            if best < 0:
                return
            yield from self._bisect(best)

    def _bisect(self, index: int) -> Generator[list[Ranges], list[Bits], None]:
        known = self._passes[index]
        segments = np.flatnonzero(known.odd)
        starts, stops = known.bounds[segments], known.bounds[segments + 1]
        cuts: list[NDArray[np.int64]] = []
        ends: list[NDArray[np.int64]] = []
        while True:
            single = stops - starts == 1
            ends.append(starts[single])
            starts, stops = starts[~single], stops[~single]
            if not starts.size:
                break
            middles = (starts + stops) // 2
            answer = yield [Ranges(index, starts.astype(np.uint32), middles.astype(np.uint32))]
            left = answer[0].astype(np.bool_)
            cuts.append(middles)
            starts, stops = np.where(left, starts, middles), np.where(left, middles, stops)
        found = np.sort(np.concatenate(ends))
        known.bounds = np.unique(np.concatenate([known.bounds, *cuts]))
        known.odd = np.zeros(known.bounds.size - 1, np.uint8)
        known.odd[np.searchsorted(known.bounds, found)] = 1
        self._correct(self._frame.to_original(index, found.astype(np.uint32)))

    def _correct(self, positions: Positions) -> None:
        if self._corrected[
            positions
        ].any():  # between honest nodes a bisection ends at an error, and an error ends there
            raise BlockMalformed("the parities of the two nodes contradict each other")
        self._corrected[positions] = True
        if self._flips:
            self._frame.flip(positions)
        for index, known in enumerate(self._passes):
            known.toggle(self._frame.to_permuted(index, positions))
