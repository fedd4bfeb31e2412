"""Coincidences and histograms against plain oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels


def match_oracle(a: list[int], b: list[int], window: int) -> list[tuple[int, int]]:
    i = j = 0
    pairs = []
    while i < len(a) and j < len(b):
        gap = abs(a[i] - b[j])
        rival = a[i + 1 : i + 2] if a[i] <= b[j] else b[j + 1 : j + 2]
        other = b[j] if a[i] <= b[j] else a[i]
        nearer = any(abs(click - other) < gap for click in rival)
        if 2 * gap <= window and not nearer:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif a[i] <= b[j]:
            i += 1
        else:
            j += 1
    return pairs


def mapped(b: np.ndarray, delay: float, drift: float, origin: int) -> np.ndarray:
    return b + np.rint(delay + drift * (b - origin).astype(np.float64)).astype(np.int64)


def pairs_of(a, b, window, delay=0.0, drift=0.0, origin=0):
    ia, ib = kernels.match_coincidences(np.array(a, np.int64), np.array(b, np.int64), window, delay, drift, origin)
    assert ia.dtype == ib.dtype == np.uint32
    return list(zip(ia.tolist(), ib.tolist(), strict=True))


dense = st.lists(st.integers(-60, 60), max_size=60).map(sorted)


@given(dense, dense, st.integers(0, 30))
def test_dense_streams_with_ties_agree_with_the_rule(a, b, window):
    assert pairs_of(a, b, window) == match_oracle(a, b, window)


@given(dense, dense, st.integers(0, 30))
def test_each_click_is_in_at_most_one_pair_and_inside_the_window(a, b, window):
    pairs = pairs_of(a, b, window)
    for side in (0, 1):
        used = [pair[side] for pair in pairs]
        assert used == sorted(set(used))
    assert all(2 * abs(a[i] - b[j]) <= window for i, j in pairs)


@pytest.mark.parametrize(
    "sizes", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 3000), (3000, 1), (2500, 4099), (70_000, 50_000)]
)
def test_long_streams_with_delay_and_drift(sizes):
    rng = np.random.default_rng(sum(sizes))
    common = rng.integers(0, 10**11, min(sizes) // 2)
    a = np.sort(np.concatenate([common, rng.integers(0, 10**11, sizes[0] - len(common))]))
    b = np.sort(np.concatenate([common, rng.integers(0, 10**11, sizes[1] - len(common))]))
    delay, drift, origin = 123_456_789_012.25, 4.9e-6, 10**10
    b_own = np.rint((b - delay + drift * origin) / (1 + drift)).astype(np.int64)
    b_own.sort()
    expected = match_oracle(a.tolist(), mapped(b_own, delay, drift, origin).tolist(), 6000)
    assert pairs_of(a, b_own, 6000, delay, drift, origin) == expected
    assert len(expected) >= 0.95 * len(common)


@settings(max_examples=30)
@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 2000), st.integers(0, 2**32))
def test_random_sizes_and_densities(na, nb, scale, seed):
    rng = np.random.default_rng(seed)
    a = np.cumsum(rng.integers(0, scale, na))
    b = np.cumsum(rng.integers(0, scale, nb))
    assert pairs_of(a, b, 300, -17.0) == match_oracle(a.tolist(), (b - 17).tolist(), 300)


@pytest.mark.parametrize("window", [100, 300_000])
@pytest.mark.parametrize("sizes", [(33_000, 39_000), (50_000, 3)])
def test_several_chains_agree_with_the_rule(sizes, window):
    """Streams long enough to be cut: into silences longer than half the window, or, where there are none, not at all."""
    rng = np.random.default_rng(sizes[0])
    common = rng.integers(0, 10**9, min(sizes) // 3)
    a = np.sort(np.concatenate([common, rng.integers(0, 10**9, sizes[0] - len(common))]))
    b = np.sort(
        np.concatenate([common + rng.integers(-40, 40, len(common)), rng.integers(0, 10**9, sizes[1] - len(common))])
    )
    expected = match_oracle(a.tolist(), mapped(b, 7.0, 1e-6, 0).tolist(), window)
    assert pairs_of(a, b, window, 7.0, 1e-6, 0) == expected


def test_chains_of_very_unequal_parts():
    a = np.concatenate([np.arange(40_000) * 10_000, 10**12 + np.arange(40_000) * 10])
    b = np.concatenate([np.arange(10) * 10_000, 10**12 + np.arange(60_000) * 7])
    assert pairs_of(a, b, 40) == match_oracle(a.tolist(), b.tolist(), 40)


@settings(max_examples=40)
@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 500), st.integers(0, 2**32))
def test_sifting_keeps_the_pairs_of_equal_basis(na, nb, scale, seed):
    rng = np.random.default_rng(seed)
    a, b = np.cumsum(rng.integers(0, scale, na)), np.cumsum(rng.integers(0, scale, nb))
    choices = np.array([0, 1, 2, 3, 4, 5, 252, 253, 254, 255], np.uint8)
    a_marks, b_marks = rng.choice(choices, na), rng.choice(choices, nb)
    got = kernels.sift_coincidences(a, a_marks, b, b_marks, 300, -17.0, 0.0, 0)
    ia, ib = kernels.match_coincidences(a, b, 300, -17.0, 0.0, 0)
    keep = (a_marks[ia] >> 1 == b_marks[ib] >> 1) & (a_marks[ia] < kernels.NO_BASIS)
    assert got.pairs == len(ia)
    assert (got.ia == ia[keep]).all()
    assert (got.ib == ib[keep]).all()
    assert got.a_bits.tobytes() == np.packbits(a_marks[ia[keep]] & 1).tobytes()
    assert got.b_bits.tobytes() == np.packbits(b_marks[ib[keep]] & 1).tobytes()
    assert "bits" not in repr(got)


def test_marks_must_belong_to_the_times():
    times, marks = np.arange(3, dtype=np.int64), np.zeros(2, np.uint8)
    with pytest.raises(kernels.KernelArgument):
        kernels.sift_coincidences(times, marks, times, np.zeros(3, np.uint8), 5, 0.0, 0.0, 0)
    with pytest.raises(kernels.KernelUnsorted):
        kernels.sift_coincidences(times[::-1], np.zeros(3, np.uint8), times, np.zeros(3, np.uint8), 5, 0.0, 0.0, 0)


def test_refused_arguments():
    good = np.arange(3, dtype=np.int64)
    for kind, call in [
        (kernels.KernelUnsorted, lambda: kernels.match_coincidences(good[::-1], good, 5, 0.0, 0.0, 0)),
        (kernels.KernelUnsorted, lambda: kernels.match_coincidences(good, good + 2**62, 5, 0.0, 0.0, 0)),
        (kernels.KernelArgument, lambda: kernels.match_coincidences(good, good, -1, 0.0, 0.0, 0)),
        (kernels.KernelArgument, lambda: kernels.match_coincidences(good, good, 5, float("nan"), 0.0, 0)),
        (kernels.KernelArgument, lambda: kernels.match_coincidences(good, good, 5, 0.0, 1.0, 0)),
        (kernels.KernelArgument, lambda: kernels.match_coincidences(good, good, 5, float("inf"), 0.0, 0)),
        (kernels.KernelArgument, lambda: kernels.match_coincidences(good, good, 2**70, 0.0, 0.0, 0)),
        (kernels.KernelArgument, lambda: kernels.match_coincidences(good.astype(np.float64), good, 5, 0.0, 0.0, 0)),
        (kernels.KernelUnsorted, lambda: kernels.delay_histogram(good[::-1], good, 0, 1, 4)),
        (kernels.KernelArgument, lambda: kernels.delay_histogram(good, good, 0, 0, 4)),
        (kernels.KernelArgument, lambda: kernels.delay_histogram(good, good, 0, 2**61, 4)),
    ]:
        with pytest.raises(kind):
            call()


@given(dense, dense, st.integers(-50, 50), st.integers(1, 9), st.integers(0, 40))
def test_delay_histogram_counts_all_pairs(a, b, start, width, bins):
    got = kernels.delay_histogram(np.array(a, np.int64), np.array(b, np.int64), start, width, bins)
    expected = [0] * bins
    for x in a:
        for y in b:
            cell = (y - x - start) // width
            if 0 <= cell < bins:
                expected[cell] += 1
    assert got.tolist() == expected


def test_delay_histogram_of_large_times():
    rng = np.random.default_rng(3)
    a = np.sort(rng.integers(-(2**60), 2**60, 500))
    b = np.sort(rng.integers(-(2**60), 2**60, 500))
    got = kernels.delay_histogram(a, b, -(2**60), 2**40 + 7, 2**20)
    cells = ((b[None, :] - a[:, None]) + 2**60) // (2**40 + 7)
    cells = cells[(cells >= 0) & (cells < 2**20)]
    assert (got == np.bincount(cells, minlength=2**20)).all()


@settings(max_examples=60)
@given(
    st.integers(0, 1500),
    st.integers(-(2**40), 2**40),
    st.floats(1e-9, 1.0),
    st.integers(0, 5000),
    st.one_of(st.none(), st.integers(1, 700)),
    st.integers(0, 2**32),
)
def test_clock_histogram_counts_cells(count, origin, rate, cells, fold, seed):
    if cells == 0 and fold is None:
        fold = 1
    times = np.sort(np.random.default_rng(seed).integers(origin - 10**6, origin + 10**7, count))
    got = kernels.clock_histogram(times, origin, rate, cells, fold)
    cell = np.floor((times - origin).astype(np.float64) * rate).astype(np.int64)
    cell = cell[(cell >= 0) & (cell < cells)]
    width = cells if fold is None else fold
    assert got.dtype == np.float32
    assert (got == np.bincount(cell % width, minlength=width)).all()


def test_clock_histogram_refusals():
    times = np.arange(3, dtype=np.int64)
    for rate, cells, fold in [(0.0, 4, 4), (2.0, 4, 4), (float("nan"), 4, 4), (0.5, 4, 0), (0.5, 2**52, 4)]:
        with pytest.raises(kernels.KernelArgument):
            kernels.clock_histogram(times, 0, rate, cells, fold)
    with pytest.raises(kernels.KernelUnsorted):
        kernels.clock_histogram(times[::-1], 0, 0.5, 4)
