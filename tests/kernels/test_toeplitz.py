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
