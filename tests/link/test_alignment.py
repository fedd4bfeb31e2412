"""Alignment of two bad clocks, and following them through a block."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import poisson

from qkdd import kernels
from qkdd.link.clockmap import ClockMap
from qkdd.link.coarse import poisson_surprise
from qkdd.link.errors import LockLost
from qkdd.link.refine import OpenClicks, align
from qkdd.link.track import follow

STRETCH = 1.0


def stretch(kit, seed, pairs=1e6, efficiencies=(0.2, 0.2), reach=1.25):
    """Open clicks of a random pair of clocks, and what the alignment should find."""
    rng = np.random.default_rng(seed)
    offset = rng.uniform(-1, 1)
    errors = rng.uniform(-5e-6, 5e-6, 2)
    delays = rng.uniform(-3e-9, 3e-9, (2, 4))
    source = kit.Source(
        pairs=pairs,
        seed=seed,
        alice=kit.Side(efficiencies[0], error=errors[0], delays=tuple(delays[0])),
        bob=kit.Side(efficiencies[1], offset=offset, error=errors[1], delays=tuple(delays[1])),
    )
    a_times, a_detectors, b_times, b_detectors = source.clicks(5.0, 5.0 + STRETCH + 2 * reach)
    low = (5.0 + reach + offset) * 1e12
    own = slice(*np.searchsorted(b_times, (low, low + STRETCH * 1e12)))

    def truth(b_ps):
        true = (b_ps * 1e-12 - offset) / (1 + errors[1])
        return (true * (1 + errors[0]) - b_ps * 1e-12 + delays[0].mean() - delays[1].mean()) * 1e12

    return OpenClicks(a_times, a_detectors), OpenClicks(b_times[own], b_detectors[own]), truth, errors, delays


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weak", [False, True])
def test_offset_frequency_and_delays_are_found(source_kit, seed, weak):
    # weak: 50 times fewer coincidences, by loss in one arm
    alice, bob, truth, errors, delays = stretch(source_kit, seed, efficiencies=(0.2, 0.004 if weak else 0.2))
    found = align(alice, bob, 0.0, 1.25e12, 1e-5, 2000)
    assert found is not None
    tolerance = 250.0 if weak else 60.0  # ps
    assert found.clock.offset_ps == pytest.approx(truth(found.clock.origin_ps), abs=tolerance)
    assert found.clock.drift == pytest.approx((1 + errors[0]) / (1 + errors[1]) - 1, abs=8e-10 if weak else 1e-10)
    assert np.allclose(found.a_delays_ps, (delays[0] - delays[0].mean()) * 1e12, atol=tolerance)
    assert np.allclose(found.b_delays_ps, (delays[1] - delays[1].mean()) * 1e12, atol=tolerance)


def test_clicks_without_pairs_are_not_aligned(source_kit):
    alice, _, _, _, _ = stretch(source_kit, 1, pairs=2e5)
    _, bob, _, _, _ = stretch(source_kit, 2, pairs=2e5)
    assert align(alice, bob, 0.0, 1.25e12, 1e-5, 2000, depth=2) is None


@pytest.mark.parametrize("sides", [(0, 100), (100, 0), (0, 0), (1, 1)])
def test_almost_no_clicks_are_not_aligned(sides):
    clicks = [OpenClicks(np.arange(n, dtype=np.int64) * 10**9, np.zeros(n, np.uint8)) for n in sides]
    assert align(clicks[0], clicks[1], 0.0, 1e12, 1e-5, 2000) is None


def test_surprise_is_the_poisson_tail():
    assert poisson_surprise(20, 5, 1) == pytest.approx(-np.log10(poisson.sf(19, 5)))
    assert poisson_surprise(20, 5, 1000) == pytest.approx(-np.log10(poisson.sf(19, 5)) - 3)
    assert poisson_surprise(4, 5, 1) == 0.0
    assert poisson_surprise(10_000, 5, 1) > 1000  # beyond the smallest double


def block(kit, seed, wobble=0.0, **options):
    """Two seconds of clicks whose drift also wobbles (ps), and a map that is a little wrong at their start."""
    source = kit.Source(
        pairs=5e5, seed=seed, alice=kit.Side(error=2e-6), bob=kit.Side(error=-3e-6, offset=0.2), **options
    )
    a_times, _, b_times, _ = source.clicks(1.0, 3.0)
    elapsed = (b_times - b_times[0]) * 1e-12
    b_times = b_times + np.rint(wobble * np.sin(2 * np.pi * elapsed / 3)).astype(np.int64)
    drift = (1 + 2e-6) / (1 - 3e-6) - 1
    start = int(1.2e12)
    clock = ClockMap(start - 10**12, -0.2e12 + drift * (start - 10**12 - 0.2e12) + 20_000, drift + 1e-8)
    return a_times, b_times, start, int(3.19e12), clock


def matched(a_times, track):
    return len(kernels.match_coincidences(a_times, track.mapped, 6000, 0.0, 0.0, 0)[0])


@pytest.mark.parametrize("wobble", [0.0, 200_000.0])
def test_a_block_is_followed_through_a_wrong_prediction_and_a_wandering_clock(source_kit, wobble):
    a_times, b_times, start, stop, clock = block(source_kit, 4, wobble)
    track = follow(a_times, b_times, start, stop, clock, 2000, 6000, 4e4)
    assert track.found == track.pieces
    # 5e5 · 0.04 · 2 s = 4e4 pairs, of which the window of 6 ns holds nearly all
    assert matched(a_times, track) == pytest.approx(4.0e4 + 1e5**2 * 2 * 6e-9, rel=0.03)


def test_the_map_after_a_block_serves_the_next_one(source_kit):
    a_times, b_times, start, stop, clock = block(source_kit, 5)
    middle = (start + stop) // 2
    cut = np.searchsorted(b_times, middle)
    first = follow(a_times, b_times[:cut], start, middle, clock, 2000, 6000, 2e4)
    second = follow(a_times, b_times[cut:], middle, stop, first.clock, 2000, 6000, 2e4)
    drift = (1 + 2e-6) / (1 - 3e-6) - 1
    assert second.clock.drift == pytest.approx(drift, abs=3e-10)
    assert abs(first.clock.offset_at(middle) - clock.offset_at(middle)) < 40_000


@pytest.mark.parametrize("jump", [268_435_456_000, -268_435_456_000, 10_000_000])
def test_a_jump_of_the_stream_loses_the_lock(source_kit, jump):
    a_times, b_times, start, stop, clock = block(source_kit, 6)
    with pytest.raises(LockLost):
        follow(
            a_times,
            b_times,
            start,
            stop,
            ClockMap(clock.origin_ps, clock.offset_ps + jump, clock.drift),
            2000,
            6000,
            4e4,
        )


def test_a_jump_in_the_middle_loses_the_lock(source_kit):
    a_times, b_times, start, stop, clock = block(source_kit, 6)
    late = b_times > (start + stop) // 2
    with pytest.raises(LockLost):
        follow(a_times, b_times + late * 5_000_000, start, stop + 5_000_000, clock, 2000, 6000, 4e4)


def test_light_that_goes_out_loses_the_lock(source_kit):
    a_times, b_times, start, stop, clock = block(source_kit, 7, dark_only=((1.8, 3.0),))
    with pytest.raises(LockLost):
        follow(a_times, b_times, start, stop, clock, 2000, 6000, 4e4)


def test_an_empty_block_is_lost():
    empty = np.empty(0, np.int64)
    with pytest.raises(LockLost):
        follow(empty, empty, 0, 10**12, ClockMap(0, 0.0, 0.0), 2000, 6000, 0.0)
