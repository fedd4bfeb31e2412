"""The hash of privacy amplification: [1 T] by definition, and universal over its seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd import kernels
from qkdd.distill.amplify import hashed, random_bits
from qkdd.distill.packed import PackedBits


@given(st.integers(1, 300), st.data())
def test_it_is_the_head_plus_toeplitz_of_the_rest(n: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, n))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    key, seed = rng.integers(0, 2, n, np.uint8), rng.integers(0, 2, n - 1, np.uint8)
    matrix = np.array(
        [[seed[i - j + n - length - 1] for j in range(n - length)] for i in range(length)], np.int64
    ).reshape(length, n - length)
    expected = (key[:length] + matrix @ key[length:].astype(np.int64)) % 2
    found = hashed(PackedBits.of(key), kernels.pack_bits(seed), length)
    np.testing.assert_array_equal(kernels.unpack_bits(found, length), expected)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_two_inputs_collide_for_a_share_of_two_to_minus_length_of_the_seeds_at_most(length: int) -> None:
    """Exhaustively for n = 6; by linearity the second input is 0."""
    n = 6
    for number in range(1, 1 << n):
        difference = np.array([number >> i & 1 for i in range(n)], np.uint8)
        collisions = sum(
            not any(
                hashed(
                    PackedBits.of(difference),
                    kernels.pack_bits(np.array([s >> i & 1 for i in range(n - 1)], np.uint8)),
                    length,
                )
            )
            for s in range(1 << (n - 1))
        )
        assert collisions <= 1 << (n - 1 - length)


def test_random_bits_leave_no_bit_behind_the_last() -> None:
    for count in range(1, 40):
        assert kernels.unpack_bits(random_bits(count), count).size == count
