"""Cascade: one node's side of the error correction of a block."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qkdd_native._kernels import ffi, lib
from qkdd_native.arrays import ByteLike, Workspaces, octets, pointer, size
from qkdd_native.status import Status, StatusError, check

_workspaces = Workspaces(most=1 << 25)  # a block of 2^26 bits takes 150 MB


class CascadeBlock:
    """A block of n key bits, cut into frames that are corrected at the same time.

    packed: ceil(n / 8) bytes, most significant bit first, unused bits 0; 1 <= n <= 2^36. seed: 32 bytes, public, the same on both
    nodes, as are frame_bits (about that many bits a frame, 64 to 2^22), in_flight (frames at the same time) and error_rate (the
    estimate, 0 < e <= 0.5). correct: True on the node whose bits are corrected to the other's. Results are the same on every
    machine and variant. Not for use by several threads at once. The bits are wiped when it dies.
    """

    __slots__ = ("_message", "_work", "asked", "n")

    def __init__(
        self,
        packed: ByteLike,
        n: int,
        seed: ByteLike,
        *,
        error_rate: float,
        frame_bits: int,
        in_flight: int,
        correct: bool,
    ) -> None:
        view, seed_view = octets(packed, "packed"), octets(seed, "seed")
        if len(seed_view) != 32:
            raise StatusError(Status.BAD_ARGUMENT, f"seed must be 32 bytes, not {len(seed_view)}")
        self.n = size(n, "n")
        if len(view) != (self.n + 7) // 8:
            raise StatusError(Status.BAD_ARGUMENT, f"packed must have {(self.n + 7) // 8} bytes, not {len(view)}")
        shape = size(frame_bits, "frame_bits"), size(in_flight, "in_flight")
        rate = float(error_rate) if math.isfinite(error_rate) else 0.0
        words = lib.qkdd_cascade_workspace(self.n, *shape, rate)
        self._work = _workspaces.take(words)
        code = lib.qkdd_cascade_open(
            pointer(self._work), len(self._work), view, self.n, seed_view, *shape, rate, int(correct)
        )
        check(code, "CascadeBlock")
        self._message = np.empty(lib.qkdd_cascade_message(pointer(self._work)), np.uint8)
        self.asked = 0

    def step(self, theirs: ByteLike) -> bytes:
        """Take the other node's parities of the last round (b"" in the first) and give this node's of the next.

        `asked` is then their number, packed most significant bit first; 0, and no bytes, when all frames are finished.
        Malformed, and the end: parities that contradict each other.
        """
        view = octets(theirs, "theirs")
        asked = ffi.new("size_t *")
        check(
            lib.qkdd_cascade_step(pointer(self._work), view, len(view), pointer(self._message), asked),
            "CascadeBlock.step",
        )
        self.asked = int(asked[0])
        return self._message[: (self.asked + 7) // 8].tobytes()

    def close(self, out: bytearray | memoryview | None = None) -> tuple[bytearray | memoryview, int]:
        """The corrected block, packed, in `out` (ceil(n / 8) bytes; None: a new buffer), and how many bits were corrected. Only
        when `step` has asked for nothing more."""
        out = bytearray((self.n + 7) // 8) if out is None else out
        view = ffi.from_buffer("uint8_t[]", out, require_writable=True)
        if len(view) != (self.n + 7) // 8:
            raise StatusError(Status.BAD_ARGUMENT, f"out must have {(self.n + 7) // 8} bytes, not {len(view)}")
        return out, self._end(view)

    def end(self) -> int:
        """As `close` without the block, for the node whose bits stay as they are: how many the other one corrected."""
        return self._end(ffi.NULL)

    def _end(self, out: Any) -> int:
        errors = ffi.new("uint64_t *")
        check(lib.qkdd_cascade_close(pointer(self._work), out, errors), "CascadeBlock.close")
        work, self._work = self._work, np.empty(0, np.uint64)
        _workspaces.keep(work)
        return int(errors[0])

    def wipe(self) -> None:
        """Zero everything; the block refuses every further call."""
        self._work.fill(0)

    def __del__(self) -> None:
        work = getattr(self, "_work", None)
        if work is not None:
            work.fill(0)

    def __repr__(self) -> str:
        return f"<CascadeBlock {self.n} bits>"
