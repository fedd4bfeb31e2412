"""Decoding from soft observations by sum-product in floating point: the reference for the low-rate codes of CV-QKD.

At signal-to-noise ratios of some hundredths a check's messages are products of small numbers, which the minimum of the integer
decoder does not stand for. Plain numpy, about 1 Mbit/s divided by the iterations; a kernel belongs to the link protocol that
needs it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd_native.ldpc import LdpcCode
from qkdd_native.status import Status, StatusError

Floats = NDArray[np.float32]

_LARGEST = np.float32(1 - 1e-6)  # of a product of tanh: log-likelihood ratios of checks stay below 15


def decode_soft(
    code: LdpcCode, syndrome: NDArray[np.uint8], llr: Floats, iterations: int
) -> tuple[NDArray[np.uint8] | None, int]:
    """The bits uint8[size] with this syndrome that belong to the observations, and the iterations taken; None if none was found.

    llr: float32[size], log P(bit = 0) / P(bit = 1) of each bit. Flooding sum-product (Kschischang, Frey, Loeliger, IEEE Trans.
    Inf. Theory 47 (2001) 498).
    """
    total, taken = _propagate(code, syndrome, llr, iterations)
    if taken > iterations:
        return None, iterations
    return (total < 0).astype(np.uint8).reshape(-1), taken


def beliefs(code: LdpcCode, syndrome: NDArray[np.uint8], llr: Floats, iterations: int) -> Floats:
    """float32[size]: the log-likelihood ratio of each bit where `decode_soft` stops."""
    return _propagate(code, syndrome, llr, iterations)[0].reshape(-1)


def _propagate(code: LdpcCode, syndrome: NDArray[np.uint8], llr: Floats, iterations: int) -> tuple[Floats, int]:
    """Log-likelihood ratios float32[columns, lifting] and the iterations taken, one more than allowed if nothing was found."""
    rows, lifting = code.rows, code.lifting
    if syndrome.shape != (rows * lifting,) or llr.shape != (code.size,):
        raise StatusError(Status.BAD_ARGUMENT, "syndrome or observations are not of this code's size")
    columns_of, shifts, starts = code.entries()
    starts = starts[: rows + 1]
    columns_of, shifts = columns_of[: starts[-1]], shifts[: starts[-1]]
    channel = llr.astype(np.float32).reshape(code.columns, lifting)
    odd = syndrome.reshape(rows, lifting).astype(np.bool_)
    degrees = np.diff(starts)
    groups = [(np.flatnonzero(degrees == d), int(d)) for d in np.unique(degrees)]
    edges = [starts[:-1][members][:, None] + np.arange(d) for members, d in groups]
    back = np.zeros((len(columns_of), lifting), np.float32)
    for taken in range(iterations + 1):
        total = channel.copy()
        for e, (column, shift) in enumerate(zip(columns_of, shifts, strict=True)):
            total[column] += np.roll(back[e], shift)
        seen = np.stack([np.roll(total[column], -int(shift)) for column, shift in zip(columns_of, shifts, strict=True)])
        if all(
            (np.logical_xor.reduce(seen[edge] < 0, axis=1) == odd[members]).all()
            for edge, (members, _) in zip(edges, groups, strict=True)
        ):
            return total, taken
        out = np.tanh((seen - back) / 2)
        for edge, (members, d) in zip(edges, groups, strict=True):
            part = out[edge]
            before, after = np.ones_like(part), np.ones_like(part)
            for i in range(1, d):
                before[:, i] = before[:, i - 1] * part[:, i - 1]
                after[:, d - 1 - i] = after[:, d - i] * part[:, d - i]
            others = np.clip(before * after, -_LARGEST, _LARGEST) * np.where(odd[members], -1, 1)[:, None].astype(
                np.float32
            )
            back[edge] = 2 * np.arctanh(others)
    return total, iterations + 1
