"""A vendor's code in a process of its own: failures, hangs, crashes, and tags through the ring."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import errors
from qkdd.device.bus import Bus
from qkdd.device.transport import (
    Busy,
    Crashed,
    Denied,
    FrameError,
    Gone,
    Hung,
    Overrun,
    Refused,
    Stranger,
    TimedOut,
    Unusable,
)
from qkdd.device.worker_link import WorkerClient, WorkerLink
from qkdd.device.worker_main import frame, unframe
from qkdd.testing.leaks import no_leaks
from qkdd.testing.patience import PATIENCE_S, until

ADAPTER = Path(__file__).with_name("toy_adapter.py")
CLOCK = SystemClock()


@contextlib.contextmanager
def worker(ring_bytes: int = 1 << 16, **options: Any) -> Any:
    """An opened link and its client; nothing may leak."""
    with no_leaks():
        link, client = WorkerLink("library:toy", ADAPTER, ring_bytes=ring_bytes), WorkerClient(CLOCK)
        link.open(PATIENCE_S)
        try:
            client.ask(link, "open", PATIENCE_S, **options)
            yield link, client
        finally:
            link.close()


def test_frames_survive_and_damage_is_seen() -> None:
    line = frame({"a": [1, "ü"]})
    assert unframe(line[:-1]) == {"a": [1, "ü"]}
    for at in range(len(line) - 1):
        broken = line[:at] + bytes([line[at] ^ 4]) + line[at + 1 : -1]
        with pytest.raises(ValueError):
            unframe(broken)


def test_a_call_goes_there_and_comes_back() -> None:
    with worker() as (link, client):
        assert client.ask(link, "echo", PATIENCE_S, value=[1, "zwei", None, 3.5]) == [1, "zwei", None, 3.5]


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("gone", Gone),
        ("busy", Busy),
        ("denied", Denied),
        ("late", TimedOut),
        ("missing", Unusable),
        ("stranger", Stranger),
        ("refused", Refused),
        ("overrun", Overrun),
        ("failed", FrameError),
    ],
)
def test_what_the_vendors_code_raises_keeps_its_meaning(kind: str, failure: type[Exception]) -> None:
    with worker() as (link, client):
        with pytest.raises(failure, match="told so"):
            client.ask(link, "fail", PATIENCE_S, kind=kind)
        assert client.ask(link, "echo", PATIENCE_S, value=1) == 1  # the process goes on
    with no_leaks():
        link, client = WorkerLink("library:toy", ADAPTER), WorkerClient(CLOCK)
        link.open(PATIENCE_S)
        with pytest.raises(failure):
            client.ask(link, "open", PATIENCE_S, fail=kind)
        link.close()


def test_a_call_that_hangs_costs_the_process_and_the_next_open_brings_a_new_one() -> None:
    with worker() as (link, client):
        first = link._child.pid
        began = time.monotonic()
        with pytest.raises(Hung, match="hang did not come back"):
            client.ask(link, "hang", 0.3)
        assert time.monotonic() - began < PATIENCE_S  # the call itself takes an hour
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)  # reaped: no zombie
        with pytest.raises(Gone, match="was killed"):
            client.ask(link, "echo", 1.0, value=1)
        link.open(PATIENCE_S)
        client.forget()
        client.ask(link, "open", PATIENCE_S)
        assert client.ask(link, "echo", PATIENCE_S, value=2) == 2


def test_a_process_that_dies_says_its_last_words() -> None:
    with worker() as (link, client), pytest.raises(Crashed, match=r"exit code 7: something broke / last words"):
        client.ask(link, "die", PATIENCE_S)


def test_a_chatty_library_blocks_nothing() -> None:
    with worker() as (link, client):
        for _ in range(30):  # three megabytes, far more than a pipe holds
            client.ask(link, "chatter", PATIENCE_S, count=1000)


def test_an_interpreter_or_adapter_that_is_not_there_is_told_with_a_remedy() -> None:
    with no_leaks():
        link = WorkerLink("python:none", ADAPTER, python="/nonexistent/python")
        with pytest.raises(Unusable, match="cannot be run"):
            link.open(PATIENCE_S)
        link.close()


def test_closing_lets_the_instrument_go(tmp_path: Path) -> None:
    with worker(closed=str(tmp_path / "mark")):
        pass
    assert (tmp_path / "mark").read_text() == "closed"


def test_a_worker_whose_daemon_is_gone_ends_even_if_it_hangs() -> None:
    """Its end of the control socket is all that it needs to notice."""
    with no_leaks():
        link, client = WorkerLink("library:toy", ADAPTER), WorkerClient(CLOCK)
        link.open(PATIENCE_S)
        client.ask(link, "open", PATIENCE_S)
        link.write(frame({"id": 99, "do": "hang", "with": {}}), 1.0)
        child: Any = link._child
        link._control.close()  # type: ignore[union-attr]
        child.wait(PATIENCE_S)
        assert child.ended() == 3
        link.close()


@pytest.mark.parametrize(("step", "limit"), [(1, 300), (70, 20_000), (1000, 100_000)])
def test_tags_come_whole_and_in_order_over_many_laps_of_the_ring(step: int, limit: int) -> None:
    with worker(ring_bytes=1 << 14) as (link, client):
        client.begin()
        link.fresh()
        client.ask(link, "begin", PATIENCE_S, limit=limit, step=step)
        seen: list[np.ndarray[Any, Any]] = []
        count = 0
        end = time.monotonic() + PATIENCE_S
        while count < limit and time.monotonic() < end:
            view = link.tags(0.1)
            assert len(view) % 4 == 0
            take = view[: 4 * max(1, len(view) // 8)] if count % 3 else view  # now and then a part only
            seen.append(take.view(np.uint32).copy())
            count += len(take) // 4
            link.free(len(take))
        assert np.array_equal(np.concatenate(seen), np.arange(limit))
        assert client.ask(link, "end", PATIENCE_S) == limit
        del view, take


def test_a_ring_that_is_full_holds_the_stream_back_and_loses_nothing() -> None:
    with worker(ring_bytes=1 << 14, lossy=True) as (link, client):
        client.begin()
        link.fresh()
        client.ask(link, "begin", PATIENCE_S, limit=100_000, step=500)
        for _ in range(50):
            client.ask(link, "echo", PATIENCE_S, value=0)  # commands are answered meanwhile
        assert len(link.tags(0.0)) <= 1 << 14
        until(link.lost, "records that find no room are counted")
        assert client.ask(link, "end", PATIENCE_S) <= (1 << 14) // 4
        # a second stream finds the ring empty, whatever was left of the first
        link.fresh()
        client.ask(link, "begin", PATIENCE_S, limit=10, step=10)
        view = link.tags(PATIENCE_S)
        assert list(view[:40].view(np.uint32)) == list(range(10))
        del view


def _listen_on(link: WorkerLink, client: WorkerClient) -> None:
    for _ in range(1000):
        link.tags(0.01)
        client.listen(link)


def test_a_stream_that_ends_by_itself_is_heard() -> None:
    with worker(stop_kind="overrun") as (link, client):
        client.begin()
        link.fresh()
        client.ask(link, "begin", PATIENCE_S, limit=0, step=1)
        with pytest.raises(Overrun, match="the stream is over"):
            _listen_on(link, client)


def test_the_bus_counts_processes_that_hung_or_died() -> None:
    async def main() -> None:
        meter = RecordingMeter()
        bus: Any = Bus(WorkerLink("library:toy", ADAPTER), "tagger", CLOCK, meter)
        for verb, kind in (("hang", errors.DeviceHung), ("die", errors.DeviceCrashed)):
            client = WorkerClient(CLOCK)
            await bus.open()
            await bus.run("open", lambda link, c=client: c.ask(link, "open", PATIENCE_S), 21.0)
            with pytest.raises(kind):
                await bus.run(verb, lambda link, c=client, v=verb: c.ask(link, v, 0.5), 1.0)
            await bus.close()
        for code in ("QKD-DEV-HUNG", "QKD-DEV-CRASHED"):
            assert meter.total("qkdd_device_process_ends_total", device="tagger", code=code) == 1

    with no_leaks():
        asyncio.run(main())
