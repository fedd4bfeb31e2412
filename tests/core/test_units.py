"""Quantities: the unit is part of the value, and what is not understood is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd.core.units import Amperes, Fraction, Hertz, Kelvins, Quantity, Radians, Seconds, Volts


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Seconds, "6 ns", 6e-9),
        (Seconds, "5s", 5.0),
        (Seconds, "1.5 h", 5400.0),
        (Seconds, "1e3 us", 1e-3),
        (Hertz, "2 MHz", 2e6),
        (Volts, "-500 mV", -0.5),
        (Amperes, "12.5 µA", 12.5e-6),
        (Radians, "180 deg", math.pi),
        (Kelvins, "-40 degC", 233.15),
        (Fraction, 0.05, 0.05),
        (Fraction, "5 %", 0.05),
    ],
)
def test_reading(kind, text, value) -> None:
    assert kind.parse(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["6", 6, 6.0, True, "6 V", "ns", "", "six ns", "1 2 ns", "nan s", None, "6 ns later"])
def test_refusing(text) -> None:
    with pytest.raises(ValueError, match=r"duration|unit"):
        Seconds.parse(text)


@pytest.mark.parametrize("text", [-0.1, 1.1, "150 %", "x", True, None])
def test_refusing_fractions(text) -> None:
    with pytest.raises(ValueError):
        Fraction.parse(text)


@given(st.floats(min_value=1e-12, max_value=1e6), st.sampled_from([Seconds, Hertz, Volts, Amperes]))
def test_what_is_written_is_read_again(value: float, kind: type[Quantity]) -> None:
    assert float(kind.parse(str(kind(value)))) == pytest.approx(value, rel=1e-5)
