"""The bench put together: the line and six simulators, started and stopped as one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from qkdd_drivers.s15_tdc1.sim import Tdc1Sim
from qkdd_drivers.simkit import Simulator
from qkdd_drivers.single_quantum_websq.sim import WebSqSim
from qkdd_drivers.thorlabs_mpc320.sim import Mpc320Sim

from qkdd_hil.bench.config import BenchConfig, InstrumentsConfig
from qkdd_hil.bench.control import BenchControl
from qkdd_hil.bench.wiring import DetectorArray, Paddles
from qkdd_hil.physics import QuantumLine
from qkdd_hil.physics.line import SideName

SIDES: tuple[SideName, SideName] = ("alice", "bob")


class Rig:
    """One bench. Use as an async context manager: inside, everything listens; `addresses` says where."""

    def __init__(self, config: BenchConfig) -> None:
        self._config = config
        self.line = QuantumLine(config.line, config.seed)
        self.line.setting.eve = float(config.eve)
        self.instruments: dict[str, Simulator] = {}
        for number, side in enumerate(SIDES):
            self._build(side, config.alice if side == "alice" else config.bob, config.seed + 100 * (number + 1))
        self.addresses: dict[str, Any] = {}
        self._stack = AsyncExitStack()

    def _build(self, side: SideName, where: InstrumentsConfig, seed: int) -> None:
        clicks = self.line.alice if side == "alice" else self.line.bob
        control, counts = where.detectors_ports
        self.instruments |= {
            f"{side}.tagger": Tdc1Sim(clicks, seed=seed, pty=where.tagger or None),
            f"{side}.detectors": WebSqSim(
                DetectorArray(self.line, side, seed + 1),
                host=where.detectors_host,
                port=control,
                counts_port=counts,
                seed=seed,
            ),
            f"{side}.polarization": Mpc320Sim(Paddles(self.line, side).move, seed=seed, pty=where.polarization or None),
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
