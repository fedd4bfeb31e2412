"""Transposition of bytes: against numpy for every tail, strides, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels


@settings(max_examples=80)
@given(st.integers(0, 150), st.integers(0, 150), st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32))
def test_any_shape_and_stride(rows, columns, before, behind, seed):
    wide = np.random.default_rng(seed).integers(0, 256, (rows, columns + before), dtype=np.uint8)
    matrix = wide[:, before:]
    room = np.full((columns, rows + behind), 7, np.uint8)
    out = kernels.transpose(matrix, room[:, :rows])
    assert np.array_equal(out, matrix.T)
    assert (room[:, rows:] == 7).all()
    assert np.array_equal(kernels.transpose(matrix), matrix.T)


def test_refusals():
    matrix = np.zeros((4, 6), np.uint8)
    fixed = np.zeros((6, 4), np.uint8)
    fixed.flags.writeable = False
    for wrong in (matrix[0], matrix.view(np.int8), matrix.T, matrix[::-1], np.broadcast_to(matrix[:1], (4, 6))):
        with pytest.raises(kernels.KernelArgument):
            kernels.transpose(wrong)
    for out in (matrix, fixed, np.zeros((6, 4), np.int8), np.zeros((4, 6), np.uint8).T):
        with pytest.raises(kernels.KernelArgument):
            kernels.transpose(matrix, out)
