"""Random subsets: exactly k positions, every subset equally likely; the two parts that a map cuts a block into."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels


@settings(max_examples=100)
@given(st.integers(1, 5000), st.data())
def test_exactly_k_positions(m: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, m))
    chosen = kernels.unpack_bits(kernels.random_subset(m, k, os.urandom), m)  # refuses set bits behind the last
    assert chosen.sum() == k


def test_every_subset_is_equally_likely() -> None:
    """All 35 subsets of 3 of 7 over 35,000 draws: chi-square with 34 degrees of freedom, above 80 with probability 2e-5."""
    rng = np.random.default_rng(1)
    for k in (3, 4):
        seen = Counter(bytes(kernels.random_subset(7, k, rng.bytes)) for _ in range(35_000))
        assert len(seen) == len(list(itertools.combinations(range(7), k)))
        assert sum((count - 1000) ** 2 / 1000 for count in seen.values()) < 80


def test_draws_that_would_favour_a_position_are_refused() -> None:
    """2^32 mod 3 = 1: the draw 0 is refused; the next one is taken."""
    numbers = iter([bytes(4), (3_000_000_000).to_bytes(4, "little")])

    def once(count: int) -> bytes:
        return (next(numbers) * count)[:count]

    assert kernels.random_subset(3, 1, once)[0] == 0b00100000


@settings(max_examples=150)
@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_split_is_the_two_parts_in_order(m: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits, chosen = rng.integers(0, 2, m, np.uint8), (rng.random(m) < share).astype(np.uint8)
    k = int(chosen.sum())
    inside, outside = kernels.split_subset(kernels.pack_bits(bits), kernels.pack_bits(chosen), m, k)
    np.testing.assert_array_equal(kernels.unpack_bits(inside, k), bits[chosen == 1])
    np.testing.assert_array_equal(kernels.unpack_bits(outside, m - k), bits[chosen == 0])


@settings(max_examples=200)
@given(st.integers(0, 6000), st.floats(0, 1), st.integers(0, 2**32))
def test_a_subset_comes_back_and_is_never_longer_than_told(m: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(m * share**4)  # few as often as many
    chosen = kernels.random_subset(m, k, rng.bytes)
    told = kernels.pack_subset(chosen, m, k)
    assert len(told) <= min((m + 7) // 8 if 8 * k >= m else m, k + m // 255 if 8 * k < m else m)
    assert kernels.unpack_subset(told, m, k) == chosen


@settings(max_examples=300)
@given(st.integers(1, 3000), st.data())
def test_what_is_no_subset_in_its_one_form_is_refused(m: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, (m - 1) // 8))
    told = data.draw(st.binary(max_size=2 * k + 4))
    try:
        chosen = kernels.unpack_subset(told, m, k)
    except kernels.KernelMalformed:
        return
    assert np.unpackbits(chosen).sum() == k
    assert kernels.pack_subset(chosen, m, k) == told


def test_the_ends_of_a_list_of_gaps() -> None:
    assert kernels.unpack_subset(b"\xff\x00", 256, 1) == bytes(31) + b"\x01"  # the last position
    for bad in (b"\xff\x01", b"\x00\xff", b"\xff", b"", b"\x00\x00"):
        with pytest.raises(kernels.KernelMalformed):
            kernels.unpack_subset(bad, 256, 1)
    for bad in (b"", b"\x00\x00"):
        with pytest.raises(kernels.KernelMalformed):
            kernels.unpack_subset(bad, 5, 3)


@settings(max_examples=100)
@given(st.integers(0, 3000), st.integers(1, 256), st.booleans(), st.integers(0, 2**32))
def test_class_counts(n: int, classes: int, masked: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, chosen = rng.integers(0, classes, n, np.uint8), rng.random(n) < 0.5
    found = kernels.class_counts(labels, chosen if masked else None)
    np.testing.assert_array_equal(found, np.bincount(labels[chosen] if masked else labels, minlength=256))


def test_class_counts_refuses_what_does_not_fit() -> None:
    labels = np.zeros(5, np.uint8)
    for arguments in [(labels.astype(np.int64),), (labels, np.zeros(4, np.bool_)), (labels, np.zeros(5, np.uint8))]:
        with pytest.raises(kernels.KernelArgument):
            kernels.class_counts(*arguments)


def test_refusals() -> None:
    two = kernels.pack_bits(np.array([1, 0, 1, 0, 0], np.uint8))
    for kind, call in [
        (kernels.KernelArgument, lambda: kernels.random_subset(5, 6, os.urandom)),
        (kernels.KernelArgument, lambda: kernels.random_subset(5, -1, os.urandom)),
        (kernels.KernelArgument, lambda: kernels.random_subset(1 << 32, 1, os.urandom)),
        (kernels.KernelArgument, lambda: kernels.split_subset(two, two + b"\x00", 5, 2)),
        (kernels.KernelArgument, lambda: kernels.split_subset(two, two, 5, 6)),
        (kernels.KernelArgument, lambda: kernels.pack_subset(two, 5, 6)),
        (kernels.KernelArgument, lambda: kernels.pack_subset(two + b"\x00", 5, 1)),
        (kernels.KernelArgument, lambda: kernels.unpack_subset(two, 5, -1)),
        (kernels.KernelMalformed, lambda: kernels.pack_subset(bytes(3), 20, 1)),
        (kernels.KernelMalformed, lambda: kernels.pack_subset(b"\x80\x00\x01", 20, 2)),
        (kernels.KernelMalformed, lambda: kernels.split_subset(two, two, 5, 3)),
        (kernels.KernelMalformed, lambda: kernels.split_subset(two, b"\xa1", 5, 3)),
        (kernels.KernelMalformed, lambda: kernels.split_subset(b"\xff", two, 5, 2)),
    ]:
        with pytest.raises(kind):
            call()
