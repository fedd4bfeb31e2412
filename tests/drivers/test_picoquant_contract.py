"""The contract suite for PicoQuant's instruments, against a fake of the vendor's library."""

from __future__ import annotations

from typing import Any

import pytest
from qkdd_drivers.picoquant.hydraharp.driver import HydraHarp400, PicoHarp330
from qkdd_drivers.picoquant.multiharp.driver import MultiHarp
from qkdd_drivers.picoquant.sim import HydraHarpSim, MultiHarpSim, PicoHarpSim
from qkdd_drivers.s15_tdc1.sim import PoissonClicks
from qkdd_drivers.worker_tagger import WorkerTagger

from qkdd.testing.contract import DriverContract, SimulatorLike


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging library is found out sooner than a real instrument would need to open."""
    monkeypatch.setattr(WorkerTagger, "open_time", 3.0)
    monkeypatch.setattr(WorkerTagger, "answer_time", 1.0)


class TestMultiHarp(DriverContract):
    driver = MultiHarp
    driver_name = "picoquant_multiharp"

    def simulator(self) -> SimulatorLike:
        return MultiHarpSim(PoissonClicks(2000, 1))

    async def exercise(self, driver: Any) -> None:
        await driver.set("threshold", -0.05)
        assert len(await driver.get("count_rate")) == driver.inputs
        await driver.start()
        seen = 0
        for _ in range(40):
            seen += len(await driver.read())
            if seen > 20:
                break
        assert seen > 20
        await driver.ping()
        await driver.stop()
        await driver.ping()


class TestHydraHarp(TestMultiHarp):
    driver = HydraHarp400
    driver_name = "picoquant_hydraharp400"

    def simulator(self) -> SimulatorLike:
        return HydraHarpSim(PoissonClicks(2000, 1))


class TestPicoHarp(TestMultiHarp):
    driver = PicoHarp330
    driver_name = "picoquant_picoharp330"

    def simulator(self) -> SimulatorLike:
        return PicoHarpSim(PoissonClicks(2000, 1))
