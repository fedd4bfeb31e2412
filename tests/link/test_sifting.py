"""The sifting codec: round trips, figures against the entropy, and what of a lying node is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels
from qkdd.distill.errors import BlockMalformed, BlockRefused
from qkdd.link import sifting
from qkdd.link.delay_search import SYMBOL_ABSENT
from qkdd.link.errors import DetectionsRefused

gaps = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 5000)), max_size=200)


def slots_of(distances, apart, first):
    return first + np.cumsum([0, *(d + apart for d in distances)]).astype(np.int64)


@given(gaps, st.integers(1, 40), st.integers(0, 10**12))
def test_slots_come_back(distances, apart, first):
    slots = slots_of(distances, apart, first)
    coded = sifting.encode_slots(slots, first, apart)
    assert np.array_equal(sifting.decode_slots(coded, len(slots), first, int(slots[-1]) + 1, apart), slots)
    with pytest.raises(DetectionsRefused):
        sifting.decode_slots(coded, len(slots), first, int(slots[-1]), apart)


def test_slots_nearer_than_the_dead_time_or_repeated_cannot_even_be_written():
    for slots in ([5, 5], [5, 14], [7, 3]):
        with pytest.raises(kernels.KernelUnsorted):
            sifting.encode_slots(np.array(slots, np.int64), 0, 10)


def test_more_detections_than_possible_are_refused_before_anything_is_decoded():
    with pytest.raises(DetectionsRefused, match="at most one in 20"):
        sifting.decode_slots(b"", 51, 0, 1000, 20)
    with pytest.raises(DetectionsRefused):
        sifting.decode_slots(b"", -1, 0, 1000, 20)


@given(st.binary(max_size=300), st.integers(-5, 400), st.integers(1, 30), st.integers(0, 5000))
@settings(max_examples=400)
def test_any_bytes_are_possible_detections_or_refused(data, count, apart, length):
    try:
        slots = sifting.decode_slots(data, count, 100, 100 + length, apart)
    except BlockRefused:
        return
    assert len(slots) == count
    if count:
        assert slots[0] >= 100
        assert slots[-1] < 100 + length
        assert np.all(np.diff(slots) >= apart)


@given(st.binary(max_size=300), st.binary(max_size=300), st.lists(st.integers(0, 1), max_size=200), st.integers(2, 3))
@settings(max_examples=400)
def test_any_answer_is_rounds_of_this_block_or_refused(z, x, bases, levels):
    said = np.array(bases, np.uint8)
    try:
        rounds = sifting.chosen_rounds(z, x, said, levels)
    except BlockRefused:
        return
    assert np.array_equal(rounds.bases, said[rounds.chosen])
    assert rounds.intensities.max(initial=0) < levels


@given(st.binary(max_size=40), st.integers(0, 60))
def test_any_bytes_are_symbols_or_refused(data, count):
    try:
        symbols = sifting.unpack_symbols(data, count)
    except BlockMalformed:
        return
    assert len(symbols) == count
    here = symbols[symbols != SYMBOL_ABSENT]
    assert np.all(here < 16)
    assert np.all((here & 3) < 3)


symbol = st.builds(lambda b, v, k: b << 3 | v << 2 | k, st.integers(0, 1), st.integers(0, 1), st.integers(0, 2))


@given(st.lists(st.tuples(st.one_of(symbol, st.just(SYMBOL_ABSENT)), st.integers(0, 1)), max_size=300))
def test_both_nodes_read_the_same_rounds_out_of_the_answer(pairs):
    symbols = np.array([s for s, _ in pairs], np.uint8)
    bases = np.array([b for _, b in pairs], np.uint8)
    mine, z, x = sifting.compare(symbols, bases, 3)
    theirs = sifting.chosen_rounds(z, x, bases, 3)
    wanted = [i for i, (s, b) in enumerate(pairs) if s != SYMBOL_ABSENT and s >> 3 == b]
    for rounds in (mine, theirs):
        assert rounds.chosen.tolist() == wanted
        assert rounds.bases.tolist() == [pairs[i][1] for i in wanted]
        assert rounds.intensities.tolist() == [pairs[i][0] & 3 for i in wanted]
    assert np.array_equal(sifting.unpack_symbols(sifting.pack_symbols(symbols), len(symbols)), symbols)


def test_an_intensity_that_the_proof_does_not_have_is_refused():
    with pytest.raises(BlockMalformed):
        sifting.compare(np.array([2], np.uint8), np.zeros(1, np.uint8), 2)


@pytest.mark.parametrize(("gain", "apart"), [(0.035, 1), (0.035, 20), (0.4, 1), (1e-3, 10), (1e-5, 1)])
def test_slots_cost_hardly_more_than_their_entropy(gain, apart):
    """Geometric gaps beyond the dead time: the entropy of one is h(q)/q with q = 1/(mean extra gap + 1)."""
    count = 100_000
    extra = np.random.default_rng(2).geometric(gain, count - 1) - 1
    slots = slots_of(extra, apart, 0)
    bits = 8 * len(sifting.encode_slots(slots, 0, apart)) / count
    entropy = -(gain * math.log2(gain) + (1 - gain) * math.log2(1 - gain)) / gain
    assert entropy * 0.98 < bits < entropy + 0.09


def test_the_answer_costs_hardly_more_than_its_entropy():
    rng = np.random.default_rng(4)
    count = 200_000
    symbols = (
        (rng.random(count) < 0.1).astype(np.uint8) << 3 | rng.choice(3, count, p=[0.94, 0.05, 0.01]).astype(np.uint8)
    ).astype(np.uint8)
    bases = rng.integers(0, 2, count).astype(np.uint8)
    _, z, x = sifting.compare(symbols, bases, 3)

    def entropy(p):
        return -sum(v * math.log2(v) for v in p if v)

    levels = [0.94, 0.05, 0.01]
    bound = (entropy([0.1, *(0.9 * v for v in levels)]) + entropy([0.9, *(0.1 * v for v in levels)])) / 2
    assert 8 * (len(z) + len(x)) / count < bound * 1.01 + 0.005


def test_the_slip_test_tells_counted_wrongly_from_counted_rightly():
    p, mu = (0.8, 0.1, 0.1), (0.5, 0.1, 0.001)
    test = sifting.SlipTest.of(p, mu)
    rng = np.random.default_rng(5)
    weights = np.array(p) * mu
    right = rng.choice(3, 60_000, p=weights / weights.sum()).astype(np.uint8)
    wrong = rng.choice(3, 60_000, p=p).astype(np.uint8)
    assert test.slipped(right) is None
    assert test.slipped(wrong) == 0
    assert test.slipped(np.concatenate((right[:45_000], wrong[45_000:]))) == 12
    assert test.slipped(wrong[: test.least - 1]) is None  # too few to say anything
    for _ in range(200):  # a fifth of dark clicks is not taken for a slip
        mixed = np.where(rng.random(test.least) < 0.2, wrong[: test.least], rng.permutation(right)[: test.least])
        assert test.slipped(mixed.astype(np.uint8)) is None
