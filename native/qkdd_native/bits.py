"""Packing of bits, random subsets, checksums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import ffi, lib
from qkdd_native.arrays import ByteLike, octets, pointer, same_length, size, vector
from qkdd_native.status import Status, StatusError, check


def pack_bits(bits: NDArray[np.uint8]) -> bytes:
    """Pack `bits` (uint8[n], values 0 or 1) into ceil(n / 8) bytes, most significant bit first, unused bits 0.

    A value above 1 is malformed. Constant-time in the bits.
    """
    bits = vector(bits, np.uint8, "bits")
    packed = np.empty((len(bits) + 7) // 8, np.uint8)
    check(lib.qkdd_pack_bits(pointer(bits), len(bits), pointer(packed)), "pack_bits")
    return packed.tobytes()


def pack_key(bits: NDArray[np.uint8]) -> bytearray:
    """As `pack_bits`, into memory that its owner can zero and that nothing was copied from."""
    bits = vector(bits, np.uint8, "bits")
    packed = bytearray((len(bits) + 7) // 8)
    check(lib.qkdd_pack_bits(pointer(bits), len(bits), ffi.from_buffer("uint8_t[]", packed)), "pack_key")
    return packed


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


def transpose(matrix: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """uint8[columns, rows] from uint8[rows, columns], both with contiguous rows; into `out` if given. Constant-time in the
    bytes."""
    if matrix.ndim != 2 or matrix.dtype != np.uint8:
        raise StatusError(Status.BAD_ARGUMENT, f"transpose: a matrix of bytes, not {matrix.dtype}{list(matrix.shape)}")
    rows, columns = matrix.shape
    if out is None:
        out = np.empty((columns, rows), np.uint8)
    if out.shape != (columns, rows) or out.dtype != np.uint8 or not out.flags.writeable:
        raise StatusError(Status.BAD_ARGUMENT, f"transpose: {out.dtype}{list(out.shape)} cannot hold the result")
    if rows == 0 or columns == 0:
        return out
    source, target = ffi.cast("uint8_t *", matrix.ctypes.data), ffi.cast("uint8_t *", out.ctypes.data)
    check(lib.qkdd_transpose_bytes(source, rows, columns, _stride(matrix), target, _stride(out)), "transpose")
    return out


def _stride(matrix: NDArray[np.uint8]) -> int:
    """Bytes from one row to the next; numpy gives any for an axis of length one."""
    rows, columns = matrix.shape
    if (columns > 1 and matrix.strides[1] != 1) or (rows > 1 and matrix.strides[0] < columns):
        raise StatusError(Status.BAD_ARGUMENT, "transpose: rows must be contiguous and must not overlap")
    return matrix.strides[0] if rows > 1 else columns


_DRAWS = 1 << 15  # random numbers a call


def random_subset(m: int, k: int, random: Callable[[int], bytes]) -> bytearray:
    """Map of k of m positions, packed, every subset of that size equally likely. random(n) gives n uniform bytes.

    0 <= k <= m < 2^32. Draws positions until k are chosen (or, if fewer, the m - k that are not).
    """
    size(m, "m", 2**32 - 1)
    if not 0 <= k <= m:
        raise StatusError(Status.BAD_ARGUMENT, f"random_subset: k must be between 0 and m = {m}, not {k}")
    chosen = bytearray((m + 7) // 8)
    missing = ffi.new("size_t *", min(k, m - k))
    view = ffi.from_buffer("uint8_t[]", chosen)
    while missing[0]:
        draws = min(_DRAWS, missing[0] + missing[0] // 8 + 16)
        check(lib.qkdd_subset_draw(random(4 * draws), draws, m, view, missing), "random_subset")
    if k > m - k:
        inverse = np.frombuffer(chosen, np.uint8) ^ np.uint8(0xFF)
        chosen[:] = inverse.tobytes()
        if m % 8:
            chosen[-1] &= 0xFF00 >> m % 8 & 0xFF
    return chosen


def split_subset(packed: ByteLike, chosen: ByteLike, m: int, k: int) -> tuple[bytearray, bytearray]:
    """(the k bits under the map `chosen`, the m - k others), each in their order; everything packed, unused bits 0.

    Malformed: a map with another number of positions, or set bits behind the last. Constant-time in the bits.
    """
    size(m, "m")
    views = octets(packed, "packed"), octets(chosen, "chosen")
    if not 0 <= k <= m or any(len(view) != (m + 7) // 8 for view in views):
        raise StatusError(Status.BAD_ARGUMENT, f"split_subset: {m} bits take {(m + 7) // 8} bytes, and 0 <= k <= m")
    inside, outside = bytearray((k + 7) // 8), bytearray((m - k + 7) // 8)
    code = lib.qkdd_subset_split(
        *views, m, k, ffi.from_buffer("uint8_t[]", inside), ffi.from_buffer("uint8_t[]", outside)
    )
    check(code, "split_subset")
    return inside, outside


def pack_subset(chosen: ByteLike, m: int, k: int) -> bytes:
    """The map of k of m positions in the shorter of two forms, which m and k decide: the map itself, or from eight positions for
    one that is chosen on, a byte for each of these (`qkdd_subset_pack`), at most k + m / 255 bytes. Not constant-time.

    Malformed: a map with another number of positions, or set bits behind the last.
    """
    view = octets(chosen, "chosen")
    if not 0 <= k <= size(m, "m") or len(view) != (m + 7) // 8:
        raise StatusError(Status.BAD_ARGUMENT, f"pack_subset: {m} positions take {(m + 7) // 8} bytes, and 0 <= k <= m")
    if 8 * k >= m:
        return bytes(ffi.buffer(view))
    room, used = ffi.new("uint8_t[]", k + m // 255), ffi.new("size_t *")
    check(lib.qkdd_subset_pack(view, m, k, room, len(room), used), "pack_subset")
    return bytes(ffi.buffer(room, used[0]))


def unpack_subset(data: ByteLike, m: int, k: int) -> bytearray:
    """The map, ceil(m / 8) bytes, that `pack_subset` took. Malformed: what is not exactly that for these m and k; the number of
    positions in a map is left to `split_subset`."""
    view = octets(data, "data")
    if not 0 <= k <= size(m, "m"):
        raise StatusError(Status.BAD_ARGUMENT, f"unpack_subset: k must be between 0 and m = {m}, not {k}")
    if 8 * k >= m:
        if len(view) != (m + 7) // 8:
            raise StatusError(Status.MALFORMED, f"unpack_subset: a map of {m} positions takes {(m + 7) // 8} bytes")
        return bytearray(ffi.buffer(view))
    chosen = bytearray((m + 7) // 8)
    check(lib.qkdd_subset_unpack(view, len(view), m, k, ffi.from_buffer("uint8_t[]", chosen)), "unpack_subset")
    return chosen


def class_counts(labels: NDArray[np.uint8], chosen: NDArray[np.bool_] | None = None) -> NDArray[np.uint64]:
    """uint64[256]: how many of the labels (uint8[n]) have each value, among those that are chosen (bool[n]; None: all).

    Not constant-time: for labels that are public (bases, intensities, detectors), not for key bits.
    """
    labels = vector(labels, np.uint8, "labels")
    mask = ffi.NULL
    if chosen is not None:
        wanted = vector(chosen, np.bool_, "chosen").view(np.uint8)
        same_length(labels, wanted, "labels and chosen")
        mask = pointer(wanted)
    counts = np.empty(256, np.uint64)
    check(lib.qkdd_class_counts(pointer(labels), mask, len(labels), pointer(counts)), "class_counts")
    return counts


def crc32c(data: ByteLike) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4) of a bytes-like object. Detects accidents, not attacks."""
    view = octets(data, "data")
    return int(lib.qkdd_crc32c(view, len(view)))
