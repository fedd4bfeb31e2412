"""The bench put together: the line and its simulators, started and stopped as one.

Pairs: six instruments, a tagger, detectors and paddles a side (lab2: ten of other makers). Pulses: alice has a transmitter
board instead.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import msgspec
from qkdd_drivers.qkdd_board.sim import BoardSim
from qkdd_drivers.s15_tdc1.sim import Tdc1Sim
from qkdd_drivers.simkit import ClickSource, Simulator
from qkdd_drivers.single_quantum_websq.sim import WebSqSim
from qkdd_drivers.thorlabs_mpc320.sim import Mpc320Sim

from qkdd_hil.bench import lab2
from qkdd_hil.bench.config import BenchConfig, InstrumentsConfig
from qkdd_hil.bench.control import BenchControl
from qkdd_hil.bench.wiring import DetectorArray, Optics, Paddles
from qkdd_hil.physics import PulsedLine, QuantumLine

SIDES: tuple[Literal["alice"], Literal["bob"]] = ("alice", "bob")
SEED_STEP = 100  # between the sides
FIFO_WORDS = (
    1 << 20
)  # of the taggers: seconds at these rates, so that a busy machine does not lose what hardware would keep


class Rig:
    """One bench. Use as an async context manager: inside, everything listens; `addresses` says where."""

    def __init__(self, config: BenchConfig) -> None:
        self._config = config
        self.instruments: dict[str, Simulator] = {}
        self.line: QuantumLine | PulsedLine
        if config.protocol == "bbm92":
            self.line = self._pairs(config)
        else:
            self.line = self._pulses(config)
        self.line.setting.eve = float(config.eve)
        self.addresses: dict[str, Any] = {}
        self._stack = AsyncExitStack()

    def _pairs(self, config: BenchConfig) -> QuantumLine:
        line = QuantumLine(config.line, config.seed)
        alice = DetectorArray(line.setting.alice, lambda: line.count_rates("alice"), config.seed + SEED_STEP + 1)
        bob = DetectorArray(line.setting.bob, lambda: line.count_rates("bob"), config.seed + 2 * SEED_STEP + 1)
        if config.bench == "lab2":
            at_alice, at_bob = config.seed + SEED_STEP, config.seed + 2 * SEED_STEP
            self.instruments |= lab2.alice(config.alice, line.alice, alice, line.setting.alice, at_alice)
            self.instruments |= lab2.bob(config.bob, line.bob, bob, line.setting.bob, at_bob)
            return line
        self._receiver("alice", config.alice, line.alice, alice, Paddles(line.setting.alice), config.seed + SEED_STEP)
        self._receiver("bob", config.bob, line.bob, bob, Paddles(line.setting.bob), config.seed + 2 * SEED_STEP)
        return line

    def _pulses(self, config: BenchConfig) -> PulsedLine:
        line = PulsedLine(config.pulsed, config.seed)
        line.setting.pns = config.pns
        optics = Optics(line)
        host, _, port = config.alice.board.rpartition(":")
        board = BoardSim(
            listen=(host, int(port)),
            seed=config.seed + SEED_STEP,
            on_pulses=optics.pulses,
            on_stream=optics.stream,
            clock=line.board_clock,
            window=config.alice.board_window,
        )
        optics.board = board
        self.instruments["alice.board"] = board
        counts = DetectorArray(line.setting.bob, line.count_rates, config.seed + 2 * SEED_STEP + 1)
        self._receiver("bob", config.bob, line, counts, Paddles(line.setting.bob), config.seed + 2 * SEED_STEP)
        return line

    def _receiver(
        self,
        side: str,
        where: InstrumentsConfig,
        clicks: ClickSource,
        detectors: DetectorArray,
        paddles: Paddles,
        seed: int,
    ) -> None:
        control, counts = where.detectors_ports
        self.instruments |= {
            f"{side}.tagger": Tdc1Sim(clicks, seed=seed, pty=where.tagger or None, fifo_words=FIFO_WORDS),
            f"{side}.detectors": WebSqSim(
                detectors, host=where.detectors_host, port=control, counts_port=counts, seed=seed
            ),
            f"{side}.polarization": Mpc320Sim(paddles.move, seed=seed, pty=where.polarization or None),
        }

    async def __aenter__(self) -> Rig:
        async with self._stack:
            for name, instrument in self.instruments.items():
                address = await instrument.start()
                self._stack.push_async_callback(instrument.stop)
                side, kind = name.split(".")
                self.addresses.setdefault(side, {})[kind] = msgspec.to_builtins(address)
            if self._config.control:
                path = Path(self._config.control)
                control = BenchControl(path, self.line, self.instruments, lambda: self.addresses)
                await control.start()
                self._stack.push_async_callback(control.stop)
                self.addresses["control"] = str(path)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
