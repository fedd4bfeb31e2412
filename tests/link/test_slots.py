"""The transmitter's clock from clicks alone, the absolute number of a slot, and tracking over hours."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels
from qkdd.link.delay_search import SYMBOL_ABSENT, find_first
from qkdd.link.pulse_clock import recover

MU, P = (0.5, 0.1, 0.001), (0.8, 0.1, 0.1)


@given(st.floats(-1e-5, 1e-5), st.floats(0, 1), st.sampled_from([20e3, 1e5, 1e6]), st.sampled_from([1e3, 1e5]))
@settings(max_examples=40, deadline=None)
def test_the_clock_is_found_from_the_clicks_alone(error, phase, clicks_per_s, slot_ps):
    rng = np.random.default_rng(round(phase * 1e6))
    period = slot_ps * (1 + error)
    slots = np.sort(rng.integers(0, round(0.5e12 / slot_ps), round(clicks_per_s / 2)))
    jitter = rng.normal(0, 0.08, len(slots))
    dark = rng.random(len(slots)) < 0.1
    times = np.sort(
        np.rint((slots + phase + np.where(dark, rng.uniform(-0.5, 0.5, len(slots)), jitter)) * period)
    ).astype(np.int64)
    clock = recover(times, slot_ps, 1e-5)
    assert clock is not None
    # over a hundredth of a second the slots are right
    near = slots[np.abs(times - clock.origin_ps) < 5e9][:2000]
    x = (near + phase) * period
    x = (x - clock.origin_ps) * clock.rate + clock.phase
    assert np.abs(x - np.rint(x)).max() < 0.1
    assert clock.contrast > 0.7


@pytest.mark.parametrize("count", [0, 100, 100_000])
def test_clicks_without_pulses_have_no_clock(count):
    times = np.sort(np.random.default_rng(1).integers(0, 10**12, count))
    assert recover(times, 1e5, 1e-5) is None


def test_pulses_whose_clock_is_off_by_more_than_allowed_are_not_taken():
    slots = np.sort(np.random.default_rng(1).integers(0, 10**6, 20_000))
    assert recover((slots * 1e5 * (1 + 4e-5)).astype(np.int64), 1e5, 1e-5) is None


def scene(seed, length, span, gain, *, error=0.02, turned=False, scrambled=False):
    """Detections of a receiver about an opened stretch: (slots, detectors, symbols, first)."""
    rng = np.random.default_rng(seed)
    level, basis, bit = rng.choice(3, length, p=P), (rng.random(length) < 0.1).astype(int), rng.integers(0, 2, length)
    symbols = (basis << 3 | bit << 2 | level).astype(np.uint8)
    symbols[: length // 50] = SYMBOL_ABSENT
    first = int(rng.integers(span, 2 * span))
    power = np.array(MU)[level] * gain / np.dot(P, MU)
    power[: length // 50] = 0
    hit = np.flatnonzero(rng.random(length) < 1 - np.exp(-power))
    other = np.unique(rng.integers(0, 3 * span + length, rng.poisson(3 * span * gain)))
    other = other[(other < first) | (other >= first + length)]
    mine = rng.integers(0, 2, len(hit))
    flipped = (rng.random(len(hit)) < error) ^ turned
    value = np.where(mine == basis[hit], bit[hit] ^ flipped, rng.integers(0, 2, len(hit)))
    if scrambled:
        value = rng.integers(0, 2, len(hit))
    slots = np.concatenate((other, hit + first))
    detectors = np.concatenate((rng.integers(0, 4, len(other)), 2 * mine + value)).astype(np.uint8)
    order = np.argsort(slots)
    return slots[order], detectors[order], symbols, first


@pytest.mark.parametrize(
    ("gain", "how"),
    [(0.04, {}), (3e-3, {}), (0.04, {"turned": True}), (0.04, {"scrambled": True}), (0.04, {"error": 0.25})],
)
def test_the_opened_stretch_is_found_within_a_second(gain, how):
    """10 MHz and an offset that is a second off: 2e7 places."""
    span = 10_000_000
    slots, detectors, symbols, first = scene(3, 1 << 18, span, gain, **how)
    centre = first + 9_876_543 if first < 1.5 * span else first - 9_876_543
    assert find_first(slots, detectors, symbols, MU, centre, span) == first


@pytest.mark.parametrize("off", [-64, -1, 0, 17, 64])
def test_a_known_number_is_confirmed_or_corrected_near_by(off):
    slots, detectors, symbols, first = scene(4, 1 << 17, 10_000, 0.03)
    assert find_first(slots, detectors, symbols, MU, first + off, 64) == first


@pytest.mark.parametrize("reach", [64, 200_000])
def test_another_stretch_is_found_nowhere(reach):
    slots, detectors, _, first = scene(4, 1 << 17, 400_000, 0.03)
    _, _, symbols, _ = scene(5, 1 << 17, 400_000, 0.03)
    assert find_first(slots, detectors, symbols, MU, first, reach) is None
    assert find_first(slots[:10], detectors[:10], symbols, MU, first, reach) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate_hz", "jitter_s", "clicks_per_s", "hours"), [(10e6, 2e-9, 4_000, 3.0), (1e9, 60e-12, 20_000, 1.0)]
)
def test_hours_at_5_ppm_are_followed_within_a_tenth_of_a_slot(rate_hz, jitter_s, clicks_per_s, hours):
    """The transmitter is off by 5 ppm, swinging about it by 1 ppm in 40 minutes."""
    rng = np.random.default_rng(8)
    swing, depth, step = 2400.0, 1e-6, 4
    rate = rate_hz * 1e-12
    bounds = rate * (1 - 2e-5), rate * (1 + 2e-5)
    chosen = kernels.SlotSettings(0.25, 10_000, 512, round(min(1e12, 1e8 / rate)), 0.4, 0.08, 0.1, *bounds)
    assign = kernels.SlotAssigner(chosen, 0, 0, 0.0, rate / (1 + 5e-6))
    worst, wrong, total = 0.0, 0, 0
    for second in range(0, round(hours * 3600), step):
        gaps = rng.geometric(clicks_per_s / rate_hz, round(clicks_per_s * step * 1.01))
        slot = np.cumsum(gaps)
        slot = slot[slot < step * rate_hz - 10]
        since = slot / rate_hz  # whole seconds apart, so that a double holds the picoseconds
        phase = 2 * math.pi * (second + since) / swing
        late = (second + since) * 5e-6 + depth * swing / (2 * math.pi) * (1 - np.cos(phase))
        times = second * 10**12 + np.rint((since + late + rng.normal(0, jitter_s, len(slot))) * 1e12).astype(np.int64)
        times.sort()
        slots, _, pieces = assign(times, np.zeros(len(times), np.uint8), int(times[-1]))
        found = slots[1:] - round(second * rate_hz)  # the first was held back by the last call
        wrong += int(np.count_nonzero(slot[np.searchsorted(slot, found).clip(max=len(slot) - 1)] != found))
        total += len(found)
        worst = max(worst, float(np.abs(pieces["error"]).max(initial=0.0)))
        assert pieces["followed"].all()
    assert worst < 0.1
    assert total > hours * 3600 * clicks_per_s * 0.95
    assert wrong < 1e-4 * total
