"""The coordinate search finds the minimum, keeps to the limits, and puts the paddles back when it fails."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.core.errors import QkddError
from qkdd.node.calibration import CalibrationConfig, CoordinateSearch, DriftWatch
from qkdd.node.errors import CalibrationFailed
from qkdd.testing.clock import FakeClock

RANGE = (0.0, math.radians(170.0))


class Paddles:
    """Mock controller: three paddles that obey at once."""

    paddles = 3
    setting_unit = "rad"
    setting_range = RANGE

    def __init__(self, start: tuple[float, ...]) -> None:
        self.place = list(start)
        self.visited: list[float] = []

    async def settings(self) -> tuple[float, ...]:
        return tuple(self.place)

    async def move(self, paddle: int, value: float) -> float:
        assert RANGE[0] <= value <= RANGE[1]
        self.place[paddle] = value
        self.visited.append(value)
        return value + 1e-4  # a read-back that is rounded


def error_rate(place: list[float], best: tuple[float, ...], floor: float = 0.015) -> float:
    """Mean of sin² over the paddles: periodic as polarization is."""
    return floor + 0.4 * float(np.mean([math.sin(a - b) ** 2 for a, b in zip(place, best, strict=True)]))


@settings(max_examples=40, deadline=None)
@given(
    start=st.tuples(*[st.floats(0.3, 2.6)] * 3),
    shift=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
)
def test_search_finds_the_minimum(start: tuple[float, ...], shift: tuple[float, ...]) -> None:
    best = tuple(min(2.7, max(0.2, a + s)) for a, s in zip(start, shift, strict=True))

    async def main() -> None:
        paddles = Paddles(start)

        async def measure() -> float:
            return error_rate(paddles.place, best)

        result = await CoordinateSearch(paddles, measure, CalibrationConfig(), FakeClock()).run()
        assert result.after <= 0.02
        assert tuple(paddles.place) == result.settings
        assert result.measurements <= 60

    asyncio.run(main())


def test_search_with_noise_gets_close() -> None:
    async def main() -> None:
        paddles = Paddles((0.5, 1.0, 1.5))
        random = np.random.default_rng(7)

        async def measure() -> float:
            return error_rate(paddles.place, (0.9, 0.7, 1.9)) + abs(float(random.normal(0, 0.001)))

        result = await CoordinateSearch(paddles, measure, CalibrationConfig(), FakeClock()).run()
        assert error_rate(paddles.place, (0.9, 0.7, 1.9)) < 0.021
        assert result.before > 0.05

    asyncio.run(main())


def test_site_limits_are_kept() -> None:
    async def main() -> None:
        paddles = Paddles((1.0, 1.0, 1.0))

        async def measure() -> float:
            return error_rate(paddles.place, (2.2, 1.0, 1.0))

        limits = (0.9, 1.3)
        with_limits = CoordinateSearch(paddles, measure, CalibrationConfig(), FakeClock(), limits=limits)
        result = await with_limits.run()
        assert all(limits[0] <= place <= limits[1] for place in paddles.visited)
        assert result.after < result.before

    asyncio.run(main())


def test_paddles_return_when_nothing_helps() -> None:
    async def main() -> None:
        paddles = Paddles((1.0, 1.1, 1.2))

        async def measure() -> float:
            return 0.5  # dark: nothing but accidentals

        config = CalibrationConfig(measurements_max=40)
        with pytest.raises(CalibrationFailed, match="50"):
            await CoordinateSearch(paddles, measure, config, FakeClock()).run()
        assert paddles.place == [1.0, 1.1, 1.2]

    asyncio.run(main())


def test_paddles_return_when_a_measurement_fails() -> None:
    async def main() -> None:
        paddles = Paddles((1.0, 1.1, 1.2))
        calls = 0

        class NoLight(QkddError):
            pass

        async def measure() -> float:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise NoLight("dark")
            return 0.2 - 0.001 * calls

        with pytest.raises(NoLight):
            await CoordinateSearch(paddles, measure, CalibrationConfig(), FakeClock()).run()
        assert paddles.place == [1.0, 1.1, 1.2]

    asyncio.run(main())


def test_a_good_alignment_is_left_alone() -> None:
    async def main() -> None:
        paddles = Paddles((1.0, 1.0, 1.0))

        async def measure() -> float:
            return 0.016

        result = await CoordinateSearch(paddles, measure, CalibrationConfig(), FakeClock()).run()
        assert (result.measurements, result.before, result.after) == (1, 0.016, 0.016)
        assert paddles.visited == []

    asyncio.run(main())


def test_drift_needs_consecutive_blocks() -> None:
    watch = DriftWatch(CalibrationConfig(start_blocks=3))
    assert [watch.block(q) for q in (0.04, 0.04, 0.01, 0.04, None, 0.04, 0.04, 0.04)] == [
        False, False, False, False, False, False, True, False,
    ]  # fmt: skip
