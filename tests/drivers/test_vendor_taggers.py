"""The contract suite for taggers behind a vendor's library or package, against fakes of that code."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from qkdd_drivers.id900.driver import Id900
from qkdd_drivers.id900.sim import Id900Sim
from qkdd_drivers.picoquant.hydraharp.driver import HydraHarp400, PicoHarp330
from qkdd_drivers.picoquant.multiharp.driver import MultiHarp
from qkdd_drivers.picoquant.sim import HydraHarpSim, MultiHarpSim, PicoHarpSim
from qkdd_drivers.qutag.driver import QuTag
from qkdd_drivers.qutag.sim import QuTagSim
from qkdd_drivers.s15_tdc1.sim import PoissonClicks
from qkdd_drivers.swabian.driver import TimeTaggerDriver
from qkdd_drivers.swabian.sim import SwabianSim

from qkdd.testing.contract import DriverContract, SimulatorLike

HURRIED = {"open_time": 0.5, "answer_time": 0.3, "silence": 0.5}


class TestMultiHarp(DriverContract):
    hurried: ClassVar[dict[str, float]] = HURRIED
    driver = MultiHarp
    driver_name = "picoquant_multiharp"

    def simulator(self) -> SimulatorLike:
        return MultiHarpSim(PoissonClicks(2000, 1))

    async def exercise(self, driver: Any) -> None:
        await driver.set("threshold", -0.05)
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


@pytest.mark.slow  # the same code as the MultiHarp's, with another table
class TestHydraHarp(TestMultiHarp):
    driver = HydraHarp400
    driver_name = "picoquant_hydraharp400"

    def simulator(self) -> SimulatorLike:
        return HydraHarpSim(PoissonClicks(2000, 1))


@pytest.mark.slow
class TestPicoHarp(TestMultiHarp):
    driver = PicoHarp330
    driver_name = "picoquant_picoharp330"

    def simulator(self) -> SimulatorLike:
        return PicoHarpSim(PoissonClicks(2000, 1))


class TestSwabian(TestMultiHarp):
    driver = TimeTaggerDriver
    driver_name = "swabian_timetagger"
    # the edge is a choice of ours that no instrument can refuse
    free_fields = frozenset({"edge"})

    def simulator(self) -> SimulatorLike:
        return SwabianSim(PoissonClicks(2000, 1))


class TestQuTag(TestMultiHarp):
    driver = QuTag
    driver_name = "qutools_qutag"

    def simulator(self) -> SimulatorLike:
        return QuTagSim(PoissonClicks(2000, 1))


class TestId900(TestMultiHarp):
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35}
    driver = Id900
    driver_name = "idq_id900"
    harmless_faults = {"late": {"seconds": 0.02}}  # some seventy commands, each so much later

    def simulator(self) -> SimulatorLike:
        return Id900Sim(PoissonClicks(2000, 1))
