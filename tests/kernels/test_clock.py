"""Search of a clock: streams with a known offset and frequency, streams without pairs, the sums along lines by definition."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qkdd_native import bench_pfind, variants
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


def negacyclic(a, b):
    """Sum of b[i + p] a[i], with the sign turned where i + p passes the end; exact."""
    n = len(a)
    full = np.fft.irfft(np.fft.rfft(b, 4 * n) * np.conj(np.fft.rfft(a, 4 * n)), 4 * n)
    return np.rint(full[:n]) - np.concatenate([[0], np.rint(full[-n + 1 :])])


@pytest.mark.parametrize("order", [9, 10, 11, 12, 13, 17])
def test_correlation_by_definition_on_every_variant(order):
    n = 1 << order
    rng = np.random.default_rng(order)
    a, b = rng.integers(-2, 7, n), rng.integers(-2, 7, n)
    wanted = negacyclic(a, b)
    p = int(rng.integers(1, n))
    assert wanted[p] == np.dot(b[p:], a[:-p]) - np.dot(b[:p], a[-p:])
    table = np.empty(lib.qkdd_correlation_table(order, ffi.NULL), np.float32)
    assert lib.qkdd_correlation_table(order, ffi.from_buffer("float[]", table)) == len(table)
    results = []
    try:
        for name in variants.available():
            variants.select(name)
            spectrum, work, lags = (np.empty(n, np.float32) for _ in range(3))
            deviation = ffi.new("double *")
            floats = [ffi.from_buffer("float[]", v) for v in (table, a.astype(np.float32), b.astype(np.float32))]
            outputs = [ffi.from_buffer("float[]", v) for v in (spectrum, work, lags)]
            assert lib.qkdd_correlation_spectrum(order, floats[0], floats[1], outputs[0]) == 0
            assert lib.qkdd_correlate(order, floats[0], outputs[0], floats[2], *outputs[1:], deviation) == 0
            assert np.abs(lags - wanted).max() < 3e-7 * np.linalg.norm(a) * np.linalg.norm(b)
            assert deviation[0] == pytest.approx(np.sqrt(np.mean(wanted**2)), rel=1e-5)
            results.append(lags.tobytes())
    finally:
        variants.select(None)
    assert len(set(results)) == 1  # to the last bit


def test_correlation_refuses_sizes():
    for order in (8, 25):
        assert lib.qkdd_correlation_table(order, ffi.NULL) == 0
        nothing, deviation = ffi.new("float[1]"), ffi.new("double *")
        assert lib.qkdd_correlation_spectrum(order, nothing, nothing, nothing) == 1
        assert lib.qkdd_correlate(order, nothing, nothing, nothing, nothing, nothing, deviation) == 1
    times = np.arange(1000, dtype=np.int64)
    for cells in (1 << 8, 1000, 1 << 25):
        with pytest.raises(kernels.KernelArgument):
            kernels.clock_search(times, times, 0.0, 1e9, 0.0, 500.0, (kernels.ClockLevel(cells, 2.0, 4),))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 30),
    st.integers(1, 30),
    st.integers(0, 4),
    st.floats(-0.01, 0.01),
    st.floats(-200, 200),
    st.integers(0, 2**32),
)
def test_stretched_cells_are_what_the_header_says(half, first, length, pieces, stretch, middle, seed):
    n = 2 * half * 10
    counts = np.random.default_rng(seed).integers(0, 9, n).astype(np.float32)
    means = np.arange(1.0, pieces + 1, dtype=np.float32)
    cells = np.full(n // 2, 99, np.float32)
    arguments = (ffi.from_buffer("float[]", means), pieces, stretch, middle, ffi.from_buffer("float[]", cells))
    code = lib.qkdd_clock_cells(ffi.from_buffer("float[]", counts), n, first, length, *arguments)
    if first > n or pieces * length > n - first:
        assert code == 1
        return
    assert code == 0
    for j in range(n // 2):
        product = stretch * (2 * j - middle)
        if abs(abs(product) % 1 - 0.5) < 1e-6:
            continue
        source = 2 * j - round(product)
        inside = first <= source and source + 1 < first + pieces * length
        wanted = counts[source] + counts[source + 1] - 2 * means[(source - first) // length] if inside else 0
        assert cells[j] == pytest.approx(wanted, abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 900), st.integers(0, 50), st.sampled_from([1.0, -1.0]), st.floats(0.5, 4), st.integers(0, 2**32))
def test_highest_lags_are_the_local_maxima(n, first, sign, limit, seed):
    lags = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    places, heights, found = np.empty(n), np.empty(n, np.float32), ffi.new("size_t *")
    outputs = (ffi.from_buffer("double[]", places), ffi.from_buffer("float[]", heights), found)
    source = ffi.from_buffer("float[]", lags)
    code = lib.qkdd_highest_lags(source, first, n, sign, limit, n, *outputs)
    if first > n:
        assert code == 1
        return
    assert code == 0
    alone = sign * lags[first:].astype(np.float64)
    twin = np.append((alone[:-1] + alone[1:]) / np.sqrt(2), 0) if len(alone) else alone
    best = np.maximum(alone, twin)
    wanted = []
    for i, value in enumerate(best):
        before = best[i - 1] if i else 0.0
        after = best[i + 1] if i + 1 < len(best) else 0.0
        if value > limit and value >= before and value > after:
            wanted.append(first + i + (0.0 if alone[i] > twin[i] else 0.5))
    assert places[: found[0]].tolist() == wanted
    if wanted:
        assert lib.qkdd_highest_lags(source, first, n, sign, limit, len(wanted) - 1, *outputs) == 6
    assert lib.qkdd_highest_lags(source, first, n, 0.5, limit, n, *outputs) == 1
    assert lib.qkdd_highest_lags(source, first, n, sign, 0.0, n, *outputs) == 1


STUB = """
import sys, pathlib, numpy
folders = dict(zip(sys.argv[1::2], sys.argv[2::2]))
first, second = [], []
for epoch in (4, 5):
    words = numpy.fromfile(pathlib.Path(folders["-D"]) / f"{epoch:08x}", "<u4").astype(numpy.uint64)
    assert words[:2].tolist() == [1, epoch] and words[2] * 2 + 7 == len(words) and not words[-2:].any()
    first.append(((words[5:-2:2] << 32 | words[6:-2:2]) >> 15).astype(numpy.int64))
    words = numpy.fromfile(pathlib.Path(folders["-d"]) / f"{epoch:08x}", "<u4")
    width = int(words[3] + words[4])
    bits = numpy.unpackbits(words[6:].astype(">u4").view(numpy.uint8))
    bits = bits[: (words[2] + 1) * width].reshape(-1, width)
    gaps = bits[:, : words[3]].astype(numpy.int64) @ (1 << numpy.arange(int(words[3]) - 1, -1, -1))
    assert gaps[-1] == 1 and gaps[:-1].min() > 1
    second.append(numpy.cumsum(gaps[:-1]) + (epoch << 32))
a, b = numpy.concatenate(first), numpy.concatenate(second)
differences = (b[:, None] - a[None, :]).ravel()
differences = differences[(differences <= 0) & (differences > -(10**12) // 500)]
values, counts = numpy.unique(differences // 16, return_counts=True)
print(int(values[counts.argmax()]) * 16 + 8)
"""


def test_files_for_pfind_hold_the_streams(tmp_path):
    """A stub reads them by qcrypto's filespec.txt, searches by all differences, and answers as pfind does."""
    program = tmp_path / "pfind"
    program.write_text(f"#!{sys.executable}\n{STUB}")
    program.chmod(0o755)
    results = bench_pfind.compare(program, [20], 3000.0, 0.5, 3, tmp_path)
    assert {name: outcome for name, (outcome, _) in results.items()} == dict.fromkeys(results, "found")
    assert all(taken > 0 for _, taken in results.values())
