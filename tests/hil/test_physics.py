"""The stream of the virtual bench against the closed forms, with fixed seeds."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from qkdd_hil.physics import (
    ClockParameters,
    DetectorParameters,
    FibreParameters,
    LineParameters,
    QuantumLine,
    SideParameters,
    SourceParameters,
    window_fraction,
)
from qkdd_hil.physics.clock import FreeClock
from qkdd_hil.physics.detector import DetectorState, dark_rate, efficiency, non_paralysable
from qkdd_hil.physics.pairs import correlation_tensor, outcome_probabilities
from qkdd_hil.physics.polarization import paddles, rotation

from qkdd.core.units import Fraction, Hertz, Radians, Seconds

Times = NDArray[np.int64]
STEP = 20 * 10**9  # ps, as a simulator asks


def collect(line: QuantumLine, side: str, seconds: float, step: int = STEP) -> tuple[Times, NDArray[np.uint8]]:
    source = getattr(line, side)
    parts = [source.clicks(k * step, (k + 1) * step) for k in range(round(seconds * 1e12 / step))]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def collect_both(
    line: QuantumLine, seconds: float
) -> tuple[tuple[Times, NDArray[np.uint8]], tuple[Times, NDArray[np.uint8]]]:
    parts: dict[str, list[Any]] = {"alice": [], "bob": []}
    for k in range(round(seconds * 1e12 / STEP)):
        for side, found in parts.items():
            found.append(getattr(line, side).clicks(k * STEP, (k + 1) * STEP))
    a, b = (
        (np.concatenate([p[0] for p in parts[s]]), np.concatenate([p[1] for p in parts[s]])) for s in ("alice", "bob")
    )
    return a, b


def pair_table(a: tuple[Times, Any], b: tuple[Times, Any], shift: int, window: int) -> NDArray[np.float64]:
    """All pairs of clicks with |t_b - t_a - shift| <= window/2, by detectors: an oracle without one-to-one rule."""
    table = np.zeros((4, 4))
    low = np.searchsorted(b[0], a[0] + shift - window // 2, side="left")
    high = np.searchsorted(b[0], a[0] + shift + window // 2, side="right")
    width = high - low
    for k in range(int(width.max(initial=0))):
        rows = np.flatnonzero(width > k)
        np.add.at(table, (a[1][rows], b[1][low[rows] + k]), 1)
    return table


def quiet_line(**kwargs: Any) -> LineParameters:
    """Synchronous clocks, no delays, no drift: coincidences sit at difference zero. Free bins: 1 ps taggers."""
    detector = {"delay": Seconds(0.0), **kwargs.pop("detector", {})}
    resolution = kwargs.pop("resolution", 1e-12)
    sides = []
    for efficiencies in ((0.82, 0.78, 0.81, 0.79), (0.7, 0.83, 0.75, 0.8)):
        detectors = tuple(DetectorParameters(**{"efficiency": Fraction(e), **detector}) for e in efficiencies)
        sides.append(
            SideParameters(
                detectors=detectors,
                fibre=FibreParameters(drift=Radians(0.0)),
                clock=ClockParameters(wander_ppm=0.0),
                resolution=Seconds(resolution),
            )
        )
    return LineParameters(source=SourceParameters(**kwargs), alice=sides[0], bob=sides[1])


def test_singles_agree_with_the_closed_form_per_detector() -> None:
    seconds = 6.0
    line = QuantumLine(LineParameters(), seed=11)
    means = line.expected(6e-9)
    (_, a), (_, b) = collect_both(line, seconds)
    for channels, singles in ((a, means.singles_a), (b, means.singles_b)):
        counts = np.bincount(channels, minlength=4)
        assert np.all(np.abs(counts - singles * seconds) < 4 * np.sqrt(singles * seconds)), (counts, singles * seconds)


@pytest.mark.parametrize("load", [1e5, 1e6])
def test_dead_time_and_afterpulses_scale_a_detector_as_the_formula_says(load: float) -> None:
    parameters = DetectorParameters(dead_time=Seconds(60e-9), afterpulse=Fraction(0.01))
    state, rng = DetectorState(parameters), np.random.default_rng(3)
    chunk, chunks, total = 10**11, 20, 0
    for k in range(chunks):
        arrivals = rng.integers(k * chunk, (k + 1) * chunk, rng.poisson(load * 0.1))
        total += len(state.register(arrivals, (k + 1) * chunk, rng))
    expected = load * 0.1 * chunks * 1.01 / (1 + load * 60e-9)
    second_order = 2 * 0.01 * load * 60e-9 * expected  # stated in DetectorState
    assert abs(total - expected) < 4 * math.sqrt(expected) + second_order


def test_true_and_accidental_coincidences_agree_with_the_closed_form() -> None:
    seconds, window = 4.0, 4e-9
    line = QuantumLine(quiet_line(), seed=5)
    means = line.expected(window)
    a, b = collect_both(line, seconds)
    at_zero = pair_table(a, b, 0, round(window * 1e12)) / seconds
    shifts = [s * 100_000 for s in range(5, 45)]
    beside = sum(pair_table(a, b, s, round(window * 1e12)) for s in shifts) / (seconds * len(shifts))
    sigma = np.sqrt((means.coincidences + means.accidentals) / seconds)
    assert np.all(np.abs(at_zero - means.coincidences - means.accidentals) < 4 * sigma)
    sigma = math.sqrt(means.accidentals.sum() / (seconds * len(shifts)))
    assert abs(beside.sum() - means.accidentals.sum()) < 4 * sigma


def test_error_rate_is_e_c_plus_half_the_accidentals() -> None:
    seconds, window = 5.0, 6e-9
    line = QuantumLine(quiet_line(visibility_z=Fraction(0.98), visibility_x=Fraction(0.96)), seed=6)
    means = line.expected(window)
    table = pair_table(*collect_both(line, seconds), 0, round(window * 1e12))
    for block, visibility in ((slice(0, 2), 0.98), (slice(2, 4), 0.96)):
        counts = table[block, block]
        true = means.coincidences[block, block].sum()
        chance = means.accidentals[block, block].sum()
        qber = ((1 - visibility) / 2 * true + chance / 2) / (true + chance)
        seen = (counts[0, 1] + counts[1, 0]) / counts.sum()
        assert abs(seen - qber) < 4 * math.sqrt(qber / counts.sum())
    assert 0.014 < QuantumLine(LineParameters(), 1).expected(window).qber < 0.018


def test_demo_defaults_give_the_rates_that_the_documentation_names() -> None:
    means = QuantumLine(LineParameters(), 1).expected(6e-9)
    assert means.singles_a.sum() == pytest.approx(4e5, rel=0.03)
    assert means.singles_b.sum() == pytest.approx(4e5, rel=0.03)
    assert means.sifted_rate == pytest.approx(4e4, rel=0.03)


@pytest.mark.parametrize(("sigma", "bins"), [(0.5e-9, 2e-9), (0.05e-9, 2e-9), (1.2e-9, 1e-12)])
def test_window_fraction_agrees_with_drawn_differences(sigma: float, bins: float) -> None:
    rng = np.random.default_rng(8)
    n = 400_000
    late = rng.normal(0, sigma, n)
    difference = late + bins * (rng.uniform(size=n) - rng.uniform(size=n))
    for window in (1e-9, 2e-9, 4e-9, 6e-9):
        share = window_fraction(window, sigma, bins)
        seen = np.mean(np.abs(difference) <= window / 2)
        assert abs(seen - share) < 4 * math.sqrt(max(share * (1 - share), 1e-5) / n)


@pytest.mark.parametrize("window", [2e-9, 4e-9])
def test_jitter_and_bins_lose_what_the_window_fraction_says(window: float) -> None:
    """In the stream: bins of 2 ns, and clocks that slide against each other, put back by the known rate."""
    seconds, ppm = 4.0, 4.0
    quiet = quiet_line(detector={"jitter": Seconds(0.4e-9)}, resolution=2e-9)
    sliding = ClockParameters(frequency_error_ppm=ppm, wander_ppm=0.0)
    line = QuantumLine(msgspec.structs.replace(quiet, bob=msgspec.structs.replace(quiet.bob, clock=sliding)), seed=9)
    (a_times, a), (b_times, b) = collect_both(line, seconds)
    b_times = np.rint(b_times / (1 + ppm * 1e-6)).astype(np.int64)
    means = line.expected(window)
    total = means.coincidences.sum() + means.accidentals.sum()
    seen = pair_table((a_times, a), (b_times, b), 0, round(window * 1e12)).sum() / seconds
    assert abs(seen - total) < 4 * math.sqrt(total / seconds)
    assert means.coincidences.sum() < 0.97 * line.expected(20e-9).coincidences.sum()


def test_chsh_inferred_from_the_stream_is_two_root_two_times_visibility() -> None:
    line = QuantumLine(quiet_line(pair_rate=Hertz(2e5)), seed=10)
    table = pair_table(*collect_both(line, 8.0), 0, 4000)
    correlation = {}
    for za in (0, 1):
        for zb in (0, 1):
            n = table[2 * za : 2 * za + 2, 2 * zb : 2 * zb + 2]
            correlation[za, zb] = (n[0, 0] + n[1, 1] - n[0, 1] - n[1, 0]) / n.sum()
    matrix = np.array([[correlation[0, 0], correlation[0, 1]], [correlation[1, 0], correlation[1, 1]]])
    s = 2 * math.sqrt(float((np.linalg.svd(matrix, compute_uv=False) ** 2).sum()))
    assert s == pytest.approx(line.expected(4e-9).chsh_s, abs=0.05)
    assert s == pytest.approx(2 * math.sqrt(2) * 0.98, abs=0.06)


@pytest.mark.parametrize(("eve", "low", "high"), [(0.05, 0.026, 0.03), (0.3, 0.085, 0.095), (1.0, 0.25, 0.27)])
def test_an_eavesdropper_costs_a_quarter_of_what_is_intercepted(eve: float, low: float, high: float) -> None:
    line = QuantumLine(quiet_line(), seed=12)
    line.setting.eve = eve
    means = line.expected(6e-9)
    assert low < means.qber < high
    table = pair_table(*collect_both(line, 2.0), 0, 6000)
    wrong = table[0, 1] + table[1, 0] + table[2, 3] + table[3, 2]
    total = table[:2, :2].sum() + table[2:, 2:].sum()
    assert abs(wrong / total - means.qber) < 4 * math.sqrt(means.qber / total)


def test_the_stream_is_repeatable_and_does_not_depend_on_how_it_is_asked() -> None:
    first, second, other = (QuantumLine(LineParameters(), seed) for seed in (7, 7, 8))
    a, b = collect_both(first, 1.0)
    # the other side first, in larger portions
    b2 = collect(second, "bob", 1.0, 100 * 10**9)
    a2 = collect(second, "alice", 1.0, 50 * 10**9)
    for one, two in ((a, a2), (b, b2)):
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
    assert not np.array_equal(a[0], collect(other, "alice", 1.0)[0])


def test_tags_are_ordered_lie_in_their_interval_and_on_the_bins() -> None:
    line = QuantumLine(LineParameters(), seed=2)
    last = 0
    for k in range(40):
        times, channels = line.alice.clicks(k * STEP, (k + 1) * STEP)
        assert np.all(times % 2000 == 0)
        assert np.all(np.diff(times) >= 0)
        assert times[0] >= max(last, k * STEP - 2000)
        assert times[-1] < (k + 1) * STEP
        assert channels.max() <= 3
        last = int(times[-1])


def test_a_stretch_that_nobody_asked_for_is_skipped_without_losing_the_pairs_after_it() -> None:
    line = QuantumLine(quiet_line(), seed=4)
    line.alice.clicks(0, STEP)
    start = 3600 * 10**12
    a = line.alice.clicks(start, start + 50 * STEP)
    b = line.bob.clicks(start, start + 50 * STEP)
    assert pair_table(a, b, 0, 4000).sum() > 0.9 * line.expected(4e-9).coincidences.sum()


def test_a_side_that_does_not_ask_costs_bounded_memory() -> None:
    line = QuantumLine(LineParameters(source=SourceParameters(pair_rate=Hertz(1e4))), seed=4)
    collect(line, "alice", 20.0, 10**12)
    times, _ = line.bob.clicks(0, 20 * 10**12)
    assert times[-1] - times[0] < 6 * 10**12
    assert times[0] > 10 * 10**12


@pytest.mark.parametrize("side", ["alice", "bob"])
def test_turning_a_paddle_raises_the_error_and_turning_it_back_heals_it(side: str) -> None:
    angles = (Radians(0.7), Radians(1.2), Radians(0.3))
    parameters = LineParameters(alice=SideParameters(paddles=angles), bob=SideParameters(paddles=angles))
    line = QuantumLine(parameters, seed=1)
    aligned = line.expected(6e-9).qber
    assert aligned < 0.02
    getattr(line.setting, side).paddles = (0.7, 1.5, 0.3)
    assert line.expected(6e-9).qber > 0.1
    getattr(line.setting, side).paddles = tuple(angles)
    assert line.expected(6e-9).qber == pytest.approx(aligned)


def test_bias_moves_efficiency_and_dark_counts_and_latches() -> None:
    d = DetectorParameters()
    assert efficiency(d, d.bias) == pytest.approx(d.efficiency)
    assert dark_rate(d, d.bias) == pytest.approx(d.dark_counts)
    assert efficiency(d, 10e-6) < 0.2 < efficiency(d, 16e-6) < efficiency(d, 22e-6)
    assert dark_rate(d, 18e-6) < dark_rate(d, 22e-6)
    assert efficiency(d, 0.0) == efficiency(d, 27e-6) == dark_rate(d, 27e-6) == 0.0


def test_lower_bias_source_off_disabled_and_frozen_show_in_the_clicks() -> None:
    line = QuantumLine(LineParameters(), seed=1)
    full = len(line.alice.clicks(0, 5 * STEP)[0])
    line.setting.alice.bias = (10e-6,) * 4
    low = len(line.alice.clicks(100 * STEP, 105 * STEP)[0])
    line.setting.alice.bias = (20e-6,) * 4
    line.setting.source_on = False
    dark = len(line.alice.clicks(200 * STEP, 205 * STEP)[0])
    line.setting.alice.enabled = False
    off = len(line.alice.clicks(300 * STEP, 305 * STEP)[0])
    line.setting.alice.enabled, line.setting.source_on, line.setting.frozen = True, True, True
    frozen = len(line.alice.clicks(400 * STEP, 405 * STEP)[0])
    assert full > 4 * low > 0
    assert 50 < dark < 250
    assert off == frozen == 0


@given(
    st.lists(st.integers(0, 3000), max_size=200),
    st.integers(0, 400),
)
def test_dead_time_keeps_what_a_walk_through_the_events_keeps(arrivals: list[int], dead: int) -> None:
    times = np.sort(np.array(arrivals, dtype=np.int64))
    kept: list[int] = []
    for t in times:
        if not kept or t - kept[-1] >= dead:
            kept.append(int(t))
    assert non_paralysable(times, dead).tolist() == kept


@given(st.integers(0, 2**32), st.lists(st.floats(0, 30), min_size=1, max_size=6))
@settings(max_examples=30)
def test_no_two_clicks_of_a_detector_are_closer_than_its_dead_time_across_chunks(seed: int, loads: list[float]) -> None:
    parameters = DetectorParameters(jitter=Seconds(0.0), dead_time=Seconds(1e-6), afterpulse=Fraction(0.3))
    state, rng = DetectorState(parameters), np.random.default_rng(seed)
    chunk = 10**7  # ps: ten dead times
    clicks = [
        state.register(rng.integers(k * chunk, (k + 1) * chunk, rng.poisson(load)), (k + 1) * chunk, rng)
        for k, load in enumerate(loads)
    ]
    assert np.all(np.diff(np.concatenate(clicks)) >= 10**6)


vectors = st.tuples(*[st.floats(-3, 3)] * 3)


@given(vectors, vectors, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_outcome_probabilities_are_probabilities_with_uniform_marginals(
    a: tuple[float, ...], b: tuple[float, ...], vz: float, vx: float, eve: float
) -> None:
    p = outcome_probabilities(correlation_tensor(vz, vx, eve), rotation(a), paddles(b), 0.5, 0.4)
    assert np.all(p >= -1e-12)
    assert p.sum() == pytest.approx(1.0)
    assert p.sum(axis=1) == pytest.approx([0.25] * 4)
    assert p.sum(axis=0) == pytest.approx([0.2, 0.2, 0.3, 0.3])


@given(st.integers(-(10**13), 10**17), st.floats(-1, 1), st.floats(-4.9, 4.9), st.integers(0, 99))
def test_the_clock_runs_forward_and_its_inverse_finds_back(true: int, offset: float, ppm: float, seed: int) -> None:
    parameters = ClockParameters(offset=Seconds(offset), frequency_error_ppm=ppm, wander_ppm=0.1)
    clock = FreeClock(parameters, np.random.default_rng(seed))
    reading = clock.reading(true)
    assert abs(clock.true(reading) - true) <= 200
    assert abs(clock.reading(true + 10**12) - reading - 10**12) <= 5.1e-6 * 10**12
    stamps = clock.stamp(np.array([true, true + 10**10]), true, true + 5 * 10**10)
    assert abs(int(stamps[0]) - reading) <= 1
    assert abs(int(stamps[1]) - clock.reading(true + 10**10)) <= 200


def test_the_two_clocks_have_the_configured_offset_and_rate() -> None:
    """Pairs sit at the difference that offsets, frequency errors and fibre delays make."""
    base = LineParameters()
    line = QuantumLine(base, seed=3)
    a, b = collect_both(line, 2.0)
    sides = line._sides
    for at in (500, 1500):  # ms of Alice's clock
        begin = at * 10**9
        true = sides["alice"].clock.true(begin)
        fibre = round((base.bob.fibre.delay - base.alice.fibre.delay) * 1e12)
        shift = sides["bob"].clock.reading(true) - begin + fibre
        rows = (a[0] >= begin) & (a[0] < begin + 10**9)
        near = pair_table((a[0][rows], a[1][rows]), b, shift, 20_000).sum()
        assert near > 0.6 * 1e-3 * line.expected(20e-9).coincidences.sum()


def test_configuration_of_the_bench_is_checked() -> None:
    assert [k for k, _, _ in ClockParameters(offset=Seconds(1.5)).check()] == ["offset"]
    assert [k for k, _, _ in ClockParameters(frequency_error_ppm=6.0).check()] == ["frequency_error_ppm"]
    assert [k for k, _, _ in SideParameters(detectors=()).check()] == ["detectors"]


@pytest.mark.benchmark(group="bench physics")
def test_throughput_at_a_million_clicks_a_second_and_side(benchmark: BenchmarkFixture) -> None:
    """One round is 100 ms of both sides at 1e6 clicks/s each: below 0.1 s keeps up in real time on one core."""
    line = QuantumLine(LineParameters(source=SourceParameters(pair_rate=Hertz(5.2e6))), seed=1)
    span = 10**11
    position = [0]

    def hundred_milliseconds() -> int:
        start = position[0]
        position[0] += span
        return len(line.alice.clicks(start, start + span)[0]) + len(line.bob.clicks(start, start + span)[0])

    hundred_milliseconds()
    clicks = benchmark.pedantic(hundred_milliseconds, rounds=10, iterations=1)
    assert clicks > 1.9e5
