"""Packing of bits and checksums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import lib
from qkdd_native.arrays import ByteLike, octets, pointer, size, vector
from qkdd_native.status import Status, StatusError, check


def pack_bits(bits: NDArray[np.uint8]) -> bytes:
    """Pack `bits` (uint8[n], values 0 or 1) into ceil(n / 8) bytes, most significant bit first, unused bits 0.

    A value above 1 is malformed. Constant-time in the bits.
    """
    bits = vector(bits, np.uint8, "bits")
    packed = np.empty((len(bits) + 7) // 8, np.uint8)
    check(lib.qkdd_pack_bits(pointer(bits), len(bits), pointer(packed)), "pack_bits")
    return packed.tobytes()


def unpack_bits(data: ByteLike, n: int) -> NDArray[np.uint8]:
    """The inverse of pack_bits: uint8[n] from exactly ceil(n / 8) bytes whose unused low bits are 0."""
    view = octets(data, "data")
    size(n, "n")
    if len(view) != (n + 7) // 8:
        raise StatusError(
            Status.TRUNCATED if len(view) < (n + 7) // 8 else Status.MALFORMED,
            f"unpack_bits: {n} bits take {(n + 7) // 8} bytes, not {len(view)}",
        )
    bits = np.empty(n, np.uint8)
    check(lib.qkdd_unpack_bits(view, n, pointer(bits)), "unpack_bits")
    return bits


def crc32c(data: ByteLike) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4) of a bytes-like object. Detects accidents, not attacks."""
    view = octets(data, "data")
    return int(lib.qkdd_crc32c(view, len(view)))
