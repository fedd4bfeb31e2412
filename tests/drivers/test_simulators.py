"""The simulators by raw bytes, as a program that is not ours sees them, and in a process of their own."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import serial
from qkdd_drivers import sim_cli
from qkdd_drivers.s15_tdc1.sim import PoissonClicks, Tdc1Sim
from qkdd_drivers.simkit import Address
from typer.testing import CliRunner

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, TagBlock, TimeTagger, build
from qkdd.testing.leaks import no_leaks
from qkdd.testing.patience import PATIENCE_S


def spawn(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, object]]:
    command = [sys.executable, "-c", "from qkdd_drivers.sim_cli import main; main()", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_tdc1_in_a_process_of_its_own_speaks_to_a_plain_serial_program(tmp_path: Path) -> None:
    path = tmp_path / "tdc1"
    process, where = spawn("tdc1", "--pty", str(path), "--seed", "7", "--rate", "20000")
    try:
        assert where == {"model": "tdc1", "port": str(path)}
        assert path.is_symlink()
        with serial.Serial(str(path), 115200, timeout=PATIENCE_S) as port:
            port.write(b"*idn?;")  # `;` alone executes, case does not matter
            assert b"TDC1" in port.readline()
            for mode, number in ((b"singles", b"0"), (b"pairs", b"1"), (b"timestamp", b"3")):
                port.write(mode + b";mode?\r\n")
                assert port.readline() == number + b"\r\n"
            port.write(b"time 40000;time?\r\n")
            assert port.readline() == b"-25536\r\n"
            port.write(b"singles;time 100;counts?\r\n")
            counts = [int(n) for n in port.readline().split()]
            assert len(counts) == 4
            assert 1500 < sum(counts) < 2500
            port.write(b"pairs;counts?\r\n")
            assert len(port.readline().split()) == 8
            port.write(b"NIM;level?;REFCLK 1;REFCLK?\r\n")
            assert port.readline().startswith(b"-0.5")
            assert port.readline() == b"1\r\n"
            port.write(b"INPKT;time 0;timestamp;counts?;\r\n")
            words = np.frombuffer(port.read(4000), "<u4")
            port.write(b"abort\r\n")
        ticks = words >> 5
        assert np.all(np.diff(ticks.astype(np.int64)) % 2**27 < 2**25)
        assert np.all(words & 0x1F != 0)
    finally:
        end(process)
    assert not path.is_symlink()


def test_mpc320_by_raw_frames() -> None:
    process, where = spawn("mpc320", "--listen", "127.0.0.1:0")
    try:
        with socket.create_connection(("127.0.0.1", where["tcp_ports"][0]), 5) as line:  # type: ignore[index]
            file = line.makefile("rwb", 0)
            file.write(bytes.fromhex("050000005001"))
            assert file.read(6) == bytes.fromhex("060054008150")
            info = file.read(84)
            assert info[4:10] == b"MPC320"
            file.write(bytes.fromhex("100207015001"))  # enable all: answered with a status
            assert file.read(6) == bytes.fromhex("91040e008150")
            file.read(14)
            file.write(bytes.fromhex("53040600d001") + struct.pack("<Hi", 4, 100))
            assert file.read(6) == bytes.fromhex("640404000150")  # MOVE_COMPLETED, short form
            file.write(bytes.fromhex("900404005001"))
            file.read(6)
            channel, position, _, _, bits = struct.unpack("<HihhI", file.read(14))
            assert (channel, position) == (4, 100)
            assert bits & 1 << 31
            file.write(bytes.fromhex("430404005001"))
            assert file.read(6) == bytes.fromhex("440404000150")
            file.write(bytes.fromhex("310500005001"))
            assert file.read(6) == bytes.fromhex("32050c008150")
            assert struct.unpack("<6H", file.read(12))[1:3] == (50, 685)
            file.close()
    finally:
        end(process)


def test_websq_by_raw_json() -> None:
    process, where = spawn("websq", "--listen", "127.0.0.1:0", "--counts-port", "0", "--detectors", "3")
    try:
        control_port, counts_port = where["tcp_ports"]  # type: ignore[misc]
        with (
            socket.create_connection(("127.0.0.1", control_port), 5) as control,
            socket.create_connection(("127.0.0.1", counts_port), 5) as counts,
        ):
            control.sendall(
                b'{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[1,2,3]}{"request":"labelProps","value":"None"}'
            )
            data = b""
            while data.count(b"\x17") < 10:
                data += control.recv(4096)
            messages = [json.loads(part) for part in data.split(b"\x17") if part]
            assert messages[0] == {"label": "BiasCurrent", "value": [1, 2, 3]}
            props = {m["label"]: m["value"]["value"] for m in messages if isinstance(m["value"], dict)}
            assert props["NumberOfDetectors"] == 3
            assert props["BiasCurrent"] == [1, 2, 3]
            control.sendall(
                b'{"request":"BiasVoltage"}{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[1]}'
            )
            answer = b""
            while answer.count(b"\x17") < 2:
                answer += control.recv(4096)
            assert json.loads(answer.split(b"\x17")[0])["label"] == "BiasVoltage"
            assert "Error" in json.loads(answer.split(b"\x17")[1])["label"]
            line = counts.makefile("rb").readline().split(b",")
            assert len(line) == 4
            assert abs(float(line[0]) - time.time()) < 30
    finally:
        end(process)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tdc1", "--listen", "nowhere"],
        ["tdc1", "--listen", "127.0.0.1:0", "--pty", "x"],
        ["tdc1", "--fault", "slip"],
        ["tdc1", "--fault", "slip@soon"],
        ["tdc1", "--fault", "explode@1"],
        ["websq", "--detectors", "0"],
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(sim_cli.app, arguments)
    assert result.exit_code == 2


def test_fault_syntax() -> None:
    assert sim_cli.parse_fault("slip:bytes=3@1.5") == (1.5, "slip", {"bytes": 3.0})
    assert sim_cli.parse_fault("unplug@0") == (0.0, "unplug", {})


def test_a_planned_fault_happens(tmp_path: Path) -> None:
    path = tmp_path / "p"
    process, _ = spawn("tdc1", "--pty", str(path), "--fault", "unplug@0.3", "--fault", "plug@1.0")
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        poll = select.poll()
        poll.register(fd, select.POLLHUP)
        assert poll.poll(PATIENCE_S * 1000)
        os.close(fd)
        deadline = time.monotonic() + PATIENCE_S
        while not path.is_symlink() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.is_symlink()
    finally:
        end(process)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulator that a busy machine holds up is not dead."""
    monkeypatch.setattr("qkdd_drivers.s15_tdc1.driver._SILENCE", PATIENCE_S)


async def stream(
    sim: Tdc1Sim, address: Address, enough: Callable[[list[TagBlock]], bool], between: Callable[[], None] | None = None
) -> list[TagBlock]:
    """Blocks of a stream until there are enough; `between` is done once, after the ninth."""
    driver = build("t", DeviceConfig(driver="s15_tdc1", port=address.port), SystemClock(), RecordingMeter())
    assert isinstance(driver, TimeTagger)
    blocks: list[TagBlock] = []
    async with driver, asyncio.timeout(PATIENCE_S):
        await driver.start()
        while between is not None or not enough(blocks):
            blocks.append(await driver.read())
            if between is not None and len(blocks) > 8:
                between()
                between = None
    return blocks


def test_a_host_that_does_not_read_loses_tags_and_hears_of_it() -> None:
    """The FIFO is finite: while nothing is fetched from it, clicks are lost; the driver says so."""

    def heard(blocks: list[TagBlock]) -> bool:
        return any(b.faults for b in blocks[:-20])

    async def share() -> float:
        """What the driver reported of what was lost."""
        sim = Tdc1Sim(PoissonClicks(200_000, 3), fifo_words=4096)
        address = await sim.start()
        try:
            blocks = await stream(sim, address, heard, lambda: sim.inject("deaf", seconds=0.2))
        finally:
            await sim.stop()
        assert sim.words_lost > 5000
        reported = [b for b in blocks if "QKD-DEV-TAGS-LOST" in b.faults]
        # on a busy machine the small FIFO may run over once more: each time is reported
        assert reported
        found = np.concatenate([b.times for b in blocks])
        assert np.all(np.diff(found) >= 0)
        return sum(b.lost for b in reported) / sim.words_lost

    with no_leaks():
        # what was lost is told from the gap and the rate, which a busy machine blurs, and what is lost while the stream is
        # being ended is heard by nobody: the fact is sure, the number an estimate, so it gets some tries
        assert any(0.7 < asyncio.run(share()) < 1.2 for _ in range(10))


def test_what_was_not_read_in_time_is_kept_by_a_fifo_that_is_large_enough() -> None:
    async def main() -> None:
        sim = Tdc1Sim(PoissonClicks(200_000, 3), fifo_words=1 << 23)  # forty seconds: enough on any machine
        address = await sim.start()
        try:
            blocks = await stream(sim, address, lambda b: len(b) > 20, lambda: sim.inject("deaf", seconds=0.1))
        finally:
            await sim.stop()
        assert sim.words_lost == 0
        assert not any(b.faults for b in blocks)

    with no_leaks():
        asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "arguments", "code"),
    [
        ("slip", {"bytes": 2}, "QKD-DEV-TAGS-SLIPPED"),
        ("garbage", {"bytes": 37}, "QKD-DEV-TAGS-SLIPPED"),
        ("lose", {"words": 5000}, "QKD-DEV-TAGS-LOST"),
    ],
)
def test_faults_of_the_stream_are_reported_and_pass(fault: str, arguments: dict[str, float], code: str) -> None:
    async def main() -> None:
        sim = Tdc1Sim(PoissonClicks(100_000, 3), fifo_words=1 << 22)
        address = await sim.start()

        def reported_and_passed(blocks: list[TagBlock]) -> bool:
            return any(code in b.faults for b in blocks[:-5]) and all(not b.faults for b in blocks[-5:])

        try:
            blocks = await stream(sim, address, reported_and_passed, lambda: sim.inject(fault, **arguments))
        finally:
            await sim.stop()
        assert not any(b.faults for b in blocks[:8])

    with no_leaks():
        asyncio.run(main())


def test_one_million_tags_a_second_over_a_pty() -> None:
    """The TDC1 path sustains 1 Mtags/s: source, simulator, pty and driver, which share this process, need less than one
    processor's time for it. What a second of it takes on the clock is up to what else the machine does."""

    class Grid:
        """As cheap as a source can be: evenly spaced clicks."""

        def clicks(self, start_ps: int, stop_ps: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
            times = np.arange(-(-start_ps // 10**6), -(-stop_ps // 10**6), dtype=np.int64) * 10**6
            return times, (times // 10**6 & 3).astype(np.uint8)

    async def main() -> None:
        sim = Tdc1Sim(Grid(), fifo_words=1 << 24)
        address = await sim.start()
        began = time.process_time()
        try:
            blocks = await stream(sim, address, lambda b: bool(b) and b[-1].until > 1.5e12)
        finally:
            await sim.stop()
        seconds = blocks[-1].until * 1e-12
        assert sum(len(b) for b in blocks) / seconds == pytest.approx(1e6, rel=1e-3)
        assert time.process_time() - began < seconds
        assert sim.words_lost == 0
        assert not any(b.faults for b in blocks)

    asyncio.run(main())
