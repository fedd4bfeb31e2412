"""Faults of the bench that come slowly or to one detector alone: ageing, dark counts, light, warmth."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qkdd_hil.bench.control import SideChange, _apply
from qkdd_hil.physics import LineParameters, QuantumLine
from qkdd_hil.physics.receiver import Climate

SECOND = 10**12  # ps


def line() -> QuantumLine:
    return QuantumLine(LineParameters(), 3)


def counted(line: QuantumLine, begin: int) -> np.ndarray:
    """Clicks of bob's detectors in a tenth of a second that begins at `begin` ps."""
    line.alice.clicks(begin, begin + SECOND // 10)
    return np.bincount(line.bob.clicks(begin, begin + SECOND // 10)[1], minlength=4)


def test_one_detector_ages_and_another_is_lit() -> None:
    bench = line()
    before, usual = bench.count_rates("bob"), counted(bench, 0)
    _apply(bench.setting.bob, SideChange(efficiency=(0.4, 1.0, 1.0, 1.0), light=(0.0, 3e5, 0.0, 0.0)))
    after = bench.count_rates("bob")
    assert after[0] == pytest.approx(0.4 * before[0], rel=0.03)
    assert after[1] == pytest.approx(before[1] + 3e5, rel=0.03)
    np.testing.assert_allclose(after[2:], before[2:], rtol=1e-3)
    # what was drawn before the change still comes with the old rates
    clicks = counted(bench, 3 * SECOND)
    assert clicks[0] == pytest.approx(0.4 * usual[0], rel=0.1)
    assert clicks[1] > usual[1] + 2.5e4


def test_dark_counts_of_one_detector() -> None:
    bench = line()
    bench.setting.source_on = False
    before = bench.count_rates("bob")
    _apply(bench.setting.bob, SideChange(dark=(1.0, 1.0, 20.0, 1.0)))
    np.testing.assert_allclose(bench.count_rates("bob") - before, [0, 0, 1900, 0], rtol=0.02, atol=0.5)


def test_a_switched_off_detector_sees_no_light() -> None:
    bench = line()
    bench.setting.bob.light = (1e5,) * 4
    bench.setting.bob.bias = (0.0, 20e-6, 30e-6, 20e-6)  # off, on, latched, on
    rates = bench.count_rates("bob")
    assert rates[0] == rates[2] == 0
    assert rates[1] > 1e5


def test_warmth_turns_the_light_slowly_and_back() -> None:
    bench = line()
    cold = bench.expected(6e-9).qber
    counted(bench, 0)
    bench.setting.bob.climate = (4.0, 10.0)
    counted(bench, 1 * SECOND)
    bench.expected(6e-9)
    counted(bench, 6 * SECOND)
    halfway = bench.expected(6e-9).qber
    counted(bench, 14 * SECOND)
    warm = bench.expected(6e-9).qber
    assert cold + 0.003 < halfway < warm - 0.01
    assert 0.035 < warm < 0.06  # the drift alert, and not far above the limit
    bench.setting.bob.climate = (0.0, 0.0)
    assert bench.expected(6e-9).qber == pytest.approx(cold, abs=0.004)


@given(
    orders=st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 50)), min_size=1, max_size=4),
    steps=st.lists(st.floats(0.01, 20), min_size=4, max_size=12),
)
def test_a_temperature_never_jumps_and_never_overshoots(orders: list[tuple[float, float]], steps: list[float]) -> None:
    climate, now, have = Climate(), 0.0, 0.0
    for order in orders:
        assert order[1] == 0 or climate.at(now, order) == pytest.approx(have, abs=1e-9)
        for step in steps:
            now += step
            found = climate.at(now, order)
            low, high = sorted((have, order[0]))
            assert low - 1e-9 <= found <= high + 1e-9
            have = found
        assert climate.at(now + order[1], order) == pytest.approx(order[0])
        have, now = order[0], now + order[1]


@pytest.mark.parametrize(
    "change",
    [{"efficiency": (1.2, 1.0, 1.0, 1.0)}, {"light": (-1.0, 0.0, 0.0, 0.0)}, {"dark": (0.0, 1e7, 0.0, 0.0)}],
)
def test_values_out_of_range_are_refused_as_a_whole(change: dict) -> None:
    bench = line()
    before = bench.setting.bob.efficiency
    with pytest.raises(Exception, match=r"Bad Request"):
        _apply(bench.setting.bob, SideChange(dark_factor=2.0, **change))
    assert bench.setting.bob.dark_factor == 1.0
    assert bench.setting.bob.efficiency == before


def test_a_list_of_another_length_does_not_decode() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"light": [1, 2, 3]}', type=SideChange)
