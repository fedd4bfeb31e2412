"""Key bits in the form that the kernels take: packed, an eighth of the memory that a byte a bit would fill and wipe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels


class PackedBits:
    """`n` key bits in `ceil(n / 8)` bytes, most significant bit first, unused bits of the last byte 0.

    It owns `data`: whoever makes one gives the buffer away, and `wipe` zeroes it.
    """

    __slots__ = ("data", "n")

    def __init__(self, data: bytearray, n: int) -> None:
        if len(data) != (n + 7) // 8:
            raise ValueError(f"{n} bits take {(n + 7) // 8} bytes, not {len(data)}")
        if n % 8 and data[-1] & 0xFF >> n % 8:
            raise ValueError("bits are set behind the last")
        self.data, self.n = data, n

    @classmethod
    def of(cls, bits: NDArray[np.uint8]) -> PackedBits:
        """From uint8[n], values 0 or 1. Raises KernelMalformed for others."""
        return cls(kernels.pack_key(bits), len(bits))

    def unpacked(self) -> NDArray[np.uint8]:
        """uint8[n]; the caller zeroes it."""
        return kernels.unpack_bits(self.data, self.n)

    def copy(self) -> PackedBits:
        return PackedBits(bytearray(self.data), self.n)

    def wipe(self) -> None:
        """Zero the bits; the object keeps its length."""
        zero(self.data)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"<PackedBits {self.n}>"


def zero(data: bytearray | memoryview) -> None:
    """Overwrite with zeros, in place."""
    np.frombuffer(data, np.uint8).fill(0)
