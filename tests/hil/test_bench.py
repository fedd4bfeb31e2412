"""The bench as a process: it says where it listens, its instruments speak, its knobs turn, it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from qkdd_hil.bench.config import BenchConfig
from qkdd_hil.demo import toml

from qkdd.core import config as configuration
from qkdd.testing.patience import PATIENCE_S


class RunningBench:
    def __init__(self, folder: Path) -> None:
        self.control = folder / "b.sock"
        sides = {
            side: {
                "tagger": folder / f"{side}-t",
                "polarization": folder / f"{side}-p",
                "detectors_host": host,
                "detectors_ports": (0, 0),
            }
            for side, host in (("alice", "127.0.0.1"), ("bob", "127.0.0.2"))
        }
        config = folder / "bench.toml"
        config.write_text(toml.dumps({"seed": 3, "control": self.control, **sides}))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qkdd_hil.bench", "--config", str(config)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.addresses: dict[str, Any] = json.loads(self.process.stdout.readline())

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        async def talk() -> tuple[int, Any]:
            connector = aiohttp.UnixConnector(str(self.control))
            async with aiohttp.ClientSession("http://bench", connector=connector) as session:
                call = session.get(path) if body is None else session.post(path, json=body)
                async with call as answer:
                    return answer.status, await answer.json() if answer.status == 200 else await answer.text()

        return asyncio.run(talk())

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[RunningBench]:
    running = RunningBench(tmp_path)
    yield running
    if running.process.poll() is None:
        running.end()


def read(fd: int, enough: int, seconds: float = PATIENCE_S) -> bytes:
    data, deadline = b"", time.monotonic() + seconds
    while len(data) < enough and time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            data += os.read(fd, 65536)
    return data


@pytest.mark.parametrize("side", ["alice", "bob"])
def test_the_taggers_speak_tdc1_and_stream_clicks(bench: RunningBench, side: str) -> None:
    fd = os.open(bench.addresses[side]["tagger"]["port"], os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(fd)
        os.write(fd, b"*IDN?\r\n")
        assert b"TDC1" in read(fd, 6)
        os.write(fd, b"INPKT;time 0;timestamp;counts?;")
        data = read(fd, 4 * 40_000)
        os.write(fd, b"abort;")
    finally:
        os.close(fd)
    words = np.frombuffer(data[: len(data) // 4 * 4], dtype="<u4")
    ticks = words[(words & 16) == 0] >> 5
    assert len(ticks) >= 40_000
    seconds = float(((int(ticks[-1]) - int(ticks[0])) % 2**27) * 2e-9)
    assert len(ticks) / seconds == pytest.approx(4e5, rel=0.05)


def test_a_bias_over_the_wire_changes_the_counts(bench: RunningBench) -> None:
    where = bench.addresses["bob"]["detectors"]
    control, counts = (socket.create_connection((where["host"], p), PATIENCE_S) for p in where["tcp_ports"])
    with control, counts, counts.makefile("r") as lines:
        before = [float(x) for x in lines.readline().split(",")[1:]]
        control.sendall(b'{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[20,20,20,0]}')
        deadline = time.monotonic() + PATIENCE_S
        after = before
        while after[3] > 0 and time.monotonic() < deadline:
            after = [float(x) for x in lines.readline().split(",")[1:]]
    assert before[3] > 1000
    assert after[3] == 0
    assert after[0] > 1000


def test_settings_and_faults_over_the_control_socket(bench: RunningBench) -> None:
    _, state = bench.ask("/v1/bench")
    assert 0.014 < state["expected"]["qber"] < 0.018, (
        "aligned at the start with the paddles where the simulators have them"
    )
    assert bench.ask("/v1/line", {"eve": 0.3})[1]["expected"]["qber"] > 0.08
    assert bench.ask("/v1/line", {"eve": 0.0, "source_on": False})[1]["expected"]["sifted_rate"] < 10
    _, state = bench.ask("/v1/line", {"source_on": True})
    _, turned = bench.ask("/v1/side/bob", {"rotation": [0.0, 0.0, 0.5], "dark_factor": 3.0})
    assert turned["expected"]["qber"] > state["expected"]["qber"] + 0.03
    assert bench.ask("/v1/line", {"eve": 1.5})[0] == 400
    assert bench.ask("/v1/line", {"evil": 1})[0] == 400
    assert bench.ask("/v1/side/carol", {})[0] == 404
    assert bench.ask("/v1/fault", {"instrument": "alice.tagger", "fault": "melt"})[0] == 400
    port = Path(bench.addresses["alice"]["tagger"]["port"])
    assert bench.ask("/v1/fault", {"instrument": "alice.tagger", "fault": "unplug"})[0] == 200
    assert not port.exists()
    assert bench.ask("/v1/fault", {"instrument": "alice.tagger", "fault": "plug"})[0] == 200
    assert port.exists()


def test_sigterm_ends_it_and_leaves_no_socket_and_no_pty(bench: RunningBench) -> None:
    ports = [Path(bench.addresses[s][k]["port"]) for s in ("alice", "bob") for k in ("tagger", "polarization")]
    assert all(p.exists() for p in ports)
    assert bench.control.stat().st_mode & 0o077 == 0
    assert bench.end() == 0
    assert not bench.control.exists()
    assert not any(p.is_symlink() for p in ports)


def test_a_bench_file_with_units_is_read_and_nonsense_refused() -> None:
    text = '[line.source]\npair_rate = "500 kHz"\n[line.alice.clock]\noffset = "300 ms"\n'
    assert configuration.parse(text, BenchConfig).line.source.pair_rate == 5e5
    with pytest.raises(configuration.ConfigRefused, match=r"line\.alice\.clock\.offset"):
        configuration.parse(text.replace("300 ms", "3 s"), BenchConfig)
