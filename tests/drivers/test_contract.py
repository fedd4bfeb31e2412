"""The contract suite for our drivers, against their simulators."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from qkdd_drivers.s15_tdc1.driver import Tdc1
from qkdd_drivers.s15_tdc1.sim import PoissonClicks, Tdc1Sim
from qkdd_drivers.simkit import Address
from qkdd_drivers.single_quantum_websq.driver import WebSq
from qkdd_drivers.single_quantum_websq.sim import SteadyBench, WebSqSim
from qkdd_drivers.thorlabs_mpc320.driver import Mpc320
from qkdd_drivers.thorlabs_mpc320.sim import Mpc320Sim

from qkdd.testing.contract import DriverContract, SimulatorLike
from qkdd.testing.wires import Slow


class TestTdc1(DriverContract):
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35}
    driver = Tdc1
    driver_name = "s15_tdc1"

    def simulator(self) -> SimulatorLike:
        return Tdc1Sim(PoissonClicks(2000, 1))

    async def exercise(self, driver: Any) -> None:
        assert len(await driver.set("integration_time", 0.05)) == 1
        assert len(await driver.get("counts")) == 4
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


def test_a_port_server_is_as_good_as_a_port() -> None:
    """port = "socket://host:port"."""

    async def scene(_: Any, address: Any) -> None:
        port = f"socket://{address.host}:{address.tcp_ports[0]}"
        assert await suite.attempt(suite.make(Address("tdc1", port=port), Slow)) is None

    suite = TestTdc1()
    suite.simulator = lambda: Tdc1Sim(PoissonClicks(2000, 1), listen=("127.0.0.1", 0))  # type: ignore[method-assign]
    suite.run(scene)


class TestWebSq(DriverContract):
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35}
    driver = WebSq
    driver_name = "single_quantum_websq"

    def simulator(self) -> SimulatorLike:
        return WebSqSim(SteadyBench(1e4, 1), port=0, counts_port=0, period_ms=50)

    async def exercise(self, driver: Any) -> None:
        assert driver.detectors == 4
        await driver.set_enabled(True)
        assert await driver.set_bias(2, 15e-6) == pytest.approx(15e-6)
        assert (await driver.bias())[2] == pytest.approx(15e-6)
        assert len((await driver.counts()).counts) == 4


class TestMpc320(DriverContract):
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35}
    driver = Mpc320
    driver_name = "thorlabs_mpc320"

    def simulator(self) -> SimulatorLike:
        return Mpc320Sim(lambda _: None)

    async def exercise(self, driver: Any) -> None:
        target = 1.0 if abs((await driver.settings())[1] - 1.0) > 0.1 else 1.3
        assert await driver.move(1, target) == pytest.approx(target, abs=0.003)


def test_a_jammed_paddle_is_a_timeout_not_a_success() -> None:
    from qkdd.device import errors

    async def scene(simulator: Any, address: Any) -> None:
        async with suite.make(address) as driver:
            await driver.set("velocity", 1.0)
            simulator.inject("jam")
            with pytest.raises(errors.DeviceTimeout, match="stands at count"):
                await driver.move(0, 0.1)  # type: ignore[attr-defined]
            simulator.inject("clear")

    suite = TestMpc320()
    suite.run(scene)


def test_an_instrument_that_lies_about_its_bias_is_found_out() -> None:
    from qkdd.device import errors

    async def scene(simulator: Any, address: Any) -> None:
        driver: Any = suite.make(address)
        await driver.open()
        simulator.inject("lie")
        with pytest.raises(errors.CommandRefused, match="element 0"):
            await driver.set_bias(0, 5e-6)
        simulator.inject("clear")
        await driver.close()
        await asyncio.sleep(0)

    suite = TestWebSq()
    suite.run(scene)
