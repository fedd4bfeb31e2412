"""Slot assignment against a plain oracle, and the coder of small symbols."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd import kernels

RATE = 1e-5  # slots a ps: 10 MHz


def make(**changes):
    values = {
        "half_gate": 0.25, "dead_ps": 30_000, "piece_clicks": 64, "piece_ps": 10**9, "gain_phase": 0.3, "gain_rate": 0.05,
        "contrast": 0.2, "rate_low": RATE * (1 - 1e-4), "rate_high": RATE * (1 + 1e-4),
    }  # fmt: skip
    return kernels.SlotSettings(**(values | changes))


class Oracle:
    """The same rules, one click after the other."""

    def __init__(self, settings, origin, slot, phase, rate):
        self.a = settings
        self.origin, self.slot, self.phase, self.rate = origin, slot, phase, rate
        self.start, self.n, self.sum = origin, 0, 0j
        self.last, self.open, self.pattern = -(1 << 61), -(1 << 61), 0
        self.pieces = []

    def conclude(self, moment):
        error = math.atan2(self.sum.imag, self.sum.real) / (2 * math.pi) if self.n else 0.0
        contrast = abs(self.sum) / self.n if self.n else 0.0
        x = (moment - self.origin) * self.rate + self.phase
        self.slot += math.floor(x)
        self.phase = x - math.floor(x)
        self.origin = moment
        followed = self.n >= 16 and contrast >= self.a.contrast and contrast >= 5 / math.sqrt(self.n)
        if followed:
            self.phase -= self.a.gain_phase * error
            if moment > self.start:
                self.rate -= self.a.gain_rate * error / (moment - self.start)
            self.rate = min(max(self.rate, self.a.rate_low), self.a.rate_high)
        self.pieces.append((moment, self.n, error, contrast, followed))
        self.start, self.n, self.sum = moment, 0, 0j

    def __call__(self, times, detectors, until):
        out = []
        for t, d in zip(times.tolist(), detectors.tolist(), strict=True):
            while t - self.start >= self.a.piece_ps:
                self.conclude(self.start + self.a.piece_ps)
            x = (t - self.origin) * self.rate + self.phase
            rel = math.floor(x + 0.5)
            behind = x - rel
            fine = min(255, int((behind + 0.5) * 256))
            angle = 2 * math.pi * (fine - 127.5) / 256
            self.sum += complex(math.cos(angle), math.sin(angle))
            self.n += 1
            live, self.last = t - self.last >= self.a.dead_ps, t
            if abs(behind) <= self.a.half_gate:
                slot = self.slot + rel
                if self.pattern and slot == self.open:
                    self.pattern |= 1 << d
                elif live and slot > self.open:
                    if self.pattern:
                        out.append((self.open, self.pattern))
                    self.open, self.pattern = slot, 1 << d
            if self.n >= self.a.piece_clicks:
                if t > self.start:
                    self.conclude(t)
                else:
                    self.n, self.sum = 0, 0j
        while until - self.start >= self.a.piece_ps:
            self.conclude(self.start + self.a.piece_ps)
        x = (until - self.origin) * self.rate + self.phase
        if self.pattern and math.floor(x - 0.5) > self.open - self.slot:
            out.append((self.open, self.pattern))
            self.pattern = 0
        return out


def clicks(rng, count, *, rate=RATE, phase=0.3, jitter=0.05, dark=0.2, gap=4.0):
    """Sorted clicks of about one slot in `gap`, and detectors."""
    slots = np.cumsum(rng.geometric(1 / gap, count))
    centres = (slots + phase + rng.normal(0, jitter, count)) / rate
    noise = rng.random(count) < dark
    centres[noise] += rng.uniform(-0.5, 0.5, int(noise.sum())) / rate
    return np.sort(np.rint(centres).astype(np.int64)), rng.integers(0, 4, count).astype(np.uint8)


@given(
    st.integers(0, 1500),
    st.integers(0, 2**32),
    st.sampled_from([0, 30_000, 250_000]),
    st.sampled_from([0.05, 0.25, 0.5]),
    st.lists(st.floats(0, 1), max_size=4),
    st.sampled_from([10**9, 10**7]),
)
@settings(max_examples=120)
def test_every_variant_gives_what_the_rules_say(count, seed, dead, half, cuts, piece_ps):
    rng = np.random.default_rng(seed)
    times, detectors = clicks(rng, count)
    chosen = make(dead_ps=dead, half_gate=half, piece_ps=piece_ps)
    end = int(times[-1]) + 300_000 if count else 10**6
    edges = [0, *sorted(int(c * end) for c in cuts), end]
    oracle = Oracle(chosen, 0, 7, 0.35, RATE * (1 + 2e-6))
    expected = [
        oracle(times[(times > low) & (times <= high)], detectors[(times > low) & (times <= high)], high)
        for low, high in itertools.pairwise(edges)
    ]
    before = kernels.variant()
    try:
        for name in kernels.available_variants():
            kernels.select_variant(name)
            assign = kernels.SlotAssigner(chosen, 0, 7, 0.35, RATE * (1 + 2e-6))
            pieces = []
            for wanted, (low, high) in zip(expected, itertools.pairwise(edges), strict=True):
                part = (times > low) & (times <= high)
                slots, patterns, measured = assign(times[part], detectors[part], high)
                assert list(zip(slots.tolist(), patterns.tolist(), strict=True)) == wanted
                pieces += measured.tolist()
            assert [(p[0], p[1], bool(p[5])) for p in pieces] == [(p[0], p[1], p[4]) for p in oracle.pieces]
            assert np.allclose([p[2:4] for p in pieces], [p[2:4] for p in oracle.pieces])
            kept, outside, blanked, joined = assign.counts
            assert kept == len(times[times > 0])
            events = sum(map(len, expected)) + (assign.held_back is not None)
            assert kept == events + outside + blanked + joined
    finally:
        kernels.select_variant(before)


def test_the_model_follows_a_clock_that_is_off_by_5_ppm_and_wanders():
    """Ten minutes of a 10 MHz transmitter; its clock swings by 5 ppm. The slots stay right, the phase within 10 %."""
    rng = np.random.default_rng(5)
    assign = kernels.SlotAssigner(make(piece_clicks=512, piece_ps=5 * 10**10), 0, 0, 0.0, RATE)
    worst, swing = 0.0, 600.0
    previous = np.empty(0, np.int64)
    for second in range(600):
        per = 4000
        true = second + np.sort(rng.random(per))  # seconds
        slot = np.unique(np.rint(true * 1e7).astype(np.int64))
        emitted = slot / 1e7
        wander = -5e-6 * swing / (2 * math.pi) * (np.cos(2 * math.pi * emitted / swing) - 1)  # integral of 5 ppm sin
        seen = (emitted + wander) * 1e12 + rng.normal(0, 1000, len(slot))
        times = np.rint(seen).astype(np.int64)
        got, _, pieces = assign(times, np.zeros(len(times), np.uint8), max(int(times[-1]), 0))
        assert np.isin(got, np.append(slot, previous)).all()
        assert len(got) > 0.98 * len(slot)
        previous = slot[-1:]
        worst = max(worst, float(np.abs(pieces["error"]).max(initial=0.0)))
        assert pieces["followed"].all()
    assert worst < 0.1


@pytest.mark.parametrize(
    "broken",
    [
        {"half_gate": 0.6}, {"half_gate": float("nan")}, {"dead_ps": -1}, {"piece_clicks": 3}, {"piece_ps": 0},
        {"gain_phase": 2.0}, {"rate_low": RATE * 2}, {"contrast": float("nan")},
    ],
)  # fmt: skip
def test_settings_outside_the_domain_are_refused(broken):
    with pytest.raises(kernels.KernelArgument):
        kernels.SlotAssigner(make(**broken), 0, 0, 0.0, RATE)(np.zeros(0, np.int64), np.zeros(0, np.uint8), 10)


def test_clicks_out_of_order_or_of_no_detector_are_refused():
    assign = kernels.SlotAssigner(make(), 0, 0, 0.0, RATE)
    for times, detectors, until, kind in (
        ([5, 4], [0, 0], 10, kernels.KernelUnsorted),
        ([-1], [0], 10, kernels.KernelUnsorted),
        ([11], [0], 10, kernels.KernelUnsorted),
        ([5], [4], 10, kernels.KernelOutOfRange),
    ):
        with pytest.raises(kernels.KernelError) as caught:
            assign(np.array(times, np.int64), np.array(detectors, np.uint8), until)
        assert type(caught.value) is kind


def test_slots_are_counted_anew_by_a_shift():
    assign = kernels.SlotAssigner(make(), 0, 0, 0.0, RATE)
    times = np.arange(1, 200, dtype=np.int64) * 300_000
    slots, _, _ = assign(times[:100], np.zeros(100, np.uint8), int(times[99]))
    assert slots.tolist() == [3 * k for k in range(1, 100)]
    assert assign.held_back == 300
    assign.shift(1000)
    slots, _, _ = assign(times[100:], np.ones(99, np.uint8), int(times[-1]) + 200_000)
    assert slots.tolist() == [1000 + 3 * k for k in range(100, 200)]
    assert assign.held_back is None
    assert abs(assign.time_of(1000 + 600) - 600 * 100_000) < 100
    assert assign.slot_at(600 * 100_000 + 40_000) == 1600


@given(st.lists(st.integers(0, 15), max_size=2000), st.integers(0, 14))
def test_symbols_come_back(values, spare):
    alphabet = min(16, max([2, *(v + 1 for v in values)]) + spare)
    symbols = np.array(values, np.uint8)
    data = kernels.symbol_encode(symbols, alphabet)
    assert np.array_equal(kernels.symbol_decode(data, alphabet, len(symbols)), symbols)


@pytest.mark.parametrize("p", [[0.95, 0.04, 0.01], [0.9, 0.1], [0.25] * 4, [1.0, 0.0], [0.999, 0.001]])
def test_symbols_cost_their_entropy(p):
    symbols = np.random.default_rng(3).choice(len(p), 200_000, p=p).astype(np.uint8)
    share = np.bincount(symbols) / len(symbols)
    entropy = float(-(share[share > 0] * np.log2(share[share > 0])).sum())
    assert 8 * len(kernels.symbol_encode(symbols, len(p))) / len(symbols) < entropy * 1.005 + 0.002


@given(st.binary(max_size=200), st.integers(2, 16), st.integers(0, 400))
def test_any_bytes_are_symbols_or_refused(data, alphabet, count):
    try:
        symbols = kernels.symbol_decode(data, alphabet, count)
    except kernels.KernelError:
        return
    assert symbols.max(initial=0) < alphabet


@given(st.integers(1, 300), st.integers(0, 2**32), st.data())
def test_a_damaged_list_is_never_taken_for_a_longer_or_shorter_one(count, seed, data):
    symbols = np.random.default_rng(seed).choice(3, count, p=[0.8, 0.15, 0.05]).astype(np.uint8)
    coded = kernels.symbol_encode(symbols, 3)
    cut = data.draw(st.integers(0, len(coded) - 1))
    with pytest.raises(kernels.KernelError):
        kernels.symbol_decode(coded[:cut], 3, count)
    with pytest.raises(kernels.KernelError):
        kernels.symbol_decode(coded + b"\0\0\0\0", 3, count)


@pytest.mark.parametrize("alphabet", [0, 1, 17, 255])
def test_alphabets_outside_the_domain_are_refused(alphabet):
    with pytest.raises(kernels.KernelError):
        kernels.symbol_encode(np.zeros(3, np.uint8), alphabet)
    with pytest.raises(kernels.KernelArgument):
        kernels.symbol_decode(bytes(30), alphabet, 3)


def test_a_symbol_outside_the_alphabet_is_refused():
    with pytest.raises(kernels.KernelOutOfRange):
        kernels.symbol_encode(np.array([3], np.uint8), 3)
