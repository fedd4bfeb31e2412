"""T2 records against a decoder that follows the description record by record."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels

LAYOUTS = ("hydraharp1", "hydraharp2", "picoharp")


def oracle(words, layout, unit, overflow=0):
    times, channels, markers = [], [], 0
    for word in map(int, words):
        if layout == "picoharp":
            channel, time = word >> 28, word & 0x0FFFFFFF
            if channel == 15:
                if time & 15:
                    markers += 1
                else:
                    overflow += 210698240
                continue
            times.append((overflow + time) * unit)
            channels.append(channel)
            continue
        special, channel, time = word >> 31, word >> 25 & 63, word & 0x1FFFFFF
        if special and channel == 63:
            overflow += 33552000 if layout == "hydraharp1" else 33554432 * max(time, 1)
        elif special and 1 <= channel <= 15:
            markers += 1
        else:
            times.append((overflow + time) * unit)
            channels.append(0 if special else channel + 1)
    return times, channels, markers, overflow


def valid_words(rng, layout, count):
    if layout == "picoharp":
        channels = rng.choice([0, 1, 2, 3, 4, 15], count)
        return (channels.astype(np.uint32) << 28) | rng.integers(0, 1 << 28, count).astype(np.uint32)
    special = rng.integers(0, 2, count)
    codes = np.where(special, rng.choice([0, 1, 15, 63], count), rng.integers(0, 64, count))
    times = np.where(special & (codes == 63), rng.integers(0, 5, count), rng.integers(0, 1 << 25, count))
    return (special << 31 | codes << 25 | times).astype(np.uint32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.sampled_from(LAYOUTS), st.integers(1, 250), st.integers(0, 300), st.integers(0, 2**32))
def test_matches_the_description(count, layout, unit, cut, seed):
    words = valid_words(np.random.default_rng(seed), layout, count)
    state = kernels.T2State(layout, unit)
    parts = [kernels.decode_t2(part, state) for part in (words[:cut], words[cut:])]
    times, channels, markers, overflow = oracle(words, layout, unit)
    assert np.concatenate([part[0] for part in parts]).tolist() == times
    assert np.concatenate([part[1] for part in parts]).tolist() == channels
    assert (state.markers, state.overflow) == (markers, overflow)


@pytest.mark.parametrize(
    ("layout", "word"),
    [("hydraharp1", 0x80000000 | 16 << 25), ("hydraharp2", 0x80000000 | 62 << 25), ("picoharp", 5 << 28)],
)
def test_a_record_that_no_instrument_makes_is_refused(layout, word):
    state = kernels.T2State(layout, 5, overflow=17)
    with pytest.raises(kernels.KernelMalformed):
        kernels.decode_t2(np.array([1, word, 2], np.uint32), state)
    assert (state.overflow, state.markers) == (17, 0)


def test_garbage_cannot_pass_the_end_of_time():
    state = kernels.T2State("hydraharp2", 1_000_000)
    with pytest.raises(kernels.KernelOutOfRange):
        kernels.decode_t2(np.full(5000, 0xFFFFFFFF, np.uint32), state)
    assert state.overflow == 0


def test_refuses_what_it_does_not_know():
    words = np.zeros(1, np.uint32)
    for state in (
        kernels.T2State("t3", 1),
        kernels.T2State("picoharp", 0),
        kernels.T2State("picoharp", 1, overflow=-1),
    ):
        with pytest.raises(kernels.KernelArgument):
            kernels.decode_t2(words, state)
    assert kernels.T2State("hydraharp2", 5).period_ps == 167_772_160
