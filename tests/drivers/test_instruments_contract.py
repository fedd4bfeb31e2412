"""The contract suite for the instruments that only speak when asked, against their simulators."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from qkdd_drivers.agiltron_ff.driver import Ff1x4, Ff1x8
from qkdd_drivers.agiltron_ff.sim import FfSim
from qkdd_drivers.dialogue import DialogueDriver
from qkdd_drivers.ozoptics_dd100.driver import Dd100
from qkdd_drivers.ozoptics_dd100.sim import Dd100Sim
from qkdd_drivers.ozoptics_epc400.driver import Epc400
from qkdd_drivers.ozoptics_epc400.sim import Epc400Sim
from qkdd_drivers.srs_fs725.driver import Fs725
from qkdd_drivers.srs_fs725.sim import Fs725Sim
from qkdd_drivers.thorlabs_ell14.driver import Ell14
from qkdd_drivers.thorlabs_ell14.sim import Ell14Sim
from qkdd_drivers.thorlabs_osw.driver import Osw
from qkdd_drivers.thorlabs_osw.sim import OswSim

from qkdd.device import errors
from qkdd.testing.contract import DriverContract, SimulatorLike


class _Quick(DriverContract):
    __test__ = False
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35}

    def test_its_readme_names_every_field(self) -> None:
        readme = (Path(__file__).parents[2] / "drivers/qkdd_drivers" / self.driver_name / "README.md").read_text(
            "utf-8"
        )
        assert not [name for name in self.driver.fields if f"`{name}`" not in readme]
        assert issubclass(self.driver, DialogueDriver)


class TestEpc400(_Quick):
    __test__ = True
    driver = Epc400
    driver_name = "ozoptics_epc400"

    def simulator(self) -> SimulatorLike:
        return Epc400Sim()

    async def exercise(self, driver: Any) -> None:
        assert await driver.move(2, -1.25) == pytest.approx(-1.25)
        assert (await driver.settings())[2] == pytest.approx(-1.25)
        assert await driver.set("frequency", 7.0) == (7.0,) * 4

    def test_closing_holds_the_voltages_or_not_as_configured(self) -> None:
        seen: list[tuple[float, ...]] = []

        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, settings={"voltage": "2 V"}):
                pass
            assert seen[-1] == (2.0,) * 4
            async with self.make(address, settings={"on_close": "zero"}):
                pass
            assert seen[-1] == (0.0,) * 4

        self.simulator = lambda: Epc400Sim(seen.append, echo=True)  # type: ignore[method-assign]
        self.run(scene)


class TestDd100(_Quick):
    __test__ = True
    driver = Dd100
    driver_name = "ozoptics_dd100"
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35, "move_time": 0.4, "home_time": 0.6}

    def simulator(self) -> SimulatorLike:
        return Dd100Sim()

    async def exercise(self, driver: Any) -> None:
        assert driver.attenuation_range == (1.2, 60.0)
        assert await driver.set_attenuation(33.3) == pytest.approx(33.3)

    def test_it_closes_dark_and_homes_only_when_told(self) -> None:
        seen: list[float] = []

        async def scene(_: Any, address: Any) -> None:
            async with self.make(address) as driver:
                assert await driver.get("homed") == (False,)
                with pytest.raises(errors.CommandRefused, match="homed"):
                    await driver.set("attenuation", 10.0)
                assert not seen
                await driver.set("homing", True)
                assert await driver.get("homed") == (True,)
                assert await driver.set("attenuation", 10.0) == (10.0,)
            assert seen == [1.2, 60.0, 10.0, 60.0]

        self.simulator = lambda: Dd100Sim(seen.append, homed=False)  # type: ignore[method-assign]
        self.run(scene)


class TestEll14(_Quick):
    __test__ = True
    driver = Ell14
    driver_name = "thorlabs_ell14"
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35, "move_time": 0.6, "scan_time": 0.02}

    def simulator(self) -> SimulatorLike:
        return Ell14Sim(turn_s=0.1)

    async def exercise(self, driver: Any) -> None:
        assert await driver.rotate(1.5) == pytest.approx(1.5, abs=1e-4)
        assert await driver.read_angle() == pytest.approx(1.5, abs=1e-4)

    def test_it_is_found_at_another_address_and_homes_when_told(self) -> None:
        seen: list[int] = []

        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, serial_number="11400123", settings={"homing": True, "angle": "90 deg"}):
                assert seen == [0, 35840]

        self.simulator = lambda: Ell14Sim(seen.append, turn_s=0.1, address="B")  # type: ignore[method-assign]
        self.run(scene)


class TestFf1x4(_Quick):
    __test__ = True
    driver = Ff1x4
    driver_name = "agiltron_ff"

    def simulator(self) -> SimulatorLike:
        return FfSim()

    async def exercise(self, driver: Any) -> None:
        assert await driver.select(3) == 3
        assert await driver.select(2) == 2
        with pytest.raises(ValueError, match="1 to 4"):
            await driver.select(5)

    def test_it_closes_to_the_configured_output_and_knows_eight(self) -> None:
        seen: list[int] = []

        async def scene(_: Any, address: Any) -> None:
            eight = type(self)()
            eight.driver = Ff1x8  # type: ignore[misc]
            async with eight.make(address, settings={"on_close": "8"}) as driver:
                assert await driver.set("channel", "7") == ("7",)
            assert seen == [7, 8]
            with pytest.raises(errors.WrongDevice):  # output 8 is none of a 1x4
                await self.make(address).open()

        self.simulator = lambda: FfSim(seen.append, channels=8)  # type: ignore[method-assign]
        self.run(scene)


class TestOsw(_Quick):
    __test__ = True
    driver = Osw
    driver_name = "thorlabs_osw"
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35, "switch_time": 0.4}

    def simulator(self) -> SimulatorLike:
        return OswSim()

    async def exercise(self, driver: Any) -> None:
        assert await driver.select(2) == 2
        assert await driver.get("path") == ("cross",)
        assert await driver.set("path", "bar") == ("bar",)

    def test_it_closes_to_the_configured_path(self) -> None:
        seen: list[int] = []

        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, settings={"on_close": "cross"}) as driver:
                assert driver.identity.firmware == "1.30"
                assert not seen
            assert seen == [2]

        self.simulator = lambda: OswSim(seen.append)  # type: ignore[method-assign]
        self.run(scene)


class TestFs725(_Quick):
    __test__ = True
    driver = Fs725
    driver_name = "srs_fs725"

    def simulator(self) -> SimulatorLike:
        return Fs725Sim(line_end="\r\n")

    async def exercise(self, driver: Any) -> None:
        assert await driver.is_locked()
        assert await driver.set("pulse_lock", False) == (False,)

    def test_a_cold_clock_is_not_locked(self) -> None:
        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, serial_number="72512") as driver:
                assert await driver.get("locked") == (False,)

        self.simulator = lambda: Fs725Sim(lock_s=60.0)  # type: ignore[method-assign]
        self.run(scene)
