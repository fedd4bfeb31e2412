"""The link's life with a mock link: waits for tagger and session, drains, survives the peer, calibrates on drift."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from qkdd.control.errors import NotNow
from qkdd.core.counters import RecordingMeter
from qkdd.core.units import Hertz
from qkdd.device.errors import DeviceOffline
from qkdd.distill import DecoySettings
from qkdd.link.config import LinkConfig, LinkShared
from qkdd.link.errors import AlignmentFailed
from qkdd.link.status import BlockRecord, LinkState, LinkStatus
from qkdd.node.calibration import CalibrationConfig
from qkdd.node.health import Health
from qkdd.node.linkrun import PART, PATIENCE_S, LinkRun
from qkdd.node.supervisor import State, Supervisor
from qkdd.peer import PeerClosed
from qkdd.testing.clock import FakeClock


class Slot:
    def __init__(self) -> None:
        self.busy = asyncio.Event()
        self.failures: list[Any] = []

    def fail(self, error: Any) -> None:
        self.failures.append(error)


class Paddles:
    paddles, setting_unit, setting_range = 3, "rad", (0.0, math.pi)

    def __init__(self) -> None:
        self.place = [1.0, 1.0, 1.0]

    async def settings(self) -> tuple[float, ...]:
        return tuple(self.place)

    async def move(self, paddle: int, value: float) -> float:
        self.place[paddle] = value
        return value


class MockDevices:
    def __init__(self) -> None:
        self.slots = {"tagger": Slot()}
        self.there = asyncio.Event()
        self.paddles = Paddles()

    async def need(self, _name: str) -> Any:
        await self.there.wait()
        return "tagger"

    def now(self, _name: str) -> Any:
        return self.paddles


class MockLink:
    """Runs until told how to end."""

    def __init__(self, status: LinkStatus, bench: Bench) -> None:
        self.status, self.bench = status, bench
        self.held: bool | None = None
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self) -> str:
        self.status.set_state(LinkState.RUNNING)
        try:
            while not self.end.done():
                self.bench.health.beat(PART)
                await self.bench.clock.sleep(0.1)
            return self.end.result()
        finally:
            self.status.set_state(LinkState.IDLE)

    def drain(self) -> None:
        self.end.set_result("drained")

    def hold_open(self, wanted: bool) -> None:
        self.held = wanted
        self.status.set_state(LinkState.OPEN if wanted else LinkState.RUNNING)

    async def measure_error(self) -> float:
        await self.bench.clock.sleep(2.0)
        if self.bench.no_peak:
            self.bench.no_peak -= 1
            raise AlignmentFailed("no coincidence peak")
        return 0.015 + 0.2 * sum(math.sin(p - 1.3) ** 2 for p in self.bench.devices.paddles.place)


class Bench:
    def __init__(self, role: Any = "bob", **calibration: Any) -> None:
        self.clock, self.meter = FakeClock(), RecordingMeter()
        self.health = Health(self.clock, self.meter)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.supervisor = Supervisor(self.clock, self.meter, self.health, self.publish, lambda: 0.0)
        self.devices = MockDevices()
        self.links: list[MockLink] = []
        self.no_peak = 0
        config = LinkConfig(name="a-b", role=role, polarization="polarization")
        self.run = LinkRun(
            config, CalibrationConfig(**calibration), self.devices, self.make,  # type: ignore[arg-type]
            self.clock, self.meter, self.health, self.supervisor, self.publish,
        )  # fmt: skip
        self.supervisor.add(PART, "link", self.run.life, patience=PATIENCE_S)

    def make(self, _tagger: Any, _session: Any, status: LinkStatus, _beat: Callable[[], None]) -> MockLink:
        self.links.append(MockLink(status, self))
        return self.links[-1]

    def publish(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def block(self, number: int, qber: float, code: str | None = None) -> None:
        self.run.status.add_block(
            BlockRecord(number, 0.0, code is None, code, 1000, qber, 0.05, 0 if code else 10, 5, 1.1, 5.0, 1.0)
        )

    async def up(self) -> None:
        self.devices.there.set()
        self.run.offer(object())  # type: ignore[arg-type]
        await self.clock.advance(1)
        assert self.supervisor.parts[PART].state is State.UP


def test_waits_without_failing_for_tagger_and_session() -> None:
    async def main() -> None:
        b = Bench()
        await b.clock.advance(3600)
        assert b.supervisor.parts[PART].error is None
        assert not b.health.check()  # waiting is no stall
        assert not b.links
        b.run.offer(object())  # type: ignore[arg-type]
        await b.clock.advance(60)
        assert not b.links  # the tagger is still missing
        await b.up()
        assert b.devices.slots["tagger"].busy.is_set()
        await b.supervisor.stop()
        assert not b.devices.slots["tagger"].busy.is_set()

    asyncio.run(main())


def test_peer_down_and_up() -> None:
    async def main() -> None:
        b = Bench()
        await b.up()
        b.links[0].end.set_exception(PeerClosed("gone"))
        await b.clock.advance(60)
        assert len(b.links) == 1  # no new session, no new attempt
        assert "link.down" in b.kinds()
        b.run.offer(object())  # type: ignore[arg-type]
        await b.clock.advance(1)
        assert len(b.links) == 2
        assert b.supervisor.parts[PART].state is State.UP
        await b.supervisor.stop()

    asyncio.run(main())


def test_a_tagger_that_fails_is_told_to_its_device() -> None:
    async def main() -> None:
        b = Bench()
        await b.up()
        b.links[0].end.set_exception(DeviceOffline("tagger", "serial:x", "read tags", "unplugged"))
        await b.clock.advance(1)
        assert [e.code for e in b.devices.slots["tagger"].failures] == ["QKD-DEV-OFFLINE"]
        await b.supervisor.stop()

    asyncio.run(main())


def test_drain_waits_for_the_block_in_hand_and_resume_goes_on() -> None:
    async def main() -> None:
        b = Bench()
        await b.up()
        drained = asyncio.create_task(b.run.drain())
        await b.clock.advance(1)
        assert drained.done()
        assert b.meter.gauges["qkdd_draining", ()] == 1
        b.run.offer(object())  # type: ignore[arg-type]  # the peer connects again
        await b.clock.advance(600)
        assert len(b.links) == 1
        assert not b.health.check()
        await b.run.drain()  # again: nothing to do
        b.run.resume()
        await b.clock.advance(1)
        assert len(b.links) == 2
        assert b.meter.gauges["qkdd_draining", ()] == 0
        await b.supervisor.stop()

    asyncio.run(main())


def test_blocks_become_events_and_refusals_are_tallied() -> None:
    async def main() -> None:
        b = Bench()
        await b.up()
        b.block(1, 0.016)
        b.block(2, 0.09, "QKD-BLK-QBER")
        await b.clock.advance(0.2)
        assert [(k, f["number"]) for k, f in b.events if k.startswith("block.")] == [
            ("block.accepted", 1),
            ("block.refused", 2),
        ]
        assert b.supervisor.tally["QKD-BLK-QBER"].count == 1
        assert b.meter.total("qkdd_errors_total", code="QKD-BLK-QBER") == 1
        await b.supervisor.stop()

    asyncio.run(main())


def test_a_length_that_is_no_strict_bound_says_so_in_its_event() -> None:
    async def main() -> None:
        b = Bench()
        settings = DecoySettings(
            pulse_rate=Hertz(10e6), block_pulses=10**8, mu=(0.5, 0.2, 0.001), p=(0.5, 0.3, 0.2),
            mu_intervals=((0.5, 0.5), (0.2, 0.2), (0.0, 0.001)), proof="bb84-2decoy/lim2014",
        )  # fmt: skip
        shared = LinkShared(protocol="decoy_bb84", decoy=settings)
        b.run.config = msgspec.structs.replace(b.run.config, shared=shared)
        await b.up()
        b.block(1, 0.016)
        b.block(2, 0.09, "QKD-BLK-QBER")
        await b.clock.advance(0.2)
        assert [f.get("label") for k, f in b.events if k.startswith("block.")] == ["not a strict bound", None]
        await b.supervisor.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("role", "mode", "moves"),
    [("bob", "auto", True), ("alice", "auto", False), ("alice", "always", True), ("bob", "never", False)],
)
def test_drift_starts_a_search_on_one_node(role: str, mode: str, moves: bool) -> None:
    async def main() -> None:
        b = Bench(role, on_drift=mode)
        await b.up()
        for number in range(3):
            b.block(number, 0.06)
        await b.clock.advance(300)
        assert ("calibration.due" in b.kinds()) is moves
        assert ("calibration.done" in b.kinds()) is moves
        if moves:
            assert b.run.last_calibration is not None
            assert all(abs(p - 1.3) < 0.2 for p in b.devices.paddles.place)
            assert b.kinds().count("calibration.step") > 5
            assert b.meter.total("qkdd_calibrations_total", result="ok") == 1
        await b.supervisor.stop()

    asyncio.run(main())


def test_one_search_at_a_time_and_none_without_a_link() -> None:
    async def main() -> None:
        b = Bench()
        with pytest.raises(NotNow):
            await b.run.calibrate()
        await b.up()
        first = asyncio.create_task(b.run.calibrate())
        await b.clock.advance(1)
        with pytest.raises(NotNow, match="already"):
            await b.run.calibrate()
        await b.clock.advance(300)
        assert (await first).qber_after < 0.02
        await b.supervisor.stop()

    asyncio.run(main())


def test_a_client_that_goes_away_does_not_stop_the_search() -> None:
    async def main() -> None:
        b = Bench()
        await b.up()
        asked = asyncio.create_task(b.run.calibrate())
        await b.clock.advance(1)
        asked.cancel()
        await b.clock.advance(1)
        with pytest.raises(NotNow, match="already"):
            await b.run.calibrate()
        await b.clock.advance(300)
        assert "calibration.done" in b.kinds()
        await b.supervisor.stop()

    asyncio.run(main())


@pytest.mark.parametrize(("failures", "ends"), [(3, "calibration.done"), (4, "calibration.failed")])
def test_a_stretch_without_a_peak_is_measured_again(failures: int, ends: str) -> None:
    async def main() -> None:
        b = Bench()
        await b.up()
        b.no_peak = failures
        asked = asyncio.create_task(b.run.calibrate())
        await b.clock.advance(300)
        await asyncio.gather(asked, return_exceptions=True)
        assert ends in b.kinds()
        if failures == 4:
            assert b.devices.paddles.place == [1.0, 1.0, 1.0]
        await b.supervisor.stop()

    asyncio.run(main())


def test_held_open_until_let_go_or_forgotten() -> None:
    async def main() -> None:
        b = Bench()
        assert b.run.align_view() is None
        await b.up()
        b.run.hold_open(6)
        assert b.links[0].held is True
        assert b.run.calibrating  # alarms are suppressed
        await b.clock.advance(4)
        b.run.hold_open(6)  # renewed: six seconds from now
        await b.clock.advance(4)
        view = b.run.align_view()
        assert view is not None
        assert view.open
        assert view.seconds_left == pytest.approx(2, abs=0.3)
        b.links[0].end.set_exception(PeerClosed("gone"))
        b.run.offer(object())  # type: ignore[arg-type]
        await b.clock.advance(1)
        assert b.links[1].held is True  # a new session is held too
        await b.clock.advance(3)  # nobody renewed
        assert b.links[1].held is False
        view = b.run.align_view()
        assert view is None or not view.open
        assert "not held" in b.run.hold_open(0).message
        b.run.hold_open(6)
        assert "let go" in b.run.hold_open(0).message
        await b.clock.advance(8)
        assert b.links[1].held is False
        assert [k for k in b.kinds() if k.startswith("align.")] == ["align.opened", "align.closed"] * 2
        drained = asyncio.create_task(b.run.drain())
        await b.clock.advance(1)
        assert drained.done()
        with pytest.raises(NotNow, match="drained"):
            b.run.hold_open(6)
        await b.supervisor.stop()

    asyncio.run(main())
