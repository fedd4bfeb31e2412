"""Universal hashing: Toeplitz (privacy amplification) and the polynomial hash over GF(2^128)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import ffi, lib
from qkdd_native.arrays import ByteLike, Workspaces, octets, pointer, size, vector
from qkdd_native.status import Status, StatusError, check

_workspaces = Workspaces()
# looked up once: an attribute of `lib` costs as much as half a kilobyte of hashing
_update, _hash_of = lib.qkdd_poly_hash_update, lib.qkdd_poly_hash_of


def toeplitz_workspace(n: int, m: int) -> int:
    """Bytes of scratch memory that a product of n input and m output bits takes."""
    return 8 * int(lib.qkdd_toeplitz_workspace(size(n, "n"), size(m, "m")))


def toeplitz(bits: NDArray[np.uint8], seed_bits: NDArray[np.uint8], m: int) -> NDArray[np.uint8]:
    """Multiply a Toeplitz matrix by a bit vector over GF(2): uint8[m].

    out[i] = XOR over j of seed_bits[i - j + n - 1] & bits[j]; bits uint8[n], seed_bits uint8[n + m - 1], values 0 or 1.
    Any n and m up to 2^40; m = 0 gives an empty result, n = 0 zeros. Constant-time in bits and seed. Universal_2 over
    uniformly random seeds (Krawczyk, CRYPTO '94; Bennett et al., IEEE Trans. Inf. Theory 41 (1995) 1915).
    """
    bits = vector(bits, np.uint8, "bits")
    seed_bits = vector(seed_bits, np.uint8, "seed_bits")
    size(m, "m")
    n = len(bits)
    if len(seed_bits) != max(n + m - 1, 0):
        raise StatusError(
            Status.BAD_ARGUMENT, f"toeplitz: the seed must have n + m - 1 = {n + m - 1} bits, not {len(seed_bits)}"
        )
    out = np.empty(m, np.uint8)
    workspace = _workspaces.take(lib.qkdd_toeplitz_workspace(n, m))
    code = lib.qkdd_toeplitz(pointer(bits), n, pointer(seed_bits), m, pointer(out), pointer(workspace), len(workspace))
    _workspaces.keep(workspace)
    check(code, "toeplitz")
    return out


def check_sizes(bits: int, n: int, seed: int, m: int) -> None:
    """Whether so many bytes of input and seed fit n and m. Raises StatusError."""
    wanted = (n + 7) // 8, (max(n + m - 1, 0) + 7) // 8
    if (bits, seed) != wanted:
        raise StatusError(
            Status.BAD_ARGUMENT,
            f"toeplitz_packed: bits and seed must have {wanted[0]} and {wanted[1]} bytes, not {bits} and {seed}",
        )


def toeplitz_packed(bits: ByteLike, n: int, seed: ByteLike, m: int) -> bytearray:
    """`toeplitz` on packed bits, most significant bit first: ceil(m / 8) bytes, an eighth of the memory.

    bits: ceil(n / 8) bytes, seed: ceil((n + m - 1) / 8) bytes; unused low bits of a last byte must be 0.
    """
    size(n, "n")
    size(m, "m")
    views = octets(bits, "bits"), octets(seed, "seed")
    check_sizes(len(views[0]), n, len(views[1]), m)
    out = bytearray((m + 7) // 8)
    workspace = _workspaces.take(lib.qkdd_toeplitz_workspace(n, m))
    code = lib.qkdd_toeplitz_packed(
        views[0], n, views[1], m, ffi.from_buffer("uint8_t[]", out), pointer(workspace), len(workspace)
    )
    _workspaces.keep(workspace)
    check(code, "toeplitz_packed")
    return out


def toeplitz_halves(bits: ByteLike, n: int, seed: ByteLike, m: int) -> bytearray:
    """`toeplitz_packed`, computed as the sum of two products at once on two cores: T x = T1 x1 + T2 x2 (columns cut in two).

    With n1 + n2 = n and out[i] = sum over j of seed[i - j + n - 1] x[j], the first n1 bits take seed[n2:],
    the rest seed[: n2 + m - 1].
    Twice the workspace of half the input. Worth it from about 2^22 bits on, and only when a second core is free.
    """
    views = octets(bits, "bits"), octets(seed, "seed")
    n1 = (n // 2 + 7) // 8 * 8  # a whole number of bytes of the input
    n2 = n - n1
    if n2 <= 0 or m <= 0:
        return toeplitz_packed(bits, n, seed, m)
    check_sizes(len(views[0]), n, len(views[1]), m)
    packed_bits, packed_seed = np.frombuffer(bits, np.uint8), np.frombuffer(seed, np.uint8)
    tail = _from_bit(packed_seed, n2, n1 + m - 1)
    low = packed_seed[: (n2 + m - 1 + 7) // 8].copy()
    if (n2 + m - 1) % 8:
        low[-1] &= 0xFF00 >> (n2 + m - 1) % 8 & 0xFF
    with ThreadPoolExecutor(1) as other:
        second = other.submit(toeplitz_packed, packed_bits[n1 // 8 :].data, n2, low.data, m)
        out = toeplitz_packed(packed_bits[: n1 // 8].data, n1, tail.data, m)
        whole = np.frombuffer(out, np.uint8)
        np.bitwise_xor(whole, np.frombuffer(second.result(), np.uint8), out=whole)
    return out


def _from_bit(packed: NDArray[np.uint8], first: int, count: int) -> NDArray[np.uint8]:
    """`count` bits from bit `first` on, packed anew; what follows them is 0."""
    start, shift, size_ = first // 8, first % 8, (count + 7) // 8
    if not shift:
        out = packed[start : start + size_].copy()
    else:
        out = packed[start : start + size_] << np.uint8(shift)
        carry = packed[start + 1 : start + 1 + size_] >> np.uint8(8 - shift)
        out[: len(carry)] |= carry
    if count % 8:
        out[-1] &= 0xFF00 >> count % 8 & 0xFF
    return out


def _element(data: ByteLike, name: str) -> Any:
    view = octets(data, name)
    if len(view) != 16:
        raise StatusError(Status.BAD_ARGUMENT, f"{name} must be 16 bytes")
    return view


class PolyHash:
    """Polynomial hash over GF(2^128), fed piece by piece: GHASH of NIST SP 800-38D with H = key, A = data, no ciphertext.

    For two different messages of at most L bytes a random key collides with probability at most
    (ceil(L / 16) + 1) / 2^128. Constant-time in data and key. The key is wiped when the object dies.
    """

    __slots__ = ("_state",)

    def __init__(self, key: ByteLike) -> None:
        self._state = ffi.new("qkdd_poly_hash *")
        lib.qkdd_poly_hash_open(self._state, _element(key, "key"))

    def update(self, data: ByteLike) -> PolyHash:
        """Append bytes; returns itself."""
        # bytes go to C as they are: a pointer made first costs as much as a kilobyte of hashing
        view = data if type(data) is bytes else octets(data, "data")
        _update(self._state, view, len(view))
        return self

    def digest(self) -> bytes:
        """Hash (16 bytes) of everything so far; more may follow."""
        out = ffi.new("uint8_t[16]")
        lib.qkdd_poly_hash_digest(self._state, out)
        return bytes(ffi.buffer(out))

    def wipe(self) -> None:
        """Zero the state; from now on it hashes with key 0."""
        lib.qkdd_poly_hash_wipe(self._state)

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state is not None:
            lib.qkdd_poly_hash_wipe(state)

    def __repr__(self) -> str:
        return "<PolyHash>"


_DIGEST = ffi.typeof("uint8_t[16]")


def poly_hash(data: ByteLike, key: ByteLike) -> bytes:
    """`PolyHash(key).update(data).digest()`: 16 bytes."""
    # bytes go to C as they are; at small sizes the call costs more than the hash
    view = data if type(data) is bytes else octets(data, "data")
    secret = key if type(key) is bytes and len(key) == 16 else _element(key, "key")
    out = ffi.new(_DIGEST)
    _hash_of(secret, view, len(view), out)
    digest: bytes = ffi.buffer(out)[:]
    return digest


def gf2_128_multiply(a: ByteLike, b: ByteLike) -> bytes:
    """Product of two elements of GF(2^128), 16 bytes each, in GHASH's bit order (the first bit is the coefficient of x^0)."""
    out = ffi.new("uint8_t[16]")
    lib.qkdd_gf2_128_multiply(_element(a, "a"), _element(b, "b"), out)
    return bytes(ffi.buffer(out))
