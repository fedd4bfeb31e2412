"""Arrays in the link's messages: decoding refuses whatever does not fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.distill.errors import BlockMalformed


def pack_detectors(detectors: NDArray[np.uint8]) -> bytes:
    """Two bits a detector: basis, bit."""
    return kernels.pack_bits(np.stack((detectors >> 1, detectors & 1), axis=1).astype(np.uint8).reshape(-1))


def unpack_detectors(data: bytes, count: int) -> NDArray[np.uint8]:
    bits = unpack_bits(data, 2 * count)
    return (bits[0::2] << 1 | bits[1::2]).astype(np.uint8)


def unpack_bits(data: bytes, count: int) -> NDArray[np.uint8]:
    """Raises BlockMalformed."""
    try:
        return kernels.unpack_bits(data, count)
    except kernels.KernelError as error:
        raise BlockMalformed(f"packed bits of the other node: {error.message}") from None


def unpack_rising(data: bytes, count: int, below: int) -> NDArray[np.int64]:
    """Strictly rising numbers from 0 to `below` - 1. Raises BlockMalformed."""
    try:
        values = kernels.gap_decode(data, count)
    except kernels.KernelError as error:
        raise BlockMalformed(f"coded numbers of the other node: {error.message}") from None
    if count and (int(values[-1]) >= below or bool(np.any(values[1:] == values[:-1]))):
        raise BlockMalformed("coded numbers of the other node repeat or go too far")
    return values
