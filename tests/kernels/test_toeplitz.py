"""The Toeplitz product against the definition, by numpy at small and by an FFT at large sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve

from qkdd import kernels


def random_bits(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 2, n, dtype=np.uint8)


def oracle(bits: np.ndarray, seed: np.ndarray, m: int) -> np.ndarray:
    n = len(bits)
    i, j = np.ogrid[:m, :n]
    return (
        (seed[i - j + n - 1] & bits).sum(axis=1, dtype=np.int64).astype(np.uint8) & 1
        if m * n
        else np.zeros(m, np.uint8)
    )


def fft_oracle(bits: np.ndarray, seed: np.ndarray, m: int) -> np.ndarray:
    product = np.rint(fftconvolve(seed.astype(np.float64), bits.astype(np.float64))).astype(np.int64)
    return (product[len(bits) - 1 : len(bits) - 1 + m] & 1).astype(np.uint8)


@settings(max_examples=80)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 2**32))
def test_small_sizes_agree_with_the_matrix(n, m, seed):
    rng = np.random.default_rng(seed)
    bits, seed_bits = random_bits(rng, n), random_bits(rng, max(n + m - 1, 0))
    assert (kernels.toeplitz(bits, seed_bits, m) == oracle(bits, seed_bits, m)).all()


@pytest.mark.parametrize(
    ("n", "m"),
    [
        (1, 5000),
        (5000, 1),
        (512, 512),
        (513, 511),
        (4096, 4097),
        (9999, 3001),
        (3001, 9999),
        (65_536, 40_000),
        (200_000, 100_000),
    ],
)
def test_large_sizes_agree_with_a_convolution(n, m):
    rng = np.random.default_rng(n * 7 + m)
    bits, seed_bits = random_bits(rng, n), random_bits(rng, n + m - 1)
    assert (kernels.toeplitz(bits, seed_bits, m) == fft_oracle(bits, seed_bits, m)).all()


@pytest.mark.parametrize(("n", "m"), [(40, 70), (700, 900), (20_000, 9_000)])
def test_it_is_linear_and_one_hot_inputs_read_the_seed(n, m):
    rng = np.random.default_rng(n)
    seed_bits = random_bits(rng, n + m - 1)
    a, b = random_bits(rng, n), random_bits(rng, n)
    both = kernels.toeplitz(a, seed_bits, m) ^ kernels.toeplitz(b, seed_bits, m)
    assert (kernels.toeplitz(a ^ b, seed_bits, m) == both).all()
    for j in (0, 1, n // 2, n - 1):
        one = np.zeros(n, np.uint8)
        one[j] = 1
        assert (kernels.toeplitz(one, seed_bits, m) == seed_bits[n - 1 - j : n - 1 - j + m]).all()


def in_pieces(bits: np.ndarray, seed: np.ndarray, m: int, side: int) -> np.ndarray:
    """The same product from small ones, which take the way without transforms."""
    n = len(bits)
    out = np.zeros(m, np.uint8)
    for i in range(0, m, side):
        rows = min(side, m - i)
        for j in range(0, n, side):
            columns = min(side, n - j)
            start = i - j + n - columns
            part = seed[start : start + columns + rows - 1]
            out[i : i + rows] ^= kernels.toeplitz(bits[j : j + columns], part, rows)
    return out


@pytest.mark.parametrize(
    ("n", "m"),
    [(131_072, 131_072), (131_073, 60_001), (300_000, 3_000), (3_000, 300_000), (183_501, 73_401), (190_000, 72_150)]
    + [(150_000 + 9_973 * i, 60_000 + 3_001 * i) for i in range(8)],
)
def test_transforms_agree_with_products_without(n, m):
    rng = np.random.default_rng(n + m)
    bits, seed_bits = random_bits(rng, n), random_bits(rng, n + m - 1)
    assert (kernels.toeplitz(bits, seed_bits, m) == in_pieces(bits, seed_bits, m, 20_000)).all()


def test_transforms_agree_with_products_without_at_the_size_of_a_link(variant):
    if variant == "portable":
        pytest.skip("a minute of portable code")
    rng = np.random.default_rng(5)
    n, m = 734_003, 293_601
    bits, seed_bits = random_bits(rng, n), random_bits(rng, n + m - 1)
    assert (kernels.toeplitz(bits, seed_bits, m) == in_pieces(bits, seed_bits, m, 60_000)).all()


@settings(max_examples=60)
@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 2**32))
def test_packed_bits_give_the_packed_result(n, m, seed):
    rng = np.random.default_rng(seed)
    bits, seed_bits = random_bits(rng, n), random_bits(rng, max(n + m - 1, 0))
    packed = kernels.toeplitz_packed(kernels.pack_bits(bits), n, kernels.pack_bits(seed_bits), m)
    assert packed == kernels.pack_bits(kernels.toeplitz(bits, seed_bits, m))


def test_packed_bits_by_transforms():
    rng = np.random.default_rng(9)
    n, m = 200_001, 77_777
    bits, seed_bits = random_bits(rng, n), random_bits(rng, n + m - 1)
    packed = kernels.toeplitz_packed(kernels.pack_bits(bits), n, kernels.pack_bits(seed_bits), m)
    assert packed == kernels.pack_bits(kernels.toeplitz(bits, seed_bits, m))


def test_packed_refusals():
    with pytest.raises(kernels.KernelArgument):
        kernels.toeplitz_packed(bytes(2), 17, bytes(4), 5)
    with pytest.raises(kernels.KernelMalformed):
        kernels.toeplitz_packed(b"\x01", 7, bytes(2), 5)
    with pytest.raises(kernels.KernelMalformed):
        kernels.toeplitz_packed(b"\x02", 7, b"\x00\x01", 5)


def test_memory_of_a_large_block_is_bounded():
    """At most 16 bytes for every byte of packed input, seed and result included."""
    n = int(0.7 * 2**27)
    m = n * 2 // 5
    assert kernels.toeplitz_workspace(n, m) + n // 8 + (n + m) // 8 + m // 8 <= 16 * (n // 8)


def test_refusals():
    zeros = np.zeros(10, np.uint8)
    with pytest.raises(kernels.KernelArgument):
        kernels.toeplitz(zeros, zeros, 5)
    with pytest.raises(kernels.KernelArgument):
        kernels.toeplitz(zeros, zeros, -1)
    with pytest.raises(kernels.KernelMalformed):
        kernels.toeplitz(zeros + 2, np.zeros(14, np.uint8), 5)
    with pytest.raises(kernels.KernelMalformed):
        kernels.toeplitz(zeros, np.full(14, 255, np.uint8), 5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(0, 300), st.integers(0, 2**32))
def test_two_halves_are_the_whole(n, m, seed):
    rng = np.random.default_rng(seed)
    bits, seed_bits = random_bits(rng, n), random_bits(rng, max(n + m - 1, 0))
    packed = kernels.pack_bits(bits), n, kernels.pack_bits(seed_bits), m
    assert kernels.toeplitz_halves(*packed) == kernels.toeplitz_packed(*packed)


@pytest.mark.parametrize("n", [1 << 20, (1 << 20) + 3, (3 << 18) + 13])
def test_two_large_halves_are_the_whole(n):
    rng = np.random.default_rng(n)
    m = n // 3
    packed = rng.bytes(n // 8) + bytes(n % 8 > 0), n, kernels.pack_bits(random_bits(rng, n + m - 1)), m
    assert kernels.toeplitz_halves(*packed) == kernels.toeplitz_packed(*packed)
    with pytest.raises(kernels.KernelArgument):
        kernels.toeplitz_halves(packed[0][:-1], *packed[1:])
