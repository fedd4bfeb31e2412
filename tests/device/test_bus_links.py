"""The worker thread of a bus, and the serial and TCP links under it."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import tty
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import errors
from qkdd.device.bus import Bus
from qkdd.device.serial_link import SerialLink, serial_line
from qkdd.device.tcp_link import TcpLink
from qkdd.device.transport import (
    Busy,
    ByteLink,
    ByteReader,
    Denied,
    FrameError,
    Gone,
    Refused,
    Stranger,
    TimedOut,
)
from qkdd.testing.clock import FakeClock
from qkdd.testing.leaks import no_leaks, no_leaks_async
from qkdd.testing.patience import PATIENCE_S, until_async
from qkdd.testing.replay import DeadLink, ReplayLink


def bus(link: ByteLink, clock: FakeClock | SystemClock | None = None) -> Bus[ByteLink]:
    return Bus(link, "thing", clock or SystemClock(), RecordingMeter())


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (Gone("x"), errors.DeviceOffline, "QKD-DEV-OFFLINE"),
        (TimedOut("x"), errors.DeviceTimeout, "QKD-DEV-TIMEOUT"),
        (Busy("x"), errors.BusBusy, "QKD-DEV-BUSY"),
        (Denied("x"), errors.AccessDenied, "QKD-DEV-ACCESS"),
        (FrameError("x"), errors.ProtocolError, "QKD-DEV-PROTOCOL"),
        (Refused("x"), errors.CommandRefused, "QKD-DEV-REFUSED"),
        (Stranger("x"), errors.WrongDevice, "QKD-DEV-WRONG"),
    ],
)
def test_failures_become_typed_errors_that_name_device_bus_and_operation(
    raised: Exception, kind: type[errors.DeviceError], code: str
) -> None:
    async def main() -> None:
        meter = RecordingMeter()
        line: Bus[ByteLink] = Bus(ReplayLink([], "line:7"), "thing", SystemClock(), meter)
        await line.open()

        def fail(_: ByteLink) -> None:
            raise raised

        with pytest.raises(kind, match="thing on line:7, turn knob: x") as caught:
            await line.run("turn knob", fail, 1.0)
        assert caught.value.code == code
        assert meter.total("qkdd_device_errors_total", device="thing", code=code) == 1
        await line.close()

    with no_leaks():
        asyncio.run(main())


def test_calls_run_one_at_a_time_and_urgent_ones_go_first() -> None:
    async def main() -> None:
        line = bus(ReplayLink([]))
        await line.open()
        order: list[str] = []
        go = threading.Event()
        first = asyncio.create_task(line.run("a", lambda _: (go.wait(PATIENCE_S), order.append("a")), PATIENCE_S))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(line.run(n, lambda _, n=n: order.append(n), PATIENCE_S)) for n in ("b", "c")]
        await asyncio.sleep(0.01)
        ping = asyncio.create_task(line.run("ping", lambda _: order.append("ping"), PATIENCE_S, urgent=True))
        await asyncio.sleep(0.01)
        go.set()
        await asyncio.gather(first, *others, ping)
        assert order == ["a", "ping", "b", "c"]
        await line.close()

    with no_leaks():
        asyncio.run(main())


def test_a_cancelled_call_that_waits_is_dropped_and_one_that_runs_is_finished() -> None:
    async def main() -> None:
        async with no_leaks_async():
            line = bus(ReplayLink([]))
            await line.open()
            done: list[str] = []
            go = threading.Event()
            running = asyncio.create_task(line.run("a", lambda _: (go.wait(PATIENCE_S), done.append("a")), PATIENCE_S))
            await asyncio.sleep(0.01)
            waiting = asyncio.create_task(line.run("b", lambda _: done.append("b"), PATIENCE_S))
            await asyncio.sleep(0.01)
            running.cancel()
            waiting.cancel()
            await asyncio.gather(running, waiting, return_exceptions=True)
            go.set()
            await line.run("c", lambda _: done.append("c"), PATIENCE_S)
            assert done == ["a", "c"]
            await line.close()

    asyncio.run(main())


def test_a_call_that_hangs_costs_the_bus_but_not_the_daemon() -> None:
    async def main() -> None:
        clock = FakeClock()
        line = bus(ReplayLink([]), clock)
        await line.open()
        go = threading.Event()
        hangs = threading.Event()
        hanging = asyncio.create_task(line.run("hang", lambda _: (hangs.set(), go.wait(PATIENCE_S)), 1.0))
        queued = asyncio.create_task(line.run("next", lambda _: None, 1.0))
        await until_async(hangs.is_set, "the call has begun")
        await clock.advance(10.0)
        with pytest.raises(errors.DeviceTimeout, match="hangs"):
            await hanging
        with pytest.raises(errors.DeviceOffline):
            await queued
        with pytest.raises(errors.DeviceOffline, match="given up"):
            await line.run("later", lambda _: None, 1.0)
        await line.close()
        assert not line.is_open
        go.set()  # the thread comes back, closes the link and ends

    with no_leaks():
        asyncio.run(main())


def test_a_process_that_a_link_starts_has_time_of_its_own() -> None:
    async def main() -> None:
        clock = FakeClock()
        opening, go = threading.Event(), threading.Event()

        class Starts(ReplayLink):
            start_time = 3.0

            def open(self, timeout: float) -> None:
                opening.set()
                go.wait(PATIENCE_S)
                super().open(timeout)

        line = bus(Starts([]), clock)
        task = asyncio.create_task(line.open(1.0))
        await until_async(opening.is_set, "the link is being opened")
        await clock.advance(5.0)  # a link without would be given up after three
        assert not task.done()
        go.set()
        await task
        assert line.is_open
        await line.close()

    with no_leaks():
        asyncio.run(main())


def test_open_that_fails_leaves_no_thread_and_closed_means_closed() -> None:
    async def main() -> None:
        line = bus(DeadLink())
        with pytest.raises(errors.DeviceOffline, match="thing on dead:, open"):
            await line.open()
        assert not line.is_open
        await line.close()
        with pytest.raises(errors.NotOpen):
            await line.run("x", lambda _: None, 1.0)

    with no_leaks():
        asyncio.run(main())


# Reader


def test_reader_cuts_answers_whatever_the_pieces() -> None:
    class Drip(ReplayLink):
        def read(self, limit: int, timeout: float) -> bytes:
            return super().read(1, timeout)

    link = Drip([(b"?", b"one\r\ntwo\r\nABCDE")])
    reader = ByteReader(link, FakeClock())
    reader.ask(b"?", 1.0)
    assert reader.until(b"\r\n", 1.0) == b"one"
    assert reader.until(b"\r\n", 1.0) == b"two"
    assert reader.exactly(4, 1.0) == b"ABCD"
    with pytest.raises(TimedOut, match="1 of 9"):
        reader.exactly(9, 1.0)


def test_reader_refuses_an_answer_without_end() -> None:
    reader = ByteReader(ReplayLink([(b"?", b"x" * 500)]), FakeClock())
    reader.ask(b"?", 1.0)
    with pytest.raises(FrameError, match="without the end"):
        reader.until(b"\n", 1.0, limit=100)


# Serial


@pytest.fixture
def pty() -> Iterator[tuple[int, str]]:
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    try:
        os.close(master)
    except OSError:
        assert True, "closed by the test"


def test_serial_link_on_a_pty_that_has_no_modem_lines(pty: tuple[int, str]) -> None:
    master, path = pty
    link = SerialLink(path, 115200, rtscts=True)
    link.open(1.0)
    os.write(master, b"hello")
    assert link.read(100, 1.0) == b"hello"
    assert link.read(100, 0.01) == b""
    link.write(b"\x00\x0d\x0a\x11", 1.0)
    assert os.read(master, 100) == b"\x00\x0d\x0a\x11"
    os.write(master, b"old")
    link.discard()
    assert link.read(100, 0.01) == b""
    link.close()
    link.close()


def test_serial_link_is_exclusive(pty: tuple[int, str]) -> None:
    _, path = pty
    one, two = SerialLink(path), SerialLink(path)
    one.open(1.0)
    with pytest.raises(Busy):
        two.open(1.0)
    one.close()
    two.open(1.0)
    two.close()


def test_serial_link_that_is_pulled(pty: tuple[int, str]) -> None:
    master, path = pty
    link = SerialLink(path)
    link.open(1.0)
    os.close(master)
    with pytest.raises(Gone):
        link.read(1, 1.0)
    with pytest.raises(Gone):
        link.write(b"x", 1.0)
    with pytest.raises(Gone):
        link.discard()
    link.close()


def test_serial_link_that_nobody_reads_times_out(pty: tuple[int, str]) -> None:
    _, path = pty
    link = SerialLink(path)
    link.open(1.0)
    with pytest.raises(TimedOut):
        link.write(bytes(1 << 20), 0.05)
    link.close()


def test_serial_link_to_nowhere(tmp_path: Path) -> None:
    link = SerialLink(str(tmp_path / "none"))
    with pytest.raises(Gone, match="No such file"):
        link.open(1.0)
    with pytest.raises(Gone, match="not open"):
        link.read(1, 0.0)
    (tmp_path / "file").touch()
    with no_leaks(), pytest.raises(Gone):
        SerialLink(str(tmp_path / "file")).open(1.0)


def test_a_port_may_be_a_port_server() -> None:
    assert isinstance(serial_line("socket://192.0.2.1:4001"), TcpLink)
    assert serial_line("socket://192.0.2.1:4001").key == "tcp:192.0.2.1:4001"


# TCP


def test_tcp_link() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = TcpLink("127.0.0.1", server.getsockname()[1])
        link.open(1.0)
        peer, _ = server.accept()
        peer.sendall(b"abc")
        assert link.read(2, 1.0) == b"ab"
        assert link.read(2, 1.0) == b"c"
        assert link.read(2, 0.0) == b""
        link.write(b"xyz", 1.0)
        assert peer.recv(10) == b"xyz"
        with pytest.raises(TimedOut):
            link.write(bytes(1 << 26), 0.05)
        peer.close()
        with pytest.raises(Gone):
            link.read(10, 1.0)
        link.close()
        link.close()


def test_tcp_link_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with no_leaks(), pytest.raises(Gone, match="refused"):
        TcpLink("127.0.0.1", port).open(1.0)


def test_an_error_that_is_kept_holds_nothing_of_the_call() -> None:
    """Errors stay in status and counts; what the failed call worked on (shared memory, buffers) must not stay with them."""

    class Buffer:
        """What a call works on."""

    seen: list[weakref.ref[Buffer]] = []

    def call(_: Any) -> None:
        buffer = Buffer()
        seen.append(weakref.ref(buffer))
        try:
            raise TimedOut("inner")
        except TimedOut:
            raise Gone("outer") from None

    async def main() -> errors.DeviceError:
        line = bus(ReplayLink([]))
        await line.open()
        try:
            await line.run("op", call, 1.0)
        except errors.DeviceOffline as error:
            return error.with_traceback(None)  # the frames of this test are no part of the promise
        finally:
            await line.close()
        raise AssertionError("no error came")

    kept = asyncio.run(main())
    gc.collect()
    assert kept.operation == "op"
    assert seen[0]() is None
