"""The prepare-and-measure bench as a process, reached through a node's drivers with the demonstration's own files."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
from qkdd_hil.demo.layout import Layout
from qkdd_hil.demo.options import Options
from qkdd_hil.demo.variants import choose
from qkdd_hil.physics import PulsedLine, PulsedParameters

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.units import dec_hook
from qkdd.device import build
from qkdd.device.config import DeviceConfig

OPTIONS = Options(protocol="decoy_bb84", pulse_rate=2e6)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.layout = Layout.make(dataclasses.replace(OPTIONS, directory=folder / "run"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qkdd_hil.bench", "--config", str(self.layout.write_bench(OPTIONS))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.addresses: dict[str, Any] = json.loads(self.process.stdout.readline())

    def driver(self, side: str, name: str) -> Any:
        tree = tomllib.loads(self.layout.write_node(side, self.addresses[side], OPTIONS).read_text())
        config = msgspec.convert(tree["devices"][name], DeviceConfig, dec_hook=dec_hook)
        return build(name, config, SystemClock(), RecordingMeter())

    async def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(str(self.layout.control_socket("bench")))
        async with aiohttp.ClientSession("http://bench", connector=connector) as session:
            call = session.get(path) if body is None else session.post(path, json=body)
            async with call as answer:
                return answer.status, await answer.json() if answer.status == 200 else await answer.text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    running = Bench(tmp_path)
    yield running
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert running.process.stdout is not None
    running.process.stdout.close()


async def symbols_and_clicks(board: Any, tagger: Any, seconds: float) -> tuple[int, int]:
    """(pulses with a symbol, clicks) in about the same `seconds`."""
    pulses = clicks = 0

    async def send() -> None:
        nonlocal pulses
        while pulses < seconds * 2e6:
            for block in await board.read_symbols():
                pulses += len(block.bit)
                assert block.lost == 0

    async def receive() -> None:
        nonlocal clicks
        end = (await tagger.read()).until + seconds * 1e12
        while (block := await tagger.read()).until < end:
            clicks += len(block.times)

    await asyncio.gather(send(), receive())
    return pulses, clicks


def test_a_nodes_drivers_see_the_light_that_the_registers_ask_for(bench: Bench) -> None:
    async def main() -> None:
        board, tagger = bench.driver("alice", "board"), bench.driver("bob", "tagger")
        await board.open()
        await tagger.open()
        try:
            assert (await board.get("laser"))[0] is True
            await board.prepare(0.2, (0.3, 0.5, 0.2))
            await tagger.start()
            await board.start_symbols(on_demand=False)
            await symbols_and_clicks(board, tagger, 0.5)  # both are under way
            _, clicks = await symbols_and_clicks(board, tagger, 2.0)
            line = PulsedLine(PulsedParameters(), OPTIONS.seed)
            line.setting.intensities = (0.56, 0.22, 0.001)
            rate = line.expected(100e-9, 2e6).click_rate((0.3, 0.5, 0.2), 0.2)
            assert clicks == pytest.approx(2.0 * rate, rel=0.1)  # read to within a block of 100 ms
            status, state = await bench.ask("/v1/bench")
            assert status == 200
            assert sum(state["expected"]["counts_bob"]) == pytest.approx(rate, rel=0.1)
            await board.set("attenuation", 20.0)
            await symbols_and_clicks(board, tagger, 0.6)
            _, dim = await symbols_and_clicks(board, tagger, 0.5)
            assert dim < 0.1 * rate
            await board.stop_symbols()
        finally:
            await tagger.close()
            await board.close()

    asyncio.run(main())


def test_the_control_socket_turns_the_adversary_and_knows_what_is_there(bench: Bench) -> None:
    async def main() -> None:
        status, state = await bench.ask("/v1/line", {"pns": True, "eve": 0.25})
        assert (status, state["setting"]["pns"], state["setting"]["eve"]) == (200, True, 0.25)
        assert (await bench.ask("/v1/side/alice", {"transmission": 0.5}))[0] == 404
        assert (await bench.ask("/v1/side/bob", {"transmission": 0.5}))[0] == 200
        assert (await bench.ask("/v1/fault", {"instrument": "alice.tagger", "fault": "unplug"}))[0] == 400
        for fault in ("unplug", "plug"):
            assert (await bench.ask("/v1/fault", {"instrument": "alice.board", "fault": fault}))[0] == 200

    asyncio.run(main())


def test_the_outlook_of_each_adversary() -> None:
    plain = choose(Options(protocol="decoy_bb84")).outlook()
    assert (plain.promised, plain.forbidden) == (True, False)
    assert plain.qber == pytest.approx(0.013, abs=0.001)
    assert 20_000 < (plain.secret_bits_per_s or 0) < 40_000  # the scale: 2e5 to 4e5 bits in 10 s
    assert [round(k.mu, 3) for k in plain.intensities] == [0.56, 0.22, 0.001]
    for options in (Options(protocol="decoy_bb84", adversary="pns"), Options(protocol="decoy_bb84", eve=1.0)):
        assert choose(options).outlook().forbidden
    assert Options(adversary="pns").problem() is not None
    assert Options(protocol="decoy_bb84", adversary="pns", eve=0.5).problem() is not None
    assert Options(adversary="intercept").intercepted == 1.0
    assert np.isclose(choose(Options(adversary="intercept")).outlook().qber, 0.25 + 0.5 * 0.016, atol=0.01)
