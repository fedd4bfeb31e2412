"""The prepare-and-measure bench: its means against the decoy papers' models, its adversaries, its timing."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qkdd_fwbridge.symbols import choose, split
from qkdd_hil.physics import pulse_light as light
from qkdd_hil.physics.detector import Gates
from qkdd_hil.physics.parameters import (
    ClockParameters,
    DetectorParameters,
    FibreParameters,
    PulsedParameters,
    SideParameters,
    TransmitterParameters,
)
from qkdd_hil.physics.pulsed import LEAD, PulsedLine

from qkdd.core.units import Fraction, Hertz, Radians, Seconds
from qkdd.security.channel import dead_time_factor, lim2014_pulse
from qkdd.testing.patience import Stopwatch

HZ = 10e6
PERIOD = 100_000  # ps
MEANS = (0.6, 0.26, 0.02)
P = (0.35, 0.47, 0.18)
P_X = 0.2
Counts = NDArray[np.int64]


def quiet(basis_z: float = 0.8, gate: float = 0.0, **detector: Any) -> PulsedParameters:
    """Equal detectors, perfect clocks, nothing drifts: a click's slot can be computed."""
    plain = {
        "efficiency": Fraction(0.8),
        "dark_counts": Hertz(0.0),
        "background": Hertz(0.0),
        "dead_time": Seconds(0.0),
        "afterpulse": Fraction(0.0),
        **detector,
    }
    bob = SideParameters(
        fibre=FibreParameters(transmission=Fraction(0.125), delay=Seconds(5e-6), drift=Radians(0.0)),
        detectors=(DetectorParameters(**plain),) * 4,
        clock=ClockParameters(wander_ppm=0.0),
        basis_z=Fraction(basis_z),
        resolution=Seconds(1e-12),
        gate=Seconds(gate),
    )
    return PulsedParameters(transmitter=TransmitterParameters(clock=ClockParameters(wander_ppm=0.0)), bob=bob)


def symbols(count: int, seed: int = 1) -> NDArray[np.uint8]:
    words = np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)
    first, second = round(P[0] * 65536), round((P[0] + P[1]) * 65536)
    return choose(words, round(P_X * 32768), first, second)


def send(line: PulsedLine, prepared: NDArray[np.uint8]) -> tuple[Counts, NDArray[np.uint8]]:
    """All clicks of one stream: (slot of each, detector); a click's slot is the nearest one."""
    line.began(0.0, HZ)
    for first in range(0, len(prepared), 32768):
        line.pulses(first, prepared[first : first + 32768])
    line.ended()
    stop = LEAD + len(prepared) * PERIOD + 10**9
    times, channels = line.clicks(0, stop)
    slots = np.rint((times - LEAD - 5_000_000) / PERIOD).astype(np.int64)
    inside = (slots >= 0) & (slots < len(prepared))
    return slots[inside], channels[inside]


def detections(line: PulsedLine, prepared: NDArray[np.uint8]) -> tuple[Counts, Counts, Counts, Counts]:
    """(pulses, detected, wrong, detected in the other basis): int64[3, 2] by intensity and prepared basis; a slot's clicks in
    one basis are a detection, two of them a random bit, clicks in both bases a random basis and bit."""
    slots, channels = send(line, prepared)
    basis, bit, level = split(prepared)
    pattern = np.zeros(len(prepared), np.uint8)
    np.bitwise_or.at(pattern, slots, np.uint8(1) << channels)
    pulses, found, wrong, cross = (np.zeros((3, 2), np.int64) for _ in range(4))
    rng = np.random.default_rng(5)
    for b in range(2):
        here = basis == b
        own, other = pattern >> (2 * b) & 3, pattern >> (2 - 2 * b) & 3
        kept = (own > 0) & ((other == 0) | (rng.random(len(own)) < 0.5))
        one = np.where((own == 3) | (other > 0), rng.integers(0, 2, len(own)), own >> 1)
        for k in range(3):
            chosen = here & (level == k)
            pulses[k, b] = chosen.sum()
            found[k, b] = (chosen & kept).sum()
            wrong[k, b] = (chosen & kept & (one != bit)).sum()
            cross[k, b] = (chosen & (other > 0)).sum()
    return pulses, found, wrong, cross


def agree(counts: Counts, pulses: Counts, chance: NDArray[np.float64], extra: float = 0.0) -> None:
    """Within 4 standard deviations of the binomial mean, and `extra` relative for a model's neglected order."""
    mean = pulses * chance
    assert np.all(np.abs(counts - mean) < 4 * np.sqrt(mean + 1) + extra * mean), (counts, mean)


@pytest.mark.parametrize("basis_z", [0.8, 0.5])
def test_gains_and_errors_per_intensity_are_those_of_lim(basis_z: float) -> None:
    """S8.2 in each basis, the beam splitter's share in the transmission. Dark counts come anywhere in the slot."""
    line = PulsedLine(quiet(basis_z, dark_counts=Hertz(2000.0)), seed=3)
    line.setting.intensities = MEANS
    pulses, found, wrong, _ = detections(line, symbols(6_000_000))
    p_dc = 2000.0 / HZ
    gain, error = np.zeros((3, 2)), np.zeros((3, 2))
    for b, share in enumerate((basis_z, 1 - basis_z)):
        for k, mean in enumerate(MEANS):
            gain[k, b], error[k, b] = lim2014_pulse(mean, 0.1 * share, p_dc, 0.01, 0.0)
    # a click in the other basis of the same slot takes half of the detections, and the bit of the others
    other = np.array([[1 - np.exp(-m * 0.1 * (1 - s)) for s in (basis_z, 1 - basis_z)] for m in MEANS])
    agree(found, pulses, gain * (1 - other / 2), 3e-4)
    agree(wrong, pulses, error * (1 - other) + gain * other / 4, 0.02)


def test_dead_time_lowers_the_rate_as_rusca_says() -> None:
    """S8.3: c = 1/(1 + R P_det t) for each detector."""
    line = PulsedLine(quiet(0.5, dead_time=Seconds(2e-6)), seed=4)
    line.setting.intensities = (0.6, 0.6, 0.6)
    prepared = symbols(4_000_000)
    _, channels = send(line, prepared)
    basis_weight = np.array([1 - P_X, P_X])
    chance = np.einsum("bvkd,b->d", line.expected(100e-9, HZ).click, basis_weight / 6)
    for detector, count in enumerate(np.bincount(channels, minlength=4)):
        live = dead_time_factor(HZ * float(chance[detector]), 2e-6)
        mean = len(prepared) * float(chance[detector]) * live
        assert abs(count - mean) < 4 * np.sqrt(mean) + 2e-3 * mean, (detector, count, mean)


@pytest.mark.parametrize("gate", [0.0, 4e-9])
def test_the_closed_form_holds_for_gated_and_free_detectors_with_afterpulses(gate: float) -> None:
    """A gated receiver shows no dark counts between gates, and its afterpulses come in the next gate."""
    line = PulsedLine(quiet(0.7, gate, dark_counts=Hertz(20_000.0), afterpulse=Fraction(0.02)), seed=6)
    line.setting.intensities = MEANS
    prepared = symbols(5_000_000)
    pulses, found, wrong, cross = detections(line, prepared)
    means = line.expected(4e-9 if gate else 100e-9, HZ)
    # the closed form spreads afterpulses by equally likely symbols; here the bright ones are rarer
    agree(found, pulses, means.gain, 0.01)
    agree(wrong, pulses, means.error, 0.05)
    assert cross.sum() > 1000


def test_afterpulses_raise_the_total_as_lim_says() -> None:
    """R = D (1 + p_ap) for the mean over the intensities: an afterpulse falls into a later slot."""
    line = PulsedLine(quiet(0.5, 4e-9, afterpulse=Fraction(0.04)), seed=8)
    prepared = symbols(3_000_000)
    with_them = len(send(line, prepared)[0])
    without = len(send(PulsedLine(quiet(0.5, 4e-9), seed=8), prepared)[0])
    assert abs(with_them / without - 1.04) < 4 * np.sqrt(2 / without) + 0.04 * 0.05


def test_the_bench_shows_exactly_what_the_board_prepared() -> None:
    """With perfect optics, and no other basis that could click as well, every click has the prepared bit."""
    parameters = msgspec.structs.replace(
        quiet(1.0),
        transmitter=TransmitterParameters(
            visibility_z=Fraction(1.0), visibility_x=Fraction(1.0), clock=ClockParameters(wander_ppm=0.0)
        ),
    )
    _, found, wrong, _ = detections(PulsedLine(parameters, seed=2), symbols(1_000_000))
    assert found.sum() > 10_000
    assert wrong.sum() == 0


def test_skipped_pulses_are_dark() -> None:
    prepared = symbols(1_000_000)
    prepared[200_000:700_000] = light.ABSENT
    slots, _ = send(PulsedLine(quiet(), seed=2), prepared)
    assert len(slots) > 10_000
    assert not ((slots >= 200_000) & (slots < 700_000)).any()


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_intercept_resend_costs_a_quarter_of_the_intercepted(fraction: float) -> None:
    line = PulsedLine(quiet(0.5), seed=9)
    line.setting.intensities, line.setting.eve = MEANS, fraction
    pulses, found, wrong, _ = detections(line, symbols(4_000_000))
    means = line.expected(100e-9, HZ)
    agree(found, pulses, means.gain, 1e-3)
    agree(wrong, pulses, means.error, 1e-3)
    assert wrong.sum() / found.sum() == pytest.approx(0.013 + fraction * 0.242, abs=0.01)


def test_photon_number_splitting_keeps_the_total_gain_and_starves_the_decoys() -> None:
    prepared = symbols(4_000_000)
    plain, split_line = PulsedLine(quiet(0.8), seed=10), PulsedLine(quiet(0.8), seed=10)
    for line in (plain, split_line):
        line.setting.intensities = MEANS
    split_line.setting.pns = True
    _, usual, _, _ = detections(plain, prepared)
    _, attacked, wrong, _ = detections(split_line, prepared)
    assert attacked.sum() / usual.sum() == pytest.approx(1.0, abs=0.03), "the total gain looks normal"
    assert wrong.sum() / attacked.sum() < 0.03, "she disturbs nothing"
    ratio = attacked[:, 0] / usual[:, 0]
    assert ratio[0] > 1.2, "but the intensities tell"
    assert ratio[1] < 0.9
    assert ratio[2] < 0.2


def test_no_single_photon_gets_past_the_splitter() -> None:
    """A pulse of mean 0.01 has two photons once in 20 000 times."""
    line = PulsedLine(quiet(0.5), seed=11)
    line.setting.intensities, line.setting.pns = (0.01, 0.01, 0.01), True
    prepared = symbols(4_000_000)
    slots, _ = send(line, prepared)
    mean = len(prepared) * light.split_gain(0.01, 0.8)
    assert abs(len(slots) - mean) < 4 * np.sqrt(mean)


@given(st.integers(-100, 100), st.integers(0, 10**7), st.integers(4, 400))
@settings(max_examples=60, deadline=None)
def test_gates_pass_only_what_lies_inside(first: int, begin: int, width: int) -> None:
    gates = Gates(first, 1000.7, width)
    rng = np.random.default_rng(1)
    times = gates.inside(200, begin, begin + 100_000, rng)
    assert len(gates.pass_on(times)) >= 0.6 * len(times)  # those on the rim may round out
    wider = Gates(first, 1000.7, width + 2)
    assert len(wider.pass_on(times)) == len(times)
    after = gates.next_middle(times)
    assert (after >= times - width // 2 - 1).all()
    assert len(gates.pass_on(after)) == len(after)
    assert gates.live_time(begin, begin + 100_000) == pytest.approx(100_000 / 1000.7 * width, abs=width)


def test_a_tagger_waits_for_pulses_that_have_not_left_yet() -> None:
    line = PulsedLine(quiet(), seed=12)
    prepared = symbols(1_000_000)
    line.began(0.0, HZ)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(len(line.clicks(0, LEAD + 40 * 10**9)[0])))
    thread.start()
    for first in range(0, len(prepared), 100_000):
        time.sleep(0.01)
        line.pulses(first, prepared[first : first + 100_000])
    thread.join()
    assert got[0] == pytest.approx(400_000 * line.expected(100e-9, HZ).click_rate(P, P_X) / HZ, rel=0.1)


def test_without_a_stream_there_are_only_dark_counts_and_nobody_waits() -> None:
    line = PulsedLine(quiet(dark_counts=Hertz(1000.0)), seed=13)
    watch = Stopwatch()
    times, _ = line.clicks(0, 10**12)
    assert watch.seconds < 1.0
    assert abs(len(times) - 4000) < 4 * 64


@given(offset=st.floats(-1, 1), ppm=st.floats(-4.9, 4.9), board_ppm=st.floats(-4.9, 4.9), start=st.floats(0.0, 1000.0))
@settings(max_examples=10, deadline=None)
def test_slots_fall_where_the_two_clocks_say(offset: float, ppm: float, board_ppm: float, start: float) -> None:
    """Over a second, a straight line through slot and time has the slope of both clocks' errors and no other structure."""
    base = quiet()
    parameters = PulsedParameters(
        transmitter=TransmitterParameters(clock=ClockParameters(frequency_error_ppm=board_ppm, wander_ppm=0.0)),
        bob=msgspec.structs.replace(
            base.bob,
            clock=ClockParameters(offset=Seconds(offset), frequency_error_ppm=ppm, wander_ppm=0.0),
            detectors=tuple(msgspec.structs.replace(d, jitter=Seconds(1e-12)) for d in base.bob.detectors),
        ),
    )
    line = PulsedLine(parameters, seed=14)
    slow_hz = 1e6
    line.began(start, slow_hz)
    line.pulses(0, np.zeros(1_000_000, np.uint8))
    line.ended()
    begin = round((start + max(0.1, offset)) * 1e12 * (1 + 1e-6 * (ppm - board_ppm))) - 10**10
    times, _ = line.clicks(max(0, begin), begin + round(1.1e12))
    assert len(times) > 10_000
    spacing = 1e6 * (1 + 1e-6 * ppm) / (1 + 1e-6 * board_ppm)
    since = times - times[0]
    off = since - np.rint(since / spacing) * spacing
    assert np.abs(off).max() < 1000  # ps; light of one slot spreads over 8 sigma of 50 ps
