"""Packing, unpacking and the checksum against numpy and a bit-by-bit oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd import kernels

sizes = st.one_of(st.integers(0, 200), st.sampled_from([511, 512, 513, 4095, 65537]))


def random_bits(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, n, dtype=np.uint8)


@given(sizes, st.integers(0, 2**32))
def test_pack_and_unpack_agree_with_numpy(n, seed):
    bits = random_bits(n, seed)
    packed = kernels.pack_bits(bits)
    assert packed == np.packbits(bits).tobytes()
    assert (kernels.unpack_bits(packed, n) == bits).all()


@given(st.integers(0, 130), st.integers(0, 7), st.integers(1, 3))
def test_unaligned_and_strided_arrays(n, offset, stride):
    bits = random_bits(offset + n * stride, n)[offset::stride][:n]
    packed = kernels.pack_bits(bits)
    assert packed == np.packbits(bits).tobytes()
    shifted = memoryview(bytes(offset) + packed)[offset:]
    assert (kernels.unpack_bits(shifted, n) == bits).all()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 100])
def test_a_value_above_one_is_refused_wherever_it_stands(n):
    for at in {0, n // 2, n - 1}:
        for value in (2, 128, 255):
            bits = np.zeros(n, np.uint8)
            bits[at] = value
            with pytest.raises(kernels.KernelMalformed):
                kernels.pack_bits(bits)


def test_unpack_refuses_wrong_sizes_and_set_unused_bits():
    with pytest.raises(kernels.KernelTruncated):
        kernels.unpack_bits(b"\xff", 9)
    with pytest.raises(kernels.KernelMalformed):
        kernels.unpack_bits(b"\xff\x00", 8)
    with pytest.raises(kernels.KernelMalformed):
        kernels.unpack_bits(b"\xff\x01", 15)
    assert kernels.unpack_bits(b"\xff\x80", 9).tolist() == [1] * 9


def test_wrong_types_are_refused_not_converted():
    for wrong in ([0, 1], np.zeros(3, np.int64), np.zeros((2, 2), np.uint8), np.zeros(3, np.bool_)):
        with pytest.raises(kernels.KernelArgument):
            kernels.pack_bits(wrong)
    with pytest.raises(kernels.KernelArgument):
        kernels.unpack_bits("text", 3)
    with pytest.raises(kernels.KernelArgument):
        kernels.unpack_bits(b"", -1)


def crc_oracle(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_known_answers():
    assert kernels.crc32c(b"") == 0
    assert kernels.crc32c(b"123456789") == 0xE3069283
    assert kernels.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert kernels.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert kernels.crc32c(bytes(range(32))) == 0x46DD794E


@given(st.binary(max_size=200), st.integers(0, 7))
def test_crc32c_agrees_bit_by_bit_at_any_alignment(data, offset):
    assert kernels.crc32c(memoryview(bytes(offset) + data)[offset:]) == crc_oracle(data)
