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
SLACK = 12  # a lifting may be this fraction longer than it has to be, for a code whose leak fits better
_DOUBTED, _DOUBT = 0.3, 3  # fraction of bits, most that is taken from their starting message (8 to 16)
SPREAD = 2.6  # standard deviations of a frame's errors above the expected number


@dataclass(frozen=True, slots=True)
class Layout:
    """n key bits in `frames` frames that differ by at most one bit, all under code number `code` with one lifting."""

    n: int
    frames: int
    code: int
    lifting: int

    def frame(self, index: int) -> FrameCode:
        return frame_code(self.code, (self.n - index + self.frames - 1) // self.frames, self.lifting)

    @property
    def leak(self) -> int:
        """Syndrome bits of all frames before any retry."""
        return self.frames * kernels.ldpc_codes()[self.code].rows * self.lifting


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

    def prior(self, attempt: int = 0) -> NDArray[np.int8]:
        """What the decoder starts from. Each further attempt trusts some three tenths of the bits a little less, others each
        time: a decoder that was caught in a trapping set comes out of it another way (decision 0201)."""
        flat = np.full(self.code.size, self.code.KNOWN, np.int8)
        flat[: self.bits] = self.code.start
        if attempt:
            draw = np.random.default_rng(attempt)  # no secret: it only has to differ
            doubted = draw.random(self.bits) < _DOUBTED
            flat[: self.bits][doubted] -= draw.integers(1, _DOUBT, int(doubted.sum()), np.int8, endpoint=True)
        return np.ascontiguousarray(flat.reshape(self.code.lifting, self.code.columns).T).reshape(-1)


@functools.lru_cache(maxsize=64)
def frame_code(code: int, bits: int, lifting: int) -> FrameCode:
    return FrameCode(kernels.ldpc_codes()[code].adapted(bits, lifting), bits)


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
    """The layout for n bits at this error rate on the whole that discloses least: which code, and shortened how far. None if none
    suffices."""
    frames = frame_count(n, most)
    bits = -(-n // frames)
    limit = bits * h2_bound(worst_in_frame(error, n, bits))
    codes = kernels.ldpc_codes()
    least = codes[0].lifting_for(bits)
    best: tuple[int, int, int] | None = None
    for lifting in range(least, min(least + max(1, least // SLACK), codes[0].lifting) + 1, 64):
        for index, code in enumerate(codes):
            syndrome = code.rows * lifting
            if best is not None and syndrome >= best[0]:
                break
            if syndrome >= efficiency(syndrome / bits, bits) * limit:
                best = (syndrome, index, lifting)
                break
    return None if best is None else Layout(n, frames, best[1], best[2])


def most_rows(n: int, most: int) -> Layout:
    """The layout with the code that discloses most."""
    frames, codes = frame_count(n, most), kernels.ldpc_codes()
    return Layout(n, frames, len(codes) - 1, codes[-1].lifting_for(-(-n // frames)))


def ldpc_leak(n: int, error: float, most: int) -> int:
    """Key-dependent bits that LDPC may disclose of n bits at this error rate on the whole, both directions. Raises NoLength."""
    found = layout(n, error, most)
    if found is None:
        raise NoLength(f"no LDPC code corrects an error rate of {error:.4f}", tolerated_error=error)
    return found.leak + (ROUNDS + 1) * (found.frames + COUNT_BITS)
