"""Time tags: decoders, coincidences, histograms, gap coding. Times are int64 picoseconds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import ffi, lib
from qkdd_native.arrays import ByteLike, integer, octets, pointer, same_length, size, vector
from qkdd_native.status import Status, StatusError, check

Times = NDArray[np.int64]


@dataclass(slots=True)
class Tdc1State:
    """What decode_tdc1 carries from one call to the next; a new stream starts with a fresh one.

    wraps: how often the 27-bit counter (2 ns units, period 268.435456 ms) has wrapped.
    last: its last value; None before the first record.
    voids: records without click and without dummy mark that were dropped so far.
    largest_step_ps: longest step forward between two records of the last call. Dummies come about every 140 ms, so a
        longer step means a lost wrap or slipped bytes.
    """

    wraps: int = 0
    last: int | None = None
    voids: int = 0
    largest_step_ps: int = 0


def decode_tdc1(words: NDArray[np.uint32], state: Tdc1State) -> tuple[Times, NDArray[np.uint8], int]:
    """Decode records of an S-Fifteen TDC1 in timestamp mode; `state` is advanced.

    words: uint32[n] in the host's byte order: bits 31..5 time in 2 ns units, bit 4 dummy, bits 3..0 inputs.
    Returns (times int64[k] in ps since counter value 0 of the stream's first period, patterns uint8[k], dummies). A step
    back by up to 131 µs is disorder between inputs (the times come out in the order of the records, so not sorted there);
    every other step back is a wrap. Source: vendor's pyS15 `usb_counter_fpga.py` and wiki.
    """
    words = vector(words, np.uint32, "words")
    times = np.empty(len(words), np.int64)
    patterns = np.empty(len(words), np.uint8)
    carried = ffi.new("qkdd_tdc1_state *")
    carried.wraps = state.wraps
    carried.last = 0 if state.last is None else state.last
    carried.started = state.last is not None
    carried.voids = state.voids
    counts = ffi.new("size_t[2]")
    code = lib.qkdd_decode_tdc1(
        pointer(words), len(words), carried, pointer(times), pointer(patterns), counts, counts + 1
    )
    check(code, "decode_tdc1")
    state.wraps = carried.wraps
    state.last = carried.last if carried.started else None
    state.voids = carried.voids
    state.largest_step_ps = carried.largest_step * 2000
    return times[: counts[0]].copy(), patterns[: counts[0]].copy(), int(counts[1])


def decode_a1(data: ByteLike, swapped: bool) -> tuple[Times, NDArray[np.uint8], NDArray[np.bool_]]:
    """Decode S-Fifteen timestamp7 events in format a1.

    data: whole 8-byte records; `swapped` means the high 32-bit half comes first (`readevents -X`). Zero words (void USB
    returns) are dropped. Returns (times int64[k] in ps, rounded to nearest from 1/256 ns, patterns uint8[k], dummy
    bool[k]). Source: qcrypto `readevents7.c`, qcrypto filespec.
    """
    view = octets(data, "data")
    count = len(view) // 8
    times = np.empty(count, np.int64)
    patterns = np.empty(count, np.uint8)
    dummies = np.empty(count, np.uint8)
    kept = ffi.new("size_t *")
    code = lib.qkdd_decode_a1(view, len(view), swapped, pointer(times), pointer(patterns), pointer(dummies), kept)
    check(code, "decode_a1")
    return times[: kept[0]], patterns[: kept[0]], dummies[: kept[0]].view(np.bool_)


_T2_LAYOUTS = {"hydraharp1": 0, "hydraharp2": 1, "picoharp": 2}
_T2_OVERFLOWS = {"hydraharp1": 33_552_000, "hydraharp2": 33_554_432, "picoharp": 210_698_240}


@dataclass(slots=True)
class T2State:
    """What decode_t2 carries from one call to the next; a new stream starts with a fresh one.

    layout: "hydraharp1"; "hydraharp2" (HydraHarp V2 and 500, TimeHarp 260, MultiHarp, PicoHarp 330); "picoharp" (300).
    unit_ps: time unit of the records in whole picoseconds, 1 to 10^6 (a PTU file's MeasDesc_GlobalResolution; HydraHarp 1,
        PicoHarp 300 4, MultiHarp 5, TimeHarp 260 P 25 and N 250).
    overflow: units counted by the overflow records so far. markers: external marker records dropped so far.
    """

    layout: str
    unit_ps: int
    overflow: int = 0
    markers: int = 0

    @property
    def period_ps(self) -> int:
        """Time between two overflow records of a quiet input."""
        return _T2_OVERFLOWS[self.layout] * self.unit_ps


def decode_t2(words: NDArray[np.uint32], state: T2State) -> tuple[Times, NDArray[np.uint8]]:
    """Decode PicoQuant T2 records; `state` is advanced.

    words: uint32[n] in the host's byte order. Returns (times int64[k] in ps since the stream's start, channels uint8[k]: 0 the
    sync input, else the input's number from 1; PicoHarp 300: as recorded). Markers are counted, not returned. A record that no
    instrument makes raises KernelMalformed, a time beyond 2^61 ps KernelOutOfRange; the state is then as before. Source:
    PicoQuant's public description of the PTU format and its demos of how to read it.
    """
    words = vector(words, np.uint32, "words")
    if state.layout not in _T2_LAYOUTS:
        raise StatusError(
            Status.BAD_ARGUMENT, f"decode_t2: unknown layout {state.layout!r}; known: {', '.join(_T2_LAYOUTS)}"
        )
    times = np.empty(len(words), np.int64)
    channels = np.empty(len(words), np.uint8)
    overflow = ffi.new("int64_t *", integer(state.overflow, "overflow"))
    counts = ffi.new("size_t[2]")
    code = lib.qkdd_decode_t2(
        pointer(words),
        len(words),
        _T2_LAYOUTS[state.layout],
        size(state.unit_ps, "unit_ps", 1_000_000),
        overflow,
        pointer(times),
        pointer(channels),
        counts,
        counts + 1,
    )
    check(code, "decode_t2")
    state.overflow = overflow[0]
    state.markers += counts[1]
    return times[: counts[0]].copy(), channels[: counts[0]].copy()


def expand_patterns(times: Times, patterns: NDArray[np.uint8]) -> tuple[Times, NDArray[np.uint8]]:
    """One row for each input of each click: (times int64[k], channels uint8[k]); lowest input first, pattern 0 gives none."""
    times = vector(times, np.int64, "times")
    patterns = vector(patterns, np.uint8, "patterns")
    same_length(times, patterns, "times and patterns")
    rows = ffi.new("size_t *")
    count = len(times)
    code = lib.qkdd_expand_patterns(pointer(times), pointer(patterns), count, ffi.NULL, ffi.NULL, 0, rows)
    check(code, "expand_patterns")
    out = np.empty(rows[0], np.int64)
    channels = np.empty(rows[0], np.uint8)
    if len(out):
        code = lib.qkdd_expand_patterns(
            pointer(times), pointer(patterns), count, pointer(out), pointer(channels), len(out), rows
        )
        check(code, "expand_patterns")
    return out, channels


def match_coincidences(
    a_times: Times, b_times: Times, window_ps: int, delay_ps: float, drift: float, origin_ps: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Pairs of clicks within a window: (ia uint32[k], ib uint32[k]), both strictly increasing.

    a_times, b_times: sorted int64 picoseconds within ±2^61, each on its own clock. b is mapped into a's clock by
    t + rint(delay_ps + drift * (t - origin_ps)); drift in s/s, at most 1e-2 in size. window_ps is the full width: a pair has
    2 |t_a - t_b| <= window_ps. Each click is in at most one pair. Of the two clicks at the heads of the streams the earlier
    (a's on equality) is dropped when it is outside the window or when the next click of its own side is strictly nearer to
    the other head; otherwise the two are a pair. So of rivals the nearest wins, and of equals the earlier.
    """
    a_times = vector(a_times, np.int64, "a_times")
    b_times = vector(b_times, np.int64, "b_times")
    most = min(len(a_times), len(b_times))
    ia = np.empty(most, np.uint32)
    ib = np.empty(most, np.uint32)
    pairs = ffi.new("size_t *")
    code = lib.qkdd_match_coincidences(
        pointer(a_times),
        len(a_times),
        pointer(b_times),
        len(b_times),
        integer(window_ps, "window_ps"),
        float(delay_ps),
        float(drift),
        integer(origin_ps, "origin_ps"),
        pointer(ia),
        pointer(ib),
        pairs,
    )
    check(code, "match_coincidences")
    return ia[: pairs[0]].copy(), ib[: pairs[0]].copy()


NO_BASIS = 254


@dataclass(frozen=True, slots=True)
class SiftedPairs:
    """Pairs of equal basis.

    ia, ib: uint32[k], strictly increasing; a_bits, b_bits: uint8[ceil(k / 8)], the clicks' bits packed, most significant bit
    first, unused low bits 0; pairs: number of all pairs, of unequal basis too. The repr does not show bits.
    """

    ia: NDArray[np.uint32]
    ib: NDArray[np.uint32]
    a_bits: NDArray[np.uint8] = field(repr=False)
    b_bits: NDArray[np.uint8] = field(repr=False)
    pairs: int


def sift_coincidences(
    a_times: Times,
    a_marks: NDArray[np.uint8],
    b_times: Times,
    b_marks: NDArray[np.uint8],
    window_ps: int,
    delay_ps: float,
    drift: float,
    origin_ps: int,
) -> SiftedPairs:
    """match_coincidences, keeping the pairs whose bases agree, and their bits packed, in one call.

    A mark uint8 is 2 * basis + bit; clicks with marks from NO_BASIS (254) on are matched but never kept. A side whose
    bits are not known gives them as 0.
    """
    a_times = vector(a_times, np.int64, "a_times")
    b_times = vector(b_times, np.int64, "b_times")
    a_marks = vector(a_marks, np.uint8, "a_marks")
    b_marks = vector(b_marks, np.uint8, "b_marks")
    same_length(a_times, a_marks, "a_times and a_marks")
    same_length(b_times, b_marks, "b_times and b_marks")
    most = min(len(a_times), len(b_times))
    ia, ib = np.empty((2, most), np.uint32)
    a_bits, b_bits = np.empty((2, (most + 63) // 64 * 8), np.uint8)
    counts = ffi.new("size_t[2]")
    code = lib.qkdd_sift_coincidences(
        pointer(a_times),
        pointer(a_marks),
        len(a_times),
        pointer(b_times),
        pointer(b_marks),
        len(b_times),
        integer(window_ps, "window_ps"),
        float(delay_ps),
        float(drift),
        integer(origin_ps, "origin_ps"),
        pointer(ia),
        pointer(ib),
        pointer(a_bits),
        pointer(b_bits),
        counts,
        counts + 1,
    )
    check(code, "sift_coincidences")
    kept = int(counts[0])
    octets_kept = (kept + 7) // 8
    found = SiftedPairs(
        ia[:kept].copy(), ib[:kept].copy(), a_bits[:octets_kept].copy(), b_bits[:octets_kept].copy(), int(counts[1])
    )
    a_bits.fill(0)
    b_bits.fill(0)
    return found


def delay_histogram(a_times: Times, b_times: Times, start_ps: int, bin_ps: int, bins: int) -> NDArray[np.uint32]:
    """Histogram of b - a over all pairs: uint32[bins], cell k counts start + k·bin <= b - a < start + (k + 1)·bin.

    Both sorted. Costs one step a click and one a counted pair, so keep bins * bin_ps near what is searched. Cells saturate.
    """
    a_times = vector(a_times, np.int64, "a_times")
    b_times = vector(b_times, np.int64, "b_times")
    counts = np.empty(size(bins, "bins", 1 << 32), np.uint32)
    code = lib.qkdd_delay_histogram(
        pointer(a_times),
        len(a_times),
        pointer(b_times),
        len(b_times),
        integer(start_ps, "start_ps"),
        integer(bin_ps, "bin_ps"),
        bins,
        pointer(counts),
    )
    check(code, "delay_histogram")
    return counts


def clock_histogram(
    times: Times, origin_ps: int, cells_per_ps: float, cells: int, fold: int | None = None
) -> NDArray[np.float32]:
    """Counts for the search of a clock, ready for a Fourier transform: float32[fold].

    A click's cell is floor((t - origin_ps) * cells_per_ps), 0 < cells_per_ps <= 1; a frequency hypothesis is a factor in it.
    Clicks with a cell in [0, cells) count at cell mod fold (fold None: cells, nothing folded), the others are dropped, so a
    short stretch of cells decimates. times: sorted. Counts are exact up to 2^24.
    """
    times = vector(times, np.int64, "times")
    size(cells, "cells", 1 << 51)
    counts = np.empty(size(cells if fold is None else fold, "fold", (1 << 32) - 2), np.float32)
    code = lib.qkdd_clock_histogram(
        pointer(times),
        len(times),
        integer(origin_ps, "origin_ps"),
        float(cells_per_ps),
        cells,
        len(counts),
        pointer(counts),
    )
    check(code, "clock_histogram")
    return counts


def gap_encode(values: Times) -> bytes:
    """Rice-code the differences of a sorted list of non-negative int64; layout in docs/rooms/native.md."""
    values = vector(values, np.int64, "values")
    out = np.empty(lib.qkdd_gap_bound(len(values)), np.uint8)
    written = ffi.new("size_t *")
    check(lib.qkdd_gap_encode(pointer(values), len(values), pointer(out), len(out), written), "gap_encode")
    return out[: written[0]].tobytes()


def gap_decode(data: ByteLike, count: int) -> Times:
    """The inverse of gap_encode: int64[count], sorted, non-negative. Refuses everything else; safe on hostile input.

    The memory taken is at most 64 bytes for a byte of input, whatever `count` claims.
    """
    view = octets(data, "data")
    size(count, "count")
    if count > len(view) * 8:  # every value takes a bit at least
        raise StatusError(Status.TRUNCATED, f"gap_decode: {len(view)} bytes cannot hold {count} values")
    values = np.empty(count, np.int64)
    check(lib.qkdd_gap_decode(view, len(view), pointer(values), count), "gap_decode")
    return values
