"""Cascade: one frame's bits in the permuted order of every pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import lib
from qkdd_native.arrays import ByteLike, octets, pointer, same_length, size, vector
from qkdd_native.status import Status, StatusError, check

Positions = NDArray[np.uint32]


class CascadeFrame:
    """A frame of n bits and its permutation for each of `passes` passes.

    bits: uint8[n], values 0 or 1, 1 <= n < 2^31; seed: 32 bytes, public, the same on both sides; 1 <= passes <= 64.
    Every pass, the first too, has a permutation that depends on (seed, pass, n) alone and is the same on every machine and
    variant. Positions are uint32 in [0, n). Not for use by several threads at once. The bits are wiped when it dies.
    """

    __slots__ = ("_frame", "passes", "size")

    def __init__(self, bits: NDArray[np.uint8], seed: ByteLike, passes: int) -> None:
        bits = vector(bits, np.uint8, "bits")
        seed_view = octets(seed, "seed")
        if len(seed_view) != 32:
            raise StatusError(Status.BAD_ARGUMENT, f"seed must be 32 bytes, not {len(seed_view)}")
        self.size = len(bits)
        self.passes = size(passes, "passes")
        self._frame = np.empty(lib.qkdd_cascade_workspace(self.size, self.passes), np.uint64)
        code = lib.qkdd_cascade_open(
            pointer(self._frame), len(self._frame), pointer(bits), self.size, seed_view, self.passes
        )
        check(code, "CascadeFrame")

    def range_parities(self, pass_: int, starts: Positions, stops: Positions) -> NDArray[np.uint8]:
        """Parities uint8[k] of the bits at the permuted positions [starts[i], stops[i]); an empty range has parity 0."""
        starts = vector(starts, np.uint32, "starts")
        stops = vector(stops, np.uint32, "stops")
        same_length(starts, stops, "starts and stops")
        parities = np.empty(len(starts), np.uint8)
        code = lib.qkdd_cascade_parities(
            pointer(self._frame), size(pass_, "pass_"), pointer(starts), pointer(stops), len(starts), pointer(parities)
        )
        check(code, "range_parities")
        return parities

    def flip(self, positions: Positions) -> None:
        """Flip the bits at these original positions in every pass; a position named twice is flipped twice."""
        positions = vector(positions, np.uint32, "positions")
        check(lib.qkdd_cascade_flip(pointer(self._frame), pointer(positions), len(positions)), "flip")

    def to_original(self, pass_: int, positions: Positions) -> Positions:
        """Original positions uint32[k] of permuted ones."""
        positions = vector(positions, np.uint32, "positions")
        out = np.empty(len(positions), np.uint32)
        code = lib.qkdd_cascade_to_original(
            pointer(self._frame), size(pass_, "pass_"), pointer(positions), len(positions), pointer(out)
        )
        check(code, "to_original")
        return out

    def to_permuted(self, pass_: int, positions: Positions) -> Positions:
        """Permuted positions uint32[k] of original ones."""
        positions = vector(positions, np.uint32, "positions")
        out = np.empty(len(positions), np.uint32)
        code = lib.qkdd_cascade_to_permuted(
            pointer(self._frame), size(pass_, "pass_"), pointer(positions), len(positions), pointer(out)
        )
        check(code, "to_permuted")
        return out

    def bits(self) -> NDArray[np.uint8]:
        """The bits in original order, uint8[n], with all flips."""
        out = np.empty(self.size, np.uint8)
        check(lib.qkdd_cascade_bits(pointer(self._frame), pointer(out)), "bits")
        return out

    def wipe(self) -> None:
        """Zero everything; the frame refuses every further call."""
        self._frame.fill(0)

    def __del__(self) -> None:
        frame = getattr(self, "_frame", None)
        if frame is not None:
            frame.fill(0)

    def __repr__(self) -> str:
        return f"<CascadeFrame {self.size} bits, {self.passes} passes>"
