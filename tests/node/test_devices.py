"""Devices under the supervisor: unplugged and back, failures seen by others, counts, safe state, fields."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from qkdd.control.errors import NotFound, NotNow
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import Kind, QkddError
from qkdd.core.units import Seconds
from qkdd.device import DeviceConfig, Driver, Field, Identity
from qkdd.device.errors import DeviceOffline
from qkdd.device.facts import DriverFacts, Model, Quality, Tier
from qkdd.node import devices as module
from qkdd.node.devices import CountsConfig, CountWatch, Devices
from qkdd.node.errors import DeviceMissing
from qkdd.node.health import Health
from qkdd.node.supervisor import State, Supervisor
from qkdd.testing.clock import FakeClock


class Instrument(Driver):
    """Mock driver without a line: obeys the test's switches."""

    plugged = True
    lives: list[str]
    bias = Field(doc="Get bias.", range=(0.0, 1.0))

    @classmethod
    def facts(cls) -> DriverFacts:
        model = Model(vendor="Acme", model="X1")
        return DriverFacts(
            title="X1", roles=(), transport="tcp", models=(model,), quality=Quality(tier=Tier.BRONZE, reasons=("mock",))
        )

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[Any, ...]:
        return ()

    async def _identify(self) -> Identity:
        type(self).lives.append("identify")
        if not type(self).plugged:
            raise self.error(DeviceOffline, "identify", "unplugged")
        return Identity("Acme", "X1", "7", "1.0")

    async def _start(self) -> None:
        type(self).lives.append("start")

    async def _make_safe(self) -> None:
        type(self).lives.append("safe")

    async def _get_bias(self) -> tuple[float, ...]:
        return (0.25,)


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type[Instrument] = Instrument) -> None:
        kind.plugged, kind.lives = True, []
        self.kind = kind
        self.clock, self.meter = FakeClock(), RecordingMeter()
        self.health = Health(self.clock, self.meter)
        self.events: list[str] = []

        def publish(event: str, **_fields: Any) -> None:
            self.events.append(event)

        self.supervisor = Supervisor(self.clock, self.meter, self.health, publish, lambda: 0.0)

        def build(name: str, config: DeviceConfig, clock: Any, meter: Any, **_: Any) -> Driver:
            return kind(name, config, (), clock, meter)

        monkeypatch.setattr(module, "build", build)
        configs = {"x": DeviceConfig(driver="acme", host="h")}
        self.devices = Devices(configs, CountsConfig(), self.clock, self.meter, self.health, self.supervisor, publish)

    def state(self) -> State:
        return self.supervisor.parts["x"].state


def test_unplugged_in_the_middle_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        b = Bench(monkeypatch)
        b.devices.start()
        await b.clock.advance(1)
        assert b.state() is State.UP
        assert b.meter.gauges["qkdd_device_up", (("device", "x"), ("driver", "acme"))] == 1
        driver = await b.devices.need("x")
        assert driver.is_open
        b.kind.plugged = False
        await b.clock.advance(6)  # the next ping sees it
        assert b.state() is State.WAITING
        assert not driver.is_open
        assert b.meter.gauges["qkdd_device_up", (("device", "x"), ("driver", "acme"))] == 0
        with pytest.raises(NotNow):
            b.devices.now("x")
        view = b.devices.shown()[0]
        assert view.error is not None
        assert view.error.code == "QKD-DEV-OFFLINE"
        needed = asyncio.create_task(b.devices.need("x"))
        b.kind.plugged = True
        await b.clock.advance(31)
        assert (await needed).is_open
        assert b.events == ["device.up", "device.down", "device.up"]
        assert b.devices.shown()[0].serial == "7"
        await b.supervisor.stop()
        assert b.kind.lives[-1] == "safe"

    asyncio.run(main())


def test_who_uses_a_device_may_report_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        b = Bench(monkeypatch)
        b.devices.start()
        await b.clock.advance(1)
        b.devices.slots["x"].busy.set()  # its stream is read: no pings
        pings = b.kind.lives.count("identify")
        await b.clock.advance(60)
        assert b.kind.lives.count("identify") == pings
        b.devices.slots["x"].fail(DeviceOffline("x", "tcp:h", "read tags", "gone"))
        await b.clock.settle()
        assert b.state() is State.WAITING
        b.devices.slots["x"].fail(DeviceOffline("x", "tcp:h", "read tags", "gone"))  # twice harms nothing
        await b.clock.advance(2)
        assert b.state() is State.UP
        await b.supervisor.stop()

    asyncio.run(main())


def test_an_interlock_brings_all_devices_to_their_safe_state(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        b = Bench(monkeypatch)
        b.devices.start()
        await b.clock.advance(1)
        await b.devices.safe()
        assert b.kind.lives[-1] == "safe"
        assert b.devices.shown()[0].state == "stopped"
        await b.clock.advance(600)
        assert b.kind.lives[-1] == "safe"  # nobody opened it again
        b.devices.start()
        await b.clock.advance(1)
        assert b.state() is State.UP
        await b.supervisor.stop()

    asyncio.run(main())


def test_fields_with_values_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        b = Bench(monkeypatch)
        b.devices.start()
        await b.clock.advance(1)
        (field,) = await b.devices.fields("x")
        assert (field.name, field.value, field.low, field.high) == ("bias", 0.25, 0.0, 1.0)
        with pytest.raises(NotFound):
            await b.devices.fields("y")
        await b.supervisor.stop()

    asyncio.run(main())


def feed(watch: CountWatch, *readings: Sequence[int]) -> list[list[str]]:
    found: list[list[QkddError]] = [watch.reading(tuple(counts), 1.0) for counts in readings]
    return [[error.code for error in errors] for errors in found]


def test_bright_light_and_silent_detectors_are_told_once() -> None:
    meter = RecordingMeter()
    watch = CountWatch("d", CountsConfig(silent_after=Seconds(3.0)), meter)
    bright, silent = ["QKD-NODE-BRIGHT"], ["QKD-NODE-SILENT"]
    assert feed(watch, (100, 50), (30_000_000, 50), (30_000_000, 50), (90, 50), (30_000_000, 50)) == [
        [], bright, [], [], bright,
    ]  # fmt: skip
    assert feed(watch, (100, 0), (100, 0), (100, 0), (100, 0), (100, 7)) == [[], [], silent, [], []]
    assert feed(watch, (0, 0), (0, 0), (0, 0), (0, 0)) == [[], [], [], []]  # all dark: the source is off
    assert meter.gauges["qkdd_detector_dark_count_rate_hertz", (("detector", "1"), ("device", "d"))] == 0
    assert meter.gauges["qkdd_detector_count_rate_hertz", (("detector", "0"), ("device", "d"))] == 0


def test_a_device_that_goes_away_while_it_is_waited_for_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        b = Bench(monkeypatch)
        needed = asyncio.create_task(b.devices.need("x"))
        await b.clock.settle()
        slot = b.devices.slots["x"]
        slot.ready.set()  # it came up, and was gone again before the waiter ran
        with pytest.raises(DeviceMissing) as caught:
            await needed
        assert caught.value.code == "QKD-NODE-DEVICE-MISSING"
        assert caught.value.kind is Kind.TRANSIENT  # the supervisor tries again

    asyncio.run(main())


def test_a_node_that_stops_while_a_failed_device_is_put_away_closes_it() -> None:
    closed: list[str] = []

    class Putting:
        """Its watcher takes its time to end."""

        async def open(self) -> None: ...

        async def close(self) -> None:
            closed.append("closed")

    async def work(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)

    async def main() -> None:
        slot = module.DeviceSlot("d", DeviceConfig(driver="d", port="x"))
        driver: Any = Putting()
        life = asyncio.ensure_future(slot.live(driver, lambda: None, work, FakeClock()))
        await slot.ready.wait()
        await asyncio.sleep(0)
        slot.fail(DeviceOffline("d", "b", "read", "gone"))
        await asyncio.sleep(0.01)  # the failed life waits for its watcher
        life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await life
        assert closed == ["closed"]

    asyncio.run(main())
