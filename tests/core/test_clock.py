"""The fake clock and the system clock keep the same contract."""

import asyncio

import pytest

from qkdd.core.clock import SystemClock
from qkdd.testing.clock import FakeClock


def test_sleepers_wake_in_order() -> None:
    async def main() -> None:
        clock, seen = FakeClock(), []

        async def sleeper(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            seen.append((name, clock.monotonic()))

        start = clock.monotonic()
        tasks = [asyncio.create_task(sleeper(n, s)) for n, s in [("late", 3.0), ("early", 1.0), ("never", 10.0)]]
        await clock.advance(5.0)
        assert seen == [("early", start + 1.0), ("late", start + 3.0)]
        tasks[2].cancel()

    asyncio.run(main())


def test_a_deadline_fires_only_when_time_has_passed() -> None:
    async def main() -> None:
        clock = FakeClock()

        async def body(work: float) -> str:
            async with clock.deadline(2.0):
                await clock.sleep(work)
            return "done"

        quick, slow = asyncio.create_task(body(1.0)), asyncio.create_task(body(3.0))
        await clock.advance(5.0)
        assert await quick == "done"
        with pytest.raises(TimeoutError):
            await slow

    asyncio.run(main())


def test_a_wall_step_leaves_monotonic_time_alone() -> None:
    clock = FakeClock()
    before, wall = clock.monotonic(), clock.wall()
    clock.step_wall(-3600.0)
    assert clock.monotonic() == before
    assert clock.wall() == wall - 3600.0


def test_the_system_clock_has_a_working_deadline() -> None:
    async def main() -> None:
        clock = SystemClock()
        with pytest.raises(TimeoutError):
            async with clock.deadline(0.0):
                await clock.sleep(60.0)

    asyncio.run(main())
