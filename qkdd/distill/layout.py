"""How a key is cut into LDPC frames, and which code they take: pure, the same on both nodes.

Frame i of F holds the bits i, i + F, i + 2F, ... of the key, so all frames see the same error rate whatever the order of the
errors. Within a frame neighbouring bits stand in different columns of circulants, so a burst is spread over all of them. What a
frame has too few bits for is shortened: those positions are 0 on both sides and known to the decoder.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.distill.errors import NoLength
from qkdd.security.entropy import h2_bound

Bits = NDArray[np.uint8]

ROUNDS = 2  # rounds for frames that failed: further rows, or private bits that are opened
COUNT_BITS = 32  # bob's count of errors
SLACK = 12  # a lifting may be this fraction longer than it has to be, for a code whose leak fits better
_DOUBTED, _DOUBT = 0.3, 3  # fraction of bits, most that is taken from their starting message (8 to 16)
HELD_MOST = 0.12  # share of a code's rows that private bits may mask: more of them spoil the code (decision 0158)
_rows = attrgetter("rows")
BEYOND, PER_LEAK, PER_FRAME = 1.09, 0.003, 500.0  # of `efficiency`
SPREAD = 2.6  # standard deviations of a frame's errors above the expected number


@dataclass(frozen=True, slots=True)
class Layout:
    """n key bits in `frames` frames that differ by at most one bit, all under code number `code` with one lifting.

    held: columns of circulants that hold private bits of alice (punctured) until a frame fails; then they are opened, half of
    them a round, and at last further rows are sent. 0: further rows at once, half of them a round.
    """

    n: int
    frames: int
    code: int
    lifting: int
    held: int = 0

    def frame(self, index: int) -> FrameCode:
        return frame_code(self.code, (self.n - index + self.frames - 1) // self.frames, self.lifting, self.held)

    @property
    def rounds(self) -> int:
        """Rounds for frames that failed."""
        return ROUNDS + 1 if self.held else ROUNDS

    @property
    def leak(self) -> int:
        """Key-dependent bits of all frames before any retry."""
        return self.frames * (kernels.ldpc_codes()[self.code].rows - self.held) * self.lifting


@dataclass(frozen=True, eq=False)
class FrameCode:
    """One code for frames of `bits` key bits. held: numbers of its punctured columns; others: of those with key."""

    code: kernels.LdpcCode
    bits: int
    held: NDArray[np.int64]
    others: NDArray[np.int64]

    @property
    def private_bits(self) -> int:
        return len(self.held) * self.code.lifting

    def rows(self, round_: int) -> int:
        """Rows of circulants that are known after this round."""
        if len(self.held):
            return self.code.rows + (self.code.extra if round_ > ROUNDS else 0)
        return self.code.rows + self.code.extra * round_ // ROUNDS

    def sent_bits(self, round_: int) -> int:
        """Bits that alice sends in this round: syndrome, or private bits that are opened."""
        if self.opens(round_):
            return len(self.opened(round_))
        return (self.rows(round_) - (self.rows(round_ - 1) if round_ else 0)) * self.code.lifting

    def leak(self, round_: int) -> int:
        """Bits by which this round tells of the key. A syndrome of m bits with p private bits, no two in one check, tells m - p:
        for every key it is uniform over 2^p values. An opened private bit tells one (decision 0158)."""
        return self.sent_bits(round_) - (self.private_bits if round_ == 0 else 0)

    def opens(self, round_: int) -> bool:
        """Whether private bits are opened in this round."""
        return 1 <= round_ <= ROUNDS and len(self.held) > 0

    def opened(self, round_: int) -> range:
        """Which of the private bits are opened in this round."""
        return range(round_ - 1, self.private_bits, ROUNDS)

    def spread(self, key: Bits, private: Bits | None = None) -> Bits:
        """uint8[size] of the frame's key bits: in the code's order, shortened positions 0; and private bits (None: 0)."""
        turned = cut(key, len(self.others), self.code.lifting)
        if not len(self.held):
            return turned.reshape(-1)
        frame = np.empty((self.code.columns, self.code.lifting), np.uint8)
        frame[self.others] = turned
        turned.fill(0)
        frame[self.held] = 0 if private is None else private.reshape(len(self.held), self.code.lifting)
        return frame.reshape(-1)

    def places(self, frame: Bits) -> NDArray[np.int64]:
        """Which of the frame's key bits, in their order, are 1; shortened positions have numbers from `bits` on."""
        column, row = np.divmod(np.flatnonzero(frame.view(np.bool_)), self.code.lifting)
        number = np.full(self.code.columns, -1)
        number[self.others] = np.arange(len(self.others))
        number = number[column]
        kept = number >= 0
        found: NDArray[np.int64] = row[kept] * len(self.others) + number[kept]
        return found

    def private(self, frame: Bits) -> Bits:
        """The private bits of a frame."""
        held: Bits = frame.reshape(self.code.columns, self.code.lifting)[self.held].reshape(-1)
        return held

    def prior(self, attempt: int = 0, opened: NDArray[np.int8] | None = None) -> NDArray[np.int8]:
        """What the decoder starts from. opened: int8[private_bits], 0 or ± KNOWN; None: none is opened. Each further attempt
        trusts some three tenths of the bits a little less, others each time: a decoder that was caught in a trapping set comes
        out of it another way (decision 0201)."""
        if not attempt and opened is None:
            return self._start
        flat = np.full((self.code.lifting, len(self.others)), self.code.KNOWN, np.int8)
        flat.reshape(-1)[: self.bits] = self.code.start
        if attempt:
            draw = np.random.default_rng(attempt)  # no secret: it only has to differ
            doubted = draw.random(self.bits) < _DOUBTED
            lower = draw.integers(1, _DOUBT, int(doubted.sum()), np.int8, endpoint=True)
            flat.reshape(-1)[: self.bits][doubted] -= lower
        prior = np.empty((self.code.columns, self.code.lifting), np.int8)
        prior[self.others] = kernels.transpose(flat.view(np.uint8)).view(np.int8)
        prior[self.held] = 0 if opened is None else opened.reshape(len(self.held), self.code.lifting)
        return prior.reshape(-1)

    @functools.cached_property
    def _start(self) -> NDArray[np.int8]:
        start = self.prior(0, np.zeros(self.private_bits, np.int8))
        start.flags.writeable = False
        return start


@functools.lru_cache(maxsize=64)
def frame_code(code: int, bits: int, lifting: int, held: int = 0) -> FrameCode:
    adapted = kernels.ldpc_codes()[code].adapted(bits + held * lifting, lifting)
    punctured = adapted.punctured(held)
    return FrameCode(adapted, bits, punctured, np.setdiff1d(np.arange(adapted.columns), punctured))


def cut(bits: Bits, rows: int, width: int | None = None) -> Bits:
    """uint8[rows, width]: row i holds the bits i, i + rows, i + 2 rows, ... and zeros behind. width: None for the least."""
    whole, more = divmod(len(bits), rows)
    out = np.zeros((rows, whole + (more > 0) if width is None else width), np.uint8)
    if whole:
        kernels.transpose(bits[: whole * rows].reshape(whole, rows), out[:, :whole])
    if more:
        out[:more, whole] = bits[whole * rows :]
    return out


def frame_count(n: int, most: int) -> int:
    """The least number of frames of at most `most` bits."""
    return max(1, math.ceil(n / most))


def worst_in_frame(error: float, n: int, bits: int) -> float:
    """Error rate that a frame of `bits` of n bits with `error` on the whole exceeds in about one case of two hundred."""
    return min(0.5, error + SPREAD * math.sqrt(max(error, 1.0 / n) / bits * (1.0 - bits / n)))


def efficiency(leak: float, bits: int) -> float:
    """Syndrome bits over the Shannon limit with which frames of exactly the expected error rate decode, but for about one in a
    hundred: fitted to the measurements of docs/performance.md."""
    return BEYOND + PER_LEAK / leak + PER_FRAME / bits


def layout(n: int, error: float, most: int) -> Layout | None:
    """The layout for n bits at this error rate on the whole that discloses least: which code, and shortened how far. None if none
    suffices."""
    frames = frame_count(n, most)
    bits = -(-n // frames)
    limit = bits * h2_bound(worst_in_frame(error, n, bits))
    codes = kernels.ldpc_codes()
    least = codes[0].lifting_for(bits)
    best: tuple[int, int, int] | None = None
    # the least syndrome with syndrome >= efficiency(syndrome / bits, bits) * limit, which is a quadratic equation
    half = (BEYOND + PER_FRAME / bits) * limit / 2.0
    wanted = half + math.sqrt(half * half + PER_LEAK * bits * limit)
    for lifting in range(least, min(least + max(1, least // SLACK), codes[0].lifting) + 1, 64):
        index = bisect_left(codes, wanted / lifting, key=_rows)
        if index < len(codes) and (best is None or codes[index].rows * lifting < best[0]):
            best = (codes[index].rows * lifting, index, lifting)
    return None if best is None else Layout(n, frames, best[1], best[2])


def blind_layout(n: int, likely: float, worst: float, most: int) -> Layout | None:
    """For a leak that is subtracted as sent: a code that suffices for the error rate `worst`, punctured down to what `likely`
    asks for. None if no code suffices."""
    frames = frame_count(n, most)
    bits = -(-n // frames)
    first, whole = bits * h2_bound(likely), bits * h2_bound(worst_in_frame(worst, n, bits))
    asked = efficiency(first / bits, bits) * first
    codes = kernels.ldpc_codes()
    least = codes[0].lifting_for(bits)
    best: Layout | None = None
    for lifting in range(least, min(least + max(1, least // SLACK), codes[0].lifting) + 1, 64):
        room = codes[0].columns - -(-bits // lifting)  # columns that the key does not fill
        for index, code in enumerate(codes):
            syndrome = code.rows * lifting
            if syndrome < max(asked, efficiency(syndrome / bits, bits) * whole):
                continue
            held = min(int((syndrome - asked) // lifting), round(HELD_MOST * code.rows), room)
            found = Layout(n, frames, index, lifting, held)
            best = found if best is None or found.leak < best.leak else best
            break
    return best


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
