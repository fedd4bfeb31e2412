"""Search of a clock: streams with a known offset and frequency, streams without pairs, the sums along lines by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qkdd_native._kernels import ffi, lib

from qkdd import kernels

SECOND = 10**12


def streams(seed, rate_a, rate_b, pairs, seconds, offset_s, drift, margin_s=1.2):
    """Bob's clicks over `seconds`, alice's with the margin on both sides; t_a = t_b (1 + drift) + offset."""
    rng = np.random.default_rng(seed)
    common = rng.uniform(0, seconds * SECOND, rng.poisson(pairs * seconds))
    wide = seconds + 2 * margin_s
    alone_a = rng.uniform(-margin_s * SECOND, (seconds + margin_s) * SECOND, rng.poisson((rate_a - pairs) * wide))
    alone_b = rng.uniform(0, seconds * SECOND, rng.poisson((rate_b - pairs) * seconds))
    jitter = rng.normal(0, 300, (2, len(common)))
    a = np.concatenate([common + jitter[0], alone_a]) * (1 + drift) + offset_s * SECOND
    b = np.concatenate([common + jitter[1], alone_b])
    return np.sort(np.rint(a).astype(np.int64)), np.sort(np.rint(b).astype(np.int64))


@pytest.mark.parametrize(
    ("rates", "pairs", "offset_s", "drift"),
    [
        ((2e5, 2e5), 2e4, 0.0, 0.0),
        ((2e5, 2e5), 2e4, 0.97, 4.9e-6),
        ((2e5, 2e5), 6e3, -0.61, -4.9e-6),
        ((3e5, 2e4), 2e3, -0.999, 2.2e-6),
        ((1e4, 1e4), 1e3, 0.3, -1e-6),
    ],
)
def test_finds_offset_and_frequency(rates, pairs, offset_s, drift):
    a, b = streams(1, *rates, pairs, 1.5, offset_s, drift)
    found = kernels.clock_search(a, b, 0.0, 1.0 * SECOND, 5e-6, 500.0, kernels.CLOCK_LEVELS[:3])
    assert found is not None
    assert abs(found.offset_ps - (offset_s * SECOND + drift * found.origin_ps)) <= found.offset_error_ps
    assert abs(found.drift - drift) <= found.drift_error
    assert found.offset_error_ps < 100_000
    assert found.drift_error < 5e-7
    assert found.surprise > 7


def test_the_centre_moves_the_range():
    a, b = streams(2, 1e5, 1e5, 1e4, 1.0, 3.5, 1e-6, margin_s=0.3)
    found = kernels.clock_search(a, b, 3.4 * SECOND, 0.2 * SECOND, 5e-6, 500.0, kernels.CLOCK_LEVELS[:1])
    assert found is not None
    assert abs(found.offset_ps - (3.5 * SECOND + 1e-6 * found.origin_ps)) <= found.offset_error_ps
    assert kernels.clock_search(a, b, 0.0, 0.2 * SECOND, 5e-6, 500.0, kernels.CLOCK_LEVELS[:1]) is None


def test_equal_stretches_alias_and_are_told_apart():
    """Neither side has clicks beyond the other's stretch: lags are known modulo the stretch only, the judgement decides."""
    a, b = streams(3, 1e6, 1e6, 3e4, 1.1, 0.0, 0.0, margin_s=0.0)
    shift = int(0.45 * SECOND)
    a, b = a[a > shift], b[b < 1.1 * SECOND - shift] - shift
    found = kernels.clock_search(a, b, 0.0, 1.07 * SECOND, 1e-9, 500.0)
    assert found is not None
    assert abs(found.offset_ps - shift) <= found.offset_error_ps


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_found_where_there_are_no_pairs(seed):
    a, b = streams(seed, 1e5, 1e5, 0, 1.0, 0.0, 0.0)
    assert kernels.clock_search(a, b, 0.0, 1.0 * SECOND, 5e-6, 500.0, kernels.CLOCK_LEVELS[:2]) is None


def test_rates_that_change_together_are_no_pairs():
    """Lamps blink with the mains at both ends: a broad correlation, but no pairs."""
    rng = np.random.default_rng(5)
    sides = []
    for _ in range(2):
        times = np.sort(rng.integers(0, SECOND, 400_000))
        keep = rng.random(len(times)) < 0.5 + 0.5 * np.sin(2 * np.pi * 100 * times / SECOND)
        sides.append(times[keep])
    assert kernels.clock_search(*sides, 0.0, 0.5 * SECOND, 5e-6, 500.0, kernels.CLOCK_LEVELS[:1]) is None


def test_too_little_and_bursts():
    few = np.array([0, 5], np.int64)
    assert kernels.clock_search(few[:1], few, 0.0, 1e9, 1e-6, 500.0) is None
    assert kernels.clock_search(few, few, 0.0, 1e9, 1e-6, 500.0) is None
    assert kernels.clock_search(few + 10**15, few, 0.0, 1e9, 1e-6, 500.0) is None
    burst = np.concatenate([np.zeros(20_000, np.int64), np.arange(20_000) * 10**7])
    kernels.clock_search(burst, burst, 0.0, 1e9, 1e-6, 500.0, kernels.CLOCK_LEVELS[:1])  # ends, whatever it says
    for arguments in ((0.0, 0.0, 1e-6, 1.0), (0.0, 1e9, 1.0, 1.0), (0.0, 1e9, 1e-6, 0.0), (2.0**61, 1e9, 1e-6, 1.0)):
        with pytest.raises(kernels.KernelArgument):
            kernels.clock_search(few, few, *arguments)


def peak(a, b, delay, drift, origin, fine, bins, order, most=10**9):
    found = ffi.new("qkdd_clock_peak_found *")
    workspace = np.empty(max(1, lib.qkdd_clock_peak_workspace(bins, order)), np.uint32)
    code = lib.qkdd_clock_peak(
        ffi.from_buffer("int64_t[]", a),
        len(a),
        ffi.from_buffer("int64_t[]", b),
        len(b),
        delay,
        drift,
        origin,
        fine,
        bins,
        order,
        most,
        ffi.from_buffer("uint32_t[]", workspace),
        len(workspace),
        found,
    )
    return code, (found.count, found.slope, found.place, found.pairs)


def line(slope, order):
    """Rise from the first segment to each, as the sums over halves make it: halves meet with half the slope in each."""
    if order == 0:
        return [0]
    low = line(slope // 2, order - 1)
    return low + [step + (slope + 1) // 2 for step in low]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(2, 9),
    st.integers(1, 4),
    st.sampled_from([1.0, 3.0, 7.5]),
    st.integers(-20, 20),
    st.integers(0, 2**32),
)
def test_sums_along_lines_are_what_the_header_says(na, nb, bins, order, fine, delay, seed):
    rng = np.random.default_rng(seed)
    a, b = np.sort(rng.integers(0, 200, na)), np.sort(rng.integers(0, 200, nb))
    segments = 1 << order
    row = bins + segments
    plane = np.zeros((segments, row), np.int64)
    low = -round(fine * bins / 2)
    for time in b:
        for other in a:
            x = other - time - delay - low
            if 0 <= x < int(fine * row):
                plane[int((time - b[0]) * (segments / (b[-1] - b[0] + 1))), int(x / fine)] += 1
    best = (0, 0, 0)
    for slope in range(segments):
        sums = [sum(plane[k, m + rise] for k, rise in enumerate(line(slope, order))) for m in range(bins)]
        for m in range(bins - 1):
            if sums[m] + sums[m + 1] > best[0]:
                best = (sums[m] + sums[m + 1], slope, m)
    code, found = peak(a, b, float(delay), 0.0, 0, fine, bins, order)
    assert code == 0
    assert found == (*best, plane.sum())


def test_the_peak_refuses_what_it_cannot_do():
    times = np.arange(100, dtype=np.int64)
    good = (times, times, 0.0, 0.0, 0, 1.0, 8, 2)
    assert peak(*good)[0] == 0
    assert peak(*good, most=10)[0] == 5  # more pairs than agreed
    bad = [(5, 0.5), (5, float("nan")), (6, 1), (6, 1 << 21), (7, 0), (7, 13), (2, 1e30), (3, 0.1)]
    for index, value in bad:
        assert peak(*(value if i == index else old for i, old in enumerate(good)))[0] == 1
    assert peak(times[::-1].copy(), *good[1:])[0] == 4
    assert peak(times, np.array([0, 1 << 51], np.int64), *good[2:])[0] == 1
