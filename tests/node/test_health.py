"""The watchdog is fed only while every part reports; a stalled part starves it. Against a fake NOTIFY_SOCKET."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qkdd.core.counters import RecordingMeter
from qkdd.node.health import Health, ServiceManager, beating
from qkdd.node.supervisor import Supervisor
from qkdd.testing.clock import FakeClock


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """systemd's end: returns what has come since the last call."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as end:
        end.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

        def received() -> list[str]:
            found = []
            while True:
                try:
                    found.append(end.recv(4096).decode())
                except BlockingIOError:
                    return found

        yield received


def test_watchdog_starves_while_a_part_stalls_and_is_fed_again(manager: Callable[[], list[str]]) -> None:
    async def main() -> None:
        clock, meter = FakeClock(), RecordingMeter()
        health = Health(clock, meter)
        supervisor = Supervisor(clock, meter, health, lambda _kind, **_fields: None, lambda: 0.0)
        hang, go_on = asyncio.Event(), asyncio.Event()

        async def life(up: Callable[[], None]) -> None:
            up()
            while True:
                health.beat("link")
                if hang.is_set():
                    await go_on.wait()
                await clock.sleep(1.0)

        supervisor.add("link", "link", life, patience=20.0)
        feeder = asyncio.create_task(ServiceManager(clock, health).watch())
        await clock.advance(30)  # in short stretches: the kernel queues ten datagrams, then the sender waits
        assert manager().count("WATCHDOG=1") == 7  # at once, then every 5 s: half of what systemd allows
        hang.set()
        await clock.advance(21)
        manager()
        await clock.advance(60)
        assert manager() == []  # systemd would end the process now
        assert health.check() == ["link"]
        assert meter.total("qkdd_errors_total", code="QKD-NODE-STALLED") == 1
        assert meter.gauges["qkdd_part_heartbeat_age_seconds", (("part", "link"),)] > 60
        hang.clear()
        go_on.set()
        await clock.advance(10)
        assert "WATCHDOG=1" in manager()
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
        await supervisor.stop()

    asyncio.run(main())


def test_ready_status_and_stopping(manager: Callable[[], list[str]]) -> None:
    clock = FakeClock()
    told = ServiceManager(clock, Health(clock, RecordingMeter()))
    told.ready()
    told.status("running")
    told.status("running")  # unchanged: not sent again
    told.status("degraded")
    told.stopping()
    assert manager() == ["READY=1", "STATUS=running", "STATUS=degraded", "STOPPING=1"]


def test_a_service_manager_that_is_gone_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    ServiceManager(FakeClock(), Health(FakeClock(), RecordingMeter())).ready()


def test_beating_keeps_a_patient_part_alive_and_passes_results_and_cancellation() -> None:
    async def main() -> None:
        clock = FakeClock()
        beats: list[float] = []
        gate = asyncio.Event()

        async def answer() -> int:
            await gate.wait()
            return 7

        task = asyncio.create_task(beating(answer(), lambda: beats.append(clock.monotonic()), clock))
        await clock.advance(600)
        assert len(beats) >= 600
        gate.set()
        assert await task == 7
        second = asyncio.create_task(beating(asyncio.Event().wait(), lambda: None, clock))
        await clock.settle()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(main())
