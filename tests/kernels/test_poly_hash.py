"""The polynomial hash against OpenSSL's GHASH (through AES-GCM) and against arithmetic on integers."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels

block = st.binary(min_size=16, max_size=16)


def ghash_of_openssl(cipher_key: bytes, data: bytes) -> tuple[bytes, bytes]:
    """(H, GHASH_H(A = data)): the tag of an empty plaintext without its mask E(J0)."""
    nonce = bytes(12)
    hash_key, mask = (
        Cipher(algorithms.AES(cipher_key), modes.CTR(counter)).encryptor().update(bytes(16))
        for counter in (bytes(16), nonce + b"\x00\x00\x00\x01")
    )
    tag = AESGCM(cipher_key).encrypt(nonce, b"", data)
    return hash_key, bytes(x ^ y for x, y in zip(tag, mask, strict=True))


def multiply_oracle(a: bytes, b: bytes) -> bytes:
    """NIST SP 800-38D, algorithm 1."""
    x, v, z = int.from_bytes(a, "big"), int.from_bytes(b, "big"), 0
    for i in range(127, -1, -1):
        z ^= v if x >> i & 1 else 0
        v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return z.to_bytes(16, "big")


@given(block, block)
def test_product_agrees_with_the_standard(a, b):
    assert kernels.gf2_128_multiply(a, b) == multiply_oracle(a, b)


def test_product_at_the_corners():
    one = b"\x80" + bytes(15)
    for element in (bytes(16), one, bytes(15) + b"\x01", b"\xff" * 16):
        assert kernels.gf2_128_multiply(element, one) == element
        assert kernels.gf2_128_multiply(element, bytes(16)) == bytes(16)
        assert kernels.gf2_128_multiply(element, element) == multiply_oracle(element, element)


@settings(max_examples=60)
@given(
    block, st.one_of(st.binary(max_size=600), st.integers(0, 3000).map(lambda n: bytes(i * 37 & 255 for i in range(n))))
)
def test_hash_agrees_with_openssl(cipher_key, data):
    hash_key, expected = ghash_of_openssl(cipher_key, data)
    assert kernels.poly_hash(data, hash_key) == expected


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 127, 128, 129, 255, 256, 257, 511, 512, 513, 65_537])
def test_sizes_around_the_aggregation(size):
    data = bytes((i * i + 5 * i) & 255 for i in range(size))
    hash_key, expected = ghash_of_openssl(b"sixteen byte key", data)
    assert kernels.poly_hash(data, hash_key) == expected
    assert kernels.poly_hash(memoryview(b"\x00" + data)[1:], hash_key) == expected


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6), block)
def test_pieces_give_the_same_hash_as_the_whole(data, cuts, key):
    stream = kernels.PolyHash(key)
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        stream.update(data[start:stop])
        assert stream.digest() == kernels.poly_hash(data[:stop], key)


def test_length_is_part_of_the_hash():
    key = b"\x17" * 16
    assert len({kernels.poly_hash(bytes(n), key) for n in range(40)}) == 40


def test_refusals_and_wiping():
    for call in (
        lambda: kernels.poly_hash(b"", b"short"),
        lambda: kernels.PolyHash(bytes(17)),
        lambda: kernels.gf2_128_multiply(bytes(15), bytes(16)),
        lambda: kernels.PolyHash(bytes(16)).update("text"),
    ):
        with pytest.raises(kernels.KernelArgument):
            call()
    stream = kernels.PolyHash(b"\x17" * 16).update(b"data")
    stream.wipe()
    assert stream.digest() == bytes(16)
    assert "17" not in repr(stream)
