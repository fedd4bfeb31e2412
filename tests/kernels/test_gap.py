"""Gap coding: round trip, layout, hostile input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels

values = st.lists(st.one_of(st.integers(0, 100), st.integers(0, 2**40), st.integers(0, 2**63 - 1)), max_size=80).map(
    sorted
)


def oracle(numbers: list[int]) -> bytes:
    """The layout of docs/rooms/native.md, bit by bit."""
    if not numbers:
        return b""
    mean = (numbers[-1] - numbers[0]) // (len(numbers) - 1) if len(numbers) > 1 else 0
    rice = max(mean.bit_length() - 1, 0)
    bits = ""
    before = 0
    for number in numbers:
        gap, before = number - before, number
        if gap >> rice < 32:
            bits += "1" * (gap >> rice) + "0"
            bits += format(gap & (1 << rice) - 1, f"0{rice}b") if rice else ""
        else:
            bits += "1" * 32 + format(gap, "063b")
    bits += "0" * (-len(bits) % 8)
    return bytes([rice]) + int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:]


@given(values)
def test_encodes_as_documented_and_decodes_again(numbers):
    array = np.array(numbers, np.int64)
    encoded = kernels.gap_encode(array)
    assert encoded == oracle(numbers)
    assert kernels.gap_decode(encoded, len(numbers)).tolist() == numbers


@pytest.mark.parametrize("n", [1, 2, 1000, 100_001])
def test_random_clicks_cost_little_more_than_their_entropy(n):
    rng = np.random.default_rng(n)
    clicks = np.cumsum(rng.geometric(1e-3, n)).astype(np.int64)
    encoded = kernels.gap_encode(clicks)
    assert (kernels.gap_decode(encoded, n) == clicks).all()
    if n > 100:
        entropy = np.log2(1000 * np.e)  # of a geometric gap
        assert len(encoded) * 8 / n < entropy + 0.15


@given(st.binary(max_size=80), st.integers(0, 700))
def test_garbage_is_refused_or_is_a_canonical_body(data, count):
    try:
        numbers = kernels.gap_decode(data, count)
    except (kernels.KernelMalformed, kernels.KernelTruncated):
        return
    assert (np.diff(numbers) >= 0).all()
    assert len(numbers) == count
    rice = data[0] if data else 0
    size = sum(1 + rice + (gap >> rice) if gap >> rice < 32 else 95 for gap in np.diff(numbers, prepend=0).tolist())
    assert len(data) == ((size + 7) // 8 + 1 if count else 0)


@settings(max_examples=50)
@given(values.filter(bool), st.data())
def test_a_cut_or_lengthened_encoding_is_refused(numbers, data):
    encoded = kernels.gap_encode(np.array(numbers, np.int64))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises((kernels.KernelMalformed, kernels.KernelTruncated)):
        kernels.gap_decode(encoded[:cut], len(numbers))
    with pytest.raises(kernels.KernelMalformed):
        kernels.gap_decode(encoded + b"\x00", len(numbers))
    with pytest.raises((kernels.KernelMalformed, kernels.KernelTruncated)):
        kernels.gap_decode(encoded, len(numbers) + 8)


def test_refusals():
    with pytest.raises(kernels.KernelUnsorted):
        kernels.gap_encode(np.array([2, 1], np.int64))
    with pytest.raises(kernels.KernelOutOfRange):
        kernels.gap_encode(np.array([-1, 1], np.int64))
    with pytest.raises(kernels.KernelMalformed):  # parameter above 62
        kernels.gap_decode(b"\x3f" + bytes(20), 1)
    with pytest.raises(kernels.KernelMalformed):  # escape for a gap that needs none
        kernels.gap_decode(b"\x00" + b"\xff" * 4 + bytes(7) + b"\x06", 1)
    with pytest.raises(kernels.KernelMalformed):  # sum above int64
        kernels.gap_decode(b"\x00" + b"\xff" * 23 + b"\xfc", 2)
    with pytest.raises(kernels.KernelTruncated):  # no memory is taken for a lie
        kernels.gap_decode(bytes(10), 1 << 40)
