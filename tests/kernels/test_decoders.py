"""Tag decoders against record-by-record oracles."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qkdd import kernels

RANGE = 1 << 27


def tdc1_word(counter: int, pattern: int, dummy: bool = False) -> int:
    return (counter % RANGE) << 5 | dummy << 4 | pattern


@st.composite
def tdc1_streams(draw):
    """True counters (not wrapped) with steps up to the dummies' 140 ms and small steps back, and their patterns."""
    steps = draw(
        st.lists(st.one_of(st.integers(0, 50), st.integers(0, 70_000_000), st.integers(-65_536, 0)), max_size=60)
    )
    at = draw(st.integers(0, RANGE - 1))
    rows = []
    for step in steps:
        at = max(at + step, 0)
        rows.append((at, draw(st.integers(0, 15)), draw(st.booleans())))
    return rows


@given(tdc1_streams(), st.lists(st.integers(0, 60), max_size=4))
def test_tdc1_unwraps_any_cut_of_a_stream(rows, cuts):
    kept = [row for row in rows if row[1] or row[2]]
    # void words are dropped: the rule for wraps sees the steps between the words that stay
    assume(all(-65_536 <= b[0] - a[0] < RANGE - 65_536 for a, b in itertools.pairwise(kept)))
    words = np.array([tdc1_word(*row) for row in rows], np.uint32)
    state = kernels.Tdc1State()
    times, patterns, dummies = [], [], 0
    edges = [0, *sorted(min(c, len(words)) for c in cuts), len(words)]
    for start, stop in itertools.pairwise(edges):
        t, p, d = kernels.decode_tdc1(words[start:stop], state)
        times += t.tolist()
        patterns += p.tolist()
        dummies += d
    base = kept[0][0] // RANGE if kept else 0
    clicks = [row for row in kept if not row[2]]
    assert times == [(at - base * RANGE) * 2000 for at, _, _ in clicks]
    assert patterns == [pattern for _, pattern, _ in clicks]
    assert dummies == len(kept) - len(clicks)
    assert state.voids == len(rows) - len(kept)


def test_tdc1_reports_the_longest_step_and_keeps_time_over_wraps():
    state = kernels.Tdc1State()
    kernels.decode_tdc1(np.array([tdc1_word(RANGE - 10, 1), tdc1_word(20, 2)], np.uint32), state)
    assert (state.wraps, state.last, state.largest_step_ps) == (1, 20, 30 * 2000)
    times, _, _ = kernels.decode_tdc1(np.array([tdc1_word(70_000_020, 4)], np.uint32), state)
    assert times.tolist() == [(RANGE + 70_000_020) * 2000]
    assert state.largest_step_ps == 140_000_000_000


def test_tdc1_void_words_do_not_disturb_the_wrap_count():
    state = kernels.Tdc1State()
    words = np.array([tdc1_word(1000, 1), 0, tdc1_word(1001, 1), 0, 0], np.uint32)
    times, _, dummies = kernels.decode_tdc1(words, state)
    assert times.tolist() == [2_000_000, 2_002_000]
    assert (dummies, state.voids, state.wraps) == (0, 3, 0)


def test_tdc1_refuses_other_dtypes():
    with pytest.raises(kernels.KernelArgument):
        kernels.decode_tdc1(np.zeros(2, np.int32), kernels.Tdc1State())


@given(st.lists(st.integers(0, 2**64 - 1), max_size=80), st.booleans())
def test_a1_agrees_with_the_formula(words, swapped):
    ordered = [(w << 32 | w >> 32) & (2**64 - 1) for w in words] if swapped else words
    times, patterns, dummies = kernels.decode_a1(struct.pack(f"<{len(words)}Q", *ordered), swapped)
    kept = [w for w in words if w]
    assert times.tolist() == [((w >> 10) * 125 + 16) // 32 for w in kept]
    assert patterns.tolist() == [w & 15 for w in kept]
    assert dummies.tolist() == [bool(w & 16) for w in kept]


def test_a1_refuses_a_partial_record():
    with pytest.raises(kernels.KernelTruncated):
        kernels.decode_a1(bytes(15), False)


@given(st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(0, 255)), max_size=60))
def test_expand_patterns(rows):
    times = np.array([t for t, _ in rows], np.int64)
    patterns = np.array([p for _, p in rows], np.uint8)
    got = kernels.expand_patterns(times, patterns)
    expected = [(t, c) for t, p in rows for c in range(8) if p >> c & 1]
    assert list(zip(got[0].tolist(), got[1].tolist(), strict=True)) == expected


def test_expand_patterns_refuses_unequal_lengths():
    with pytest.raises(kernels.KernelArgument):
        kernels.expand_patterns(np.zeros(2, np.int64), np.zeros(3, np.uint8))
