"""The only reconnect loop: pauses, jitter, one log line a cause, interlocks, order of stopping. On the fake clock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import Kind, QkddError
from qkdd.device.errors import DeviceOffline, WrongDevice
from qkdd.node.errors import Interlock
from qkdd.node.health import Health
from qkdd.node.supervisor import BackoffConfig, State, Supervisor
from qkdd.testing.clock import FakeClock

OFFLINE = DeviceOffline("tagger", "serial:/dev/x", "open", "unplugged")


class Bench:
    """A supervisor on the fake clock with everything recorded."""

    def __init__(self, jitter: float = 0.0) -> None:
        self.clock = FakeClock()
        self.meter = RecordingMeter()
        self.health = Health(self.clock, self.meter)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.supervisor = Supervisor(self.clock, self.meter, self.health, self.publish, lambda: jitter, BackoffConfig())

    def publish(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def failing(error: QkddError, times: list[float], clock: FakeClock) -> Callable[[Callable[[], None]], Any]:
    async def life(_up: Callable[[], None]) -> None:
        times.append(clock.monotonic())
        raise error

    return life


def test_pauses_double_up_to_the_longest_and_jitter_shortens_them() -> None:
    async def main(jitter: float) -> list[float]:
        b = Bench(jitter)
        times: list[float] = []
        b.supervisor.add("tagger", "device", failing(OFFLINE, times, b.clock))
        await b.clock.advance(130)
        await b.supervisor.stop()
        return [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]

    assert asyncio.run(main(0.0))[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert asyncio.run(main(0.5))[:3] == [0.425, 0.85, 1.7]  # 0.3 · 0.5 shorter


def test_a_permanent_error_is_looked_at_now_and_then() -> None:
    async def main() -> None:
        b = Bench()
        times: list[float] = []
        wrong = WrongDevice("tagger", "serial:/dev/x", "identify", "something else")
        b.supervisor.add("tagger", "device", failing(wrong, times, b.clock))
        await b.clock.advance(61)
        assert [round(t - times[0]) for t in times] == [0, 30, 60]
        await b.supervisor.stop()

    asyncio.run(main())


def test_unplugged_and_back_is_told_once_each_way() -> None:
    async def main() -> None:
        b = Bench()
        plugged, unplug = True, asyncio.Event()

        async def life(up: Callable[[], None]) -> None:
            if not plugged:
                raise OFFLINE
            up()
            await unplug.wait()
            unplug.clear()
            raise OFFLINE

        with structlog.testing.capture_logs() as lines:
            part = b.supervisor.add("tagger", "device", life)
            await b.clock.advance(60)
            assert part.state is State.UP
            plugged = False
            unplug.set()
            await b.clock.advance(300)
            assert part.state is State.WAITING
            assert part.error is OFFLINE
            plugged = True
            await b.clock.advance(31)
            assert part.state is State.UP
            assert part.error is None
            await b.supervisor.stop()
        assert b.kinds() == ["device.up", "device.down", "device.up"]
        assert [line["event"] for line in lines] == ["device up", "device down", "device up"]
        assert lines[1]["code"] == "QKD-DEV-OFFLINE"
        assert b.meter.counters["qkdd_part_failures_total", (("code", "QKD-DEV-OFFLINE"), ("part", "tagger"))] > 10
        assert b.meter.total("qkdd_part_reconnects_total", part="tagger") == 1
        assert b.supervisor.tally["QKD-DEV-OFFLINE"].count > 10

    asyncio.run(main())


def test_another_cause_in_the_same_outage_is_told_too() -> None:
    async def main() -> None:
        b = Bench()
        causes = [OFFLINE, OFFLINE, WrongDevice("tagger", "x", "identify", "?"), OFFLINE]

        async def life(_up: Callable[[], None]) -> None:
            raise causes.pop(0) if causes else OFFLINE

        b.supervisor.add("tagger", "device", life)
        await b.clock.advance(120)
        await b.supervisor.stop()
        assert [f["code"] for _, f in b.events] == ["QKD-DEV-OFFLINE", "QKD-DEV-WRONG"]

    asyncio.run(main())


def test_after_a_long_good_time_the_first_pause_is_short_again() -> None:
    async def main() -> None:
        b = Bench()
        starts: list[float] = []
        good = False

        async def life(up: Callable[[], None]) -> None:
            starts.append(b.clock.monotonic())
            if good:
                up()
                await b.clock.sleep(100)
            raise OFFLINE

        b.supervisor.add("tagger", "device", life)
        await b.clock.advance(40)
        good = True
        await b.clock.advance(150)
        good = False
        await b.clock.advance(2)
        up_at = next(i for i, t in enumerate(starts) if i and starts[i] - starts[i - 1] >= 100)
        assert starts[up_at] - starts[up_at - 1] == pytest.approx(100.5)
        await b.supervisor.stop()

    asyncio.run(main())


def test_a_step_of_the_wall_clock_changes_no_pause() -> None:
    async def main() -> None:
        b = Bench()
        times: list[float] = []
        b.supervisor.add("tagger", "device", failing(OFFLINE, times, b.clock))
        await b.clock.advance(0.1)
        b.clock.step_wall(-86_400 * 365)
        await b.clock.advance(0.5)
        b.clock.step_wall(86_400 * 3650)
        await b.clock.advance(1.0)
        assert [round(t - times[0], 3) for t in times] == [0.0, 0.5, 1.5]
        await b.supervisor.stop()

    asyncio.run(main())


def test_kick_tries_at_once() -> None:
    async def main() -> None:
        b = Bench()
        times: list[float] = []
        b.supervisor.add("tagger", "device", failing(OFFLINE, times, b.clock))
        await b.clock.advance(100)
        before = len(times)
        b.supervisor.kick("tagger")
        await b.clock.settle()
        assert len(times) == before + 1
        await b.supervisor.stop()

    asyncio.run(main())


def test_an_interlock_waits_for_the_operator() -> None:
    async def main() -> None:
        b = Bench()
        times: list[float] = []
        tripped: list[QkddError] = []
        b.supervisor.on_interlock = tripped.append
        part = b.supervisor.add("laser", "device", failing(Interlock("lid open"), times, b.clock))
        await b.clock.advance(3600)
        assert part.state is State.TRIPPED
        assert len(times) == len(tripped) == 1
        assert not b.health.check()  # waiting for a person is no stall
        b.supervisor.kick("laser")
        await b.clock.settle()
        assert len(times) == 2
        await b.supervisor.stop()

    asyncio.run(main())


def test_a_defect_in_a_part_is_reported_and_survived() -> None:
    async def main() -> None:
        b = Bench()

        async def life(_up: Callable[[], None]) -> None:
            raise ZeroDivisionError("oops")

        part = b.supervisor.add("x", "device", life)
        await b.clock.advance(65)  # a defect is permanent: looked at every 30 s
        assert part.error is not None
        assert part.error.code == "QKD-CORE-INTERNAL"
        assert part.attempts > 2
        await b.supervisor.stop()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(main())
    assert any(line["event"] == "defect in a part" and line["exc_info"] for line in lines)


def test_a_part_that_just_ends_is_started_again() -> None:
    async def main() -> None:
        b = Bench()

        async def life(up: Callable[[], None]) -> None:
            up()

        part = b.supervisor.add("x", "kms", life)
        await b.clock.advance(2)
        assert part.attempts >= 2
        assert b.supervisor.tally["QKD-NODE-PART-ENDED"].count >= 2
        await b.supervisor.stop()

    asyncio.run(main())


def test_stop_waits_for_each_part_in_the_reverse_order() -> None:
    async def main() -> None:
        b = Bench()
        stopped: list[str] = []

        def life(name: str) -> Callable[[Callable[[], None]], Any]:
            async def run(up: Callable[[], None]) -> None:
                up()
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0)
                    stopped.append(name)

            return run

        for name in ("store", "device", "link"):
            b.supervisor.add(name, name, life(name))
        await b.clock.settle()
        await b.supervisor.stop()
        assert stopped == ["link", "device", "store"]
        assert all(p.state is State.STOPPED for p in b.supervisor.parts.values())

    asyncio.run(main())


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_error_keeps_the_loop_alive(kind: Kind) -> None:
    class Odd(QkddError):
        pass

    Odd.kind = kind

    async def main() -> None:
        b = Bench()
        times: list[float] = []
        b.supervisor.add("x", "device", failing(Odd("?"), times, b.clock))
        await b.clock.advance(31)
        b.supervisor.kick()
        await b.clock.advance(31)
        assert len(times) >= 2
        await b.supervisor.stop()

    asyncio.run(main())
