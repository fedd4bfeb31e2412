"""Correlation of counts for the search of a clock, and its highest lags.

The kernel works modulo x^n + 1 (docs/rooms/native.md): a lag between 0 and n - 1 counts as it is, one below 0 stands n further
with its sign turned, so what would alias is told apart by the sign.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import ffi, lib
from qkdd_native.arrays import Workspaces, pointer
from qkdd_native.status import Status, StatusError, check
from qkdd_native.tags import Times

LEAST_ORDER, MOST_ORDER = 9, 24
_LINE = 16  # floats in 64 bytes
_PIECES = 64  # of a stretch, whose mean rates are taken off: slow changes of the rates are no sign of pairs
_workspaces = Workspaces(most=1 << 22)
_Pieces = tuple[int, int, NDArray[np.float32]]  # where the first begins, length of each, mean of each


@lru_cache(maxsize=4)
def _table(order: int) -> NDArray[np.float32]:
    table = _aligned(np.empty(int(lib.qkdd_correlation_table(order, ffi.NULL)) + _LINE, np.float32))
    if lib.qkdd_correlation_table(order, pointer(table)) == 0:
        raise MemoryError("table of the correlation")
    table.setflags(write=False)
    return table


def _aligned(floats: NDArray[np.float32]) -> NDArray[np.float32]:
    return floats[-(floats.ctypes.data // 4) % _LINE :]


class Correlation:
    """One stream's counts against many of the other's. Use as a context manager: its memory, 24 bytes a cell, is used again.

    order: 2^order cells, 9 to 24. cell_ps: width of a cell, at least 2. Cells are counted from `a_begin` and `b_begin` on, at
    twice the resolution, so that b's can be stretched without counting again; clicks further than 2^order cells are left out.
    """

    def __init__(self, order: int, cell_ps: float, a_times: Times, a_begin: int, b_times: Times, b_begin: int) -> None:
        if not LEAST_ORDER <= order <= MOST_ORDER:
            raise StatusError(Status.BAD_ARGUMENT, f"order must be {LEAST_ORDER} to {MOST_ORDER}, not {order}")
        self.order, self.cells = order, 1 << order
        self._memory = _workspaces.take(3 * self.cells + _LINE)
        floats = _aligned(self._memory.view(np.float32))[: 6 * self.cells]
        counts, self._counts, self._cells, self._spectrum = np.split(floats, np.array([2, 4, 5]) * self.cells)
        self._work, self._lags = np.split(counts, 2)  # alice's counts are needed for her spectrum only
        pieces = self._count(a_times, a_begin, cell_ps, counts)
        self._stretched(counts, pieces, 0.0, 0.0)
        code = lib.qkdd_correlation_spectrum(
            order, pointer(_table(order)), pointer(self._cells), pointer(self._spectrum)
        )
        check(code, "correlation")
        self._pieces = self._count(b_times, b_begin, cell_ps, self._counts)

    def __enter__(self) -> Correlation:
        return self

    def __exit__(self, *exception: object) -> None:
        _workspaces.keep(self._memory)
        del self._memory

    def _count(self, times: Times, begin: int, cell_ps: float, counts: NDArray[np.float32]) -> _Pieces:
        """Counts in half cells, and their mean in each piece of the stretch."""
        rate = min(2 / cell_ps, 1.0)
        code = lib.qkdd_clock_histogram(
            pointer(times), len(times), begin, rate, len(counts), len(counts), pointer(counts)
        )
        check(code, "correlation")
        if len(times) == 0:
            return 0, 1, np.empty(0, np.float32)
        first = min(max(0, int((int(times[0]) - begin) * rate)), len(counts))
        last = min(max(first, int((int(times[-1]) - begin) * rate) + 1), len(counts))
        length = max((last - first) // _PIECES, 1)
        ends = first + length * np.arange(min(_PIECES, (last - first) // length) + 1)
        clicks = np.searchsorted(times, begin + np.rint(ends / rate).astype(np.int64))
        return first, length, (np.diff(clicks) / length).astype(np.float32)

    def _stretched(self, counts: NDArray[np.float32], pieces: _Pieces, stretch: float, middle: float) -> None:
        first, length, means = pieces
        code = lib.qkdd_clock_cells(
            pointer(counts), len(counts), first, length, pointer(means), len(means),
            stretch, middle, pointer(self._cells),
        )  # fmt: skip
        check(code, "correlation")

    def lags(self, stretch: float = 0.0, middle: float = 0.0) -> tuple[NDArray[np.float32], float]:
        """Lags in cells, bob's less alice's, and their standard deviation; valid until the next call.

        Bob's cell j is moved by stretch * (j - middle), |stretch| <= 1e-2, rounded to half cells. float32[2^order]: lag p at p,
        lag p - 2^order at p with its sign turned.
        """
        self._stretched(self._counts, self._pieces, stretch, 2 * middle)
        deviation = ffi.new("double *")
        code = lib.qkdd_correlate(
            self.order,
            pointer(_table(self.order)),
            pointer(self._spectrum),
            pointer(self._cells),
            pointer(self._work),
            pointer(self._lags),
            deviation,
        )
        check(code, "correlation")
        return self._lags, float(deviation[0])


def highest_lags(
    lags: NDArray[np.float32], deviation: float, low: float, high: float, count: int
) -> list[tuple[float, float]]:
    """(lag in cells, height in standard deviations) of about the `count` highest between low and high, highest first.

    lags, deviation: of Correlation.lags; its signs are heeded. A true lag lies in one cell or across two neighbours; these are at
    halves.
    """
    n = len(lags)
    ranges = []  # of places, with the sign and what is to be added to a place
    for sign, base in ((-1.0, -n), (1.0, 0)):
        first, last = max(0, math.floor(low) - base), min(n, math.ceil(high) + 1 - base)
        if first < last:
            ranges.append((first, last, sign, base))
    total = sum(last - first for first, last, *_ in ranges)
    if deviation <= 0 or total == 0:
        return []
    limit = -NormalDist().inv_cdf(min(0.4, count / total)) * deviation
    places, heights = np.empty(8 * count + 64, np.float64), np.empty(8 * count + 64, np.float32)
    found = ffi.new("size_t *")
    result: list[tuple[float, float]] = []
    for first, last, sign, base in ranges:
        code = int(Status.NO_SPACE)
        here = limit
        while code == int(Status.NO_SPACE):
            code = lib.qkdd_highest_lags(
                pointer(lags), first, last, sign, here, len(places), ffi.from_buffer("double[]", places),
                pointer(heights), found,
            )  # fmt: skip
            here *= 1.3  # bursts: the lags are far from normally distributed
        check(code, "highest_lags")
        got = int(found[0])
        result += zip((places[:got] + base).tolist(), (heights[:got] / deviation).tolist(), strict=True)
    result.sort(key=lambda lag: -lag[1])
    return result[:count]
