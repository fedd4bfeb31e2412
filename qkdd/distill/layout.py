"""How a key is cut into LDPC frames, and which code they take: pure, the same on both nodes.

Frame i of F holds the bits i, i + F, i + 2F, ... of the key, so all frames see the same error rate whatever the order of the
errors. Within a frame neighbouring bits stand in different columns of circulants, so a burst is spread over all of them. What a
frame has too few bits for is shortened: those positions are 0 on both sides and known to the decoder.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.distill.errors import NoLength
from qkdd.security.entropy import h2_bound

Bits = NDArray[np.uint8]

ROUNDS = 2  # rounds with further rows for frames that failed
COUNT_BITS = 32  # bob's count of errors
SPREAD = 2.6  # standard deviations of a frame's errors above the expected number


@dataclass(frozen=True, slots=True)
class Layout:
    """n key bits in `frames` frames that differ by at most one bit, all under the code number `code` of the family."""

    n: int
    frames: int
    code: int

    def frame(self, index: int) -> FrameCode:
        return frame_code(self.code, (self.n - index + self.frames - 1) // self.frames)

    @property
    def leak(self) -> int:
        """Syndrome bits of all frames before any retry."""
        code, longer = kernels.ldpc_codes()[self.code], self.n % self.frames
        short = self.n // self.frames
        blocks = longer * code.lifting_for(short + 1) + (self.frames - longer) * code.lifting_for(short)
        return code.rows * blocks


@dataclass(frozen=True, slots=True, eq=False)
class FrameCode:
    """One code for frames of `bits` key bits."""

    code: kernels.LdpcCode
    bits: int

    def rows(self, round_: int) -> int:
        """Rows of circulants that are known after this round."""
        return self.code.rows + self.code.extra * round_ // ROUNDS

    def syndrome_bits(self, round_: int) -> int:
        """Syndrome bits that are sent in this round."""
        return (self.rows(round_) - (self.rows(round_ - 1) if round_ else 0)) * self.code.lifting

    def spread(self, key: Bits) -> Bits:
        """uint8[size] of the frame's key bits: in the code's order, shortened positions 0."""
        flat = np.zeros(self.code.size, np.uint8)
        flat[: self.bits] = key
        return np.ascontiguousarray(flat.reshape(self.code.lifting, self.code.columns).T).reshape(-1)

    def gather(self, frame: Bits) -> Bits:
        """The inverse of `spread`."""
        flat: Bits = frame.reshape(self.code.columns, self.code.lifting).T.reshape(-1)[: self.bits]
        return flat

    def prior(self) -> NDArray[np.int8]:
        flat = np.full(self.code.size, self.code.KNOWN, np.int8)
        flat[: self.bits] = self.code.start
        return np.ascontiguousarray(flat.reshape(self.code.lifting, self.code.columns).T).reshape(-1)


@functools.lru_cache(maxsize=64)
def frame_code(code: int, bits: int) -> FrameCode:
    return FrameCode(kernels.ldpc_codes()[code].adapted(bits), bits)


def frame_count(n: int, most: int) -> int:
    """The least number of frames of at most `most` bits."""
    return max(1, math.ceil(n / most))


def worst_in_frame(error: float, n: int, bits: int) -> float:
    """Error rate that a frame of `bits` of n bits with `error` on the whole exceeds in about one case of two hundred."""
    return min(0.5, error + SPREAD * math.sqrt(max(error, 1.0 / n) / bits * (1.0 - bits / n)))


def efficiency(leak: float, bits: int) -> float:
    """Syndrome bits over the Shannon limit with which frames of exactly the expected error rate decode, but for about one in a
    hundred: fitted to the measurements of docs/performance.md."""
    return 1.09 + 0.003 / leak + 500.0 / bits


def layout(n: int, error: float, most: int) -> Layout | None:
    """The layout for n bits at this error rate on the whole: the code with the fewest rows that suffice. None if none does."""
    frames = frame_count(n, most)
    bits = -(-n // frames)
    limit = bits * h2_bound(worst_in_frame(error, n, bits))
    for index, code in enumerate(kernels.ldpc_codes()):
        syndrome = code.rows * code.lifting_for(bits)
        if syndrome >= efficiency(syndrome / bits, bits) * limit:
            return Layout(n, frames, index)
    return None


def ldpc_leak(n: int, error: float, most: int) -> int:
    """Key-dependent bits that LDPC may disclose of n bits at this error rate on the whole, both directions. Raises NoLength."""
    found = layout(n, error, most)
    if found is None:
        raise NoLength(f"no LDPC code corrects an error rate of {error:.4f}", tolerated_error=error)
    return found.leak + (ROUNDS + 1) * (found.frames + COUNT_BITS)
