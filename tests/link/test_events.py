"""Clicks to events: delays, blanking, and the rule for events of several detectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd.link.events import MULTI, Clicks, detect, reach, squash

DEAD, GROUP = 100_000, 6_000
NO_DELAYS = (0.0, 0.0, 0.0, 0.0)


def events_of(clicks, delays=NO_DELAYS, start=0, stop=10**12):
    clicks = sorted(clicks)
    times = np.array([t for t, _ in clicks], np.int64)
    detectors = np.array([d for _, d in clicks], np.uint8)
    return detect(Clicks(times, detectors), delays, start, stop, dead_ps=DEAD, group_ps=GROUP)


def test_one_click_is_one_event_of_its_detector():
    events = events_of([(10**6, 0), (2 * 10**6, 1), (3 * 10**6, 2), (4 * 10**6, 3)])
    assert events.bases.tolist() == [0, 0, 1, 1]
    assert events.bits.tolist() == [0, 1, 0, 1]
    assert events.detectors.tolist() == [0, 1, 2, 3]
    assert events.blanked == 0


def test_clicks_within_the_dead_time_of_any_detector_are_blanked_and_start_it_anew():
    # the third click is 150 ns after the first but 70 ns after the second, which left its detector dead
    events = events_of([(10**6, 0), (10**6 + 80_000, 1), (10**6 + 150_000, 2), (10**6 + 260_000, 3)])
    assert events.times.tolist() == [10**6, 10**6 + 260_000]
    assert (events.clicks, events.blanked) == (4, 2)


def test_clicks_of_one_coincidence_time_are_one_event_at_the_first_time():
    events = events_of([(10**6, 0), (10**6 + GROUP - 1, 2), (2 * 10**6, 1), (2 * 10**6 + GROUP, 3)])
    assert events.times.tolist() == [10**6, 2 * 10**6]
    assert events.detectors.tolist() == [MULTI, 1]
    assert (events.multi_clicks, events.blanked) == (1, 1)


def test_delays_are_taken_off_before_grouping():
    events = events_of([(10**6, 0), (10**6 + 20_000, 3)], delays=(0.0, 0.0, 0.0, 20_000.0))
    assert events.detectors.tolist() == [MULTI]


def test_a_click_before_the_stretch_blanks_its_beginning():
    clicks = [(10**6 - 50_000, 0), (10**6 + 10_000, 1), (10**6 + 200_000, 2)]
    events = events_of(clicks, start=10**6)
    assert events.times.tolist() == [10**6 + 200_000]
    assert (events.clicks, events.blanked) == (2, 1)


def test_reach_covers_dead_time_group_and_delays():
    assert reach((0.0, -3000.0, 0.0, 500.5), dead_ps=DEAD, group_ps=GROUP) == DEAD + GROUP + 3001


def test_no_clicks_are_no_events():
    assert len(events_of([])) == 0


click_lists = st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 3)), max_size=60)


@given(click_lists)
def test_blanking_and_grouping_agree_with_a_plain_loop(clicks):
    clicks = sorted(clicks)
    expected, last, patterns = [], -(10**12), []
    for time, detector in clicks:
        if time - last >= DEAD:
            expected.append(time)
            patterns.append({detector})
        elif time - expected[-1] < GROUP:
            patterns[-1].add(detector)
        last = time
    events = events_of(clicks)
    assert events.times.tolist() == expected
    for detector, pattern in zip(events.detectors.tolist(), patterns, strict=True):
        assert detector == (MULTI if len(pattern) > 1 else next(iter(pattern)))


@given(click_lists, st.integers(0, 3_000_000))
def test_cutting_a_stream_in_two_changes_nothing(clicks, cut):
    whole = events_of(clicks)
    parts = [events_of(clicks, stop=cut), events_of(clicks, start=cut)]
    assert np.array_equal(np.concatenate([part.times for part in parts]), whole.times)
    assert sum(part.clicks for part in parts) == whole.clicks


@pytest.mark.parametrize(
    ("pattern", "x_share"),
    [(0b0011, 0.0), (0b1100, 1.0), (0b0101, 0.5), (0b1001, 0.5), (0b0111, 0.5), (0b1110, 0.5), (0b1111, 0.5)],
)
def test_several_detectors_give_a_fair_bit_and_a_fair_basis_among_those_that_clicked(pattern, x_share):
    n = 40_000
    bases, bits = squash(np.full(n, pattern, np.uint8))
    five_sigma = 5 * 0.5 / np.sqrt(n)
    assert abs(bits.mean() - 0.5) < five_sigma
    assert abs(bases.mean() - x_share) <= (five_sigma if x_share == 0.5 else 0.0)
    # bit and basis are drawn independently
    if x_share == 0.5:
        assert abs(np.mean(bits == bases) - 0.5) < five_sigma


def test_bits_are_wiped():
    events = events_of([(10**6, 1), (2 * 10**6, 3)])
    events.wipe()
    assert not events.bits.any()
    assert not events.detectors.any()
