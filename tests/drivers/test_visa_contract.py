"""The contract suite for the SCPI, S-Fifteen and USB instruments, against their simulators."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import pytest
from qkdd_drivers.generic_scpi.attenuator.driver import GenericAttenuator
from qkdd_drivers.generic_scpi.detector.driver import GenericDetector
from qkdd_drivers.generic_scpi.sim import GenericSim
from qkdd_drivers.generic_scpi.switch.driver import GenericSwitch
from qkdd_drivers.idq_id120.driver import Id120
from qkdd_drivers.idq_id120.sim import Id120Sim
from qkdd_drivers.idq_quantis.driver import Quantis
from qkdd_drivers.idq_quantis.sim import QuantisSim
from qkdd_drivers.s15_spd.driver import Spd
from qkdd_drivers.s15_spd.sim import SpdSim
from qkdd_drivers.thorlabs_cld1015.driver import Cld1015
from qkdd_drivers.thorlabs_cld1015.sim import Cld1015Sim
from qkdd_drivers.thorlabs_pm100d.driver import Pm100d
from qkdd_drivers.thorlabs_pm100d.sim import Pm100dSim

from qkdd.device import Driver, errors
from qkdd.testing.contract import AddressLike, DriverContract, SimulatorLike

ROOT = Path(__file__).parents[2] / "drivers/qkdd_drivers"


class Quick(DriverContract):
    __test__ = False
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.35}

    def test_its_readme_names_every_field(self) -> None:
        readme = (ROOT / self.driver_name / "README.md").read_text("utf-8")
        assert not [name for name in self.driver.fields if f"`{name}`" not in readme]


class TestPm100d(Quick):
    __test__ = True
    driver = Pm100d
    driver_name = "thorlabs_pm100d"

    def simulator(self) -> SimulatorLike:
        return Pm100dSim()

    async def exercise(self, driver: Any) -> None:
        assert await driver.set_wavelength(1310e-9) == pytest.approx(1310e-9)
        assert await driver.read_power() == pytest.approx(12.5e-6, rel=0.02)

    def test_zeroing_takes_away_what_falls_on_the_sensor(self) -> None:
        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, settings={"zeroing": True}) as driver:
                assert abs((await driver.get("power"))[0]) < 1e-7  # type: ignore[arg-type]
                await driver.set("zeroing", False)

        self.run(scene)

    def other_value(self, field: Any, now: tuple[Any, ...]) -> Any:  # type: ignore[override]
        if field.unit is not None:
            return 1310e-9 if now[0] > 1.4e-6 else 1550e-9
        return super().other_value(field, now)

    def test_a_meter_that_was_left_in_decibels_answers_in_watt(self) -> None:
        async def scene(simulator: Any, address: Any) -> None:
            async with self.make(address) as driver:
                assert 1e-6 < (await driver.get("power"))[0] < 1e-4  # type: ignore[operator]
            assert simulator.answer(b"SENS:POW:UNIT?") == b"W\n"

        self.run(scene)

    def test_too_much_light_and_no_sensor_are_refused(self) -> None:
        async def scene(simulator: Any, address: Any) -> None:
            async with self.make(address) as driver:
                simulator.inject("overload")
                with pytest.raises(errors.CommandRefused, match="out of its range"):
                    await driver.get("power")

        async def without(_: Any, address: Any) -> None:
            async with self.make(address) as driver:
                assert await driver.get("sensor_name") == ("no sensor",)
                for field in ("power", "head_temperature"):
                    with pytest.raises(errors.CommandRefused, match="no sensor"):
                        await driver.get(field)

        self.run(scene)
        self.simulator = lambda: Pm100dSim(sensor=False)  # type: ignore[method-assign]
        self.run(without)


class TestCld1015(Quick):
    __test__ = True
    driver = Cld1015
    driver_name = "thorlabs_cld1015"

    def simulator(self) -> SimulatorLike:
        return Cld1015Sim(settle_s=1e-6, limit_a=1.5)

    async def exercise(self, driver: Any) -> None:
        assert driver.current_range == (0.0, 1.5)
        await driver.set_temperature(298.15)
        await driver.set_control(True)
        assert await driver.read_temperature() == pytest.approx(298.15, abs=0.1)
        assert await driver.set_current(0.025) == pytest.approx(0.025)
        await driver.set_emission(True)
        assert await driver.is_emitting()
        assert await driver.read_current() == pytest.approx(0.025)
        await driver.set_emission(False)

    def other_value(self, field: Any, now: tuple[Any, ...]) -> Any:  # type: ignore[override]
        if field.unit is not None and field.unit.base == "A":
            return 0.4 if now[0] > 0.5 else 0.6
        return super().other_value(field, now)

    def test_the_current_moves_in_steps_and_the_laser_closes_dark_and_cold(self) -> None:
        seen: list[float] = []

        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, settings={"tec": True, "ramp_step": "10 mA", "current": "45 mA"}) as driver:
                seen.clear()
                await driver.set("emission", True)
                assert max(b - a for a, b in itertools.pairwise(seen)) <= 0.01 + 1e-9
                assert seen[-1] == pytest.approx(0.045)
                with pytest.raises(errors.CommandRefused, match="switch it off first"):
                    await driver.set("tec", False)
            assert seen[-1] == 0.0
            async with self.make(address) as driver:  # the temperature was held meanwhile
                assert await driver.get("tec") == (True,)
                assert await driver.get("current") == (0.0,)
            async with self.make(address, settings={"on_close": "off"}):
                pass
            async with self.make(address) as driver:
                assert await driver.get("tec") == (False,)

        self.simulator = lambda: Cld1015Sim(seen.append, settle_s=1e-6)  # type: ignore[method-assign]
        self.run(scene)

    def test_no_light_without_a_held_temperature_or_with_an_open_interlock(self) -> None:
        seen: list[float] = []

        async def scene(simulator: Any, address: Any) -> None:
            async with self.make(address, settings={"current": "45 mA"}) as driver:
                with pytest.raises(errors.CommandRefused, match="not held"):
                    await driver.set("emission", True)
                await driver.set("temperature", 313.15)
                await driver.set("tec", True)
                with pytest.raises(errors.CommandRefused, match="K away"):
                    await driver.set("emission", True)
                await driver.set("temperature", 297.65)
                simulator.inject("interlock")
                with pytest.raises(errors.CommandRefused, match="interlock"):
                    await driver.set("emission", True)
            assert max(seen) == 0.0

        self.simulator = lambda: Cld1015Sim(seen.append, settle_s=1e6)  # type: ignore[method-assign]
        self.run(scene)

    def test_a_current_above_the_instruments_own_limit_is_refused(self) -> None:
        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, settings={"current_limit": "100 mA"}) as driver:
                with pytest.raises(errors.CommandRefused, match="-222"):
                    await driver.set("current", 0.12)
                assert await driver.get("current") == (0.0,)

        self.run(scene)


class TestId120(Quick):
    __test__ = True
    driver = Id120
    driver_name = "idq_id120"

    def simulator(self) -> SimulatorLike:
        return Id120Sim()

    async def exercise(self, driver: Any) -> None:
        assert await driver.set_bias(0, 160.0) == pytest.approx(160.0)
        await driver.set_enabled(False)
        await driver.set_enabled(True)
        assert (await driver.bias()) == pytest.approx(await driver.get("bias_voltage"))
        assert (await driver.get("bias_voltage"))[0] == pytest.approx(160.0)
        assert len((await driver.counts()).counts) == 1

    def test_it_closes_without_bias_and_warm_unless_told(self) -> None:
        async def scene(simulator: Any, address: Any) -> None:
            settings = {"cooler": True, "bias_voltage": "150 V", "on_close": "hold"}
            async with self.make(address, settings=settings) as driver:
                assert await driver.get("cooler") == (True,)
                assert simulator.bias == pytest.approx(150.0, abs=0.041)
            assert simulator.bias == 0.0
            async with self.make(address) as driver:
                assert await driver.get("cooler") == (True,)
            async with self.make(address) as driver:
                assert await driver.get("cooler") == (False,)
                with pytest.raises(errors.CommandRefused, match="no bias was set"):
                    await driver.set_enabled(True)  # type: ignore[attr-defined]

        self.run(scene)

    def test_an_instrument_that_lies_is_found_out(self) -> None:
        async def scene(simulator: Any, address: Any) -> None:
            async with self.make(address) as driver:
                simulator.inject("lie")
                for field, value in (("bias_voltage", 100.0), ("cooler", True), ("polarity", "negative")):
                    with pytest.raises(errors.CommandRefused):
                        await driver.set(field, value)
                simulator.inject("clear")

        self.run(scene)


class TestSpd(Quick):
    __test__ = True
    driver = Spd
    driver_name = "s15_spd"

    def simulator(self) -> SimulatorLike:
        return SpdSim()

    def make(self, address: AddressLike, wrap: Any = None, **config: Any) -> Driver:
        return super().make(address, wrap, **({"limits": {"bias_voltage": ["0 V", "1000 V"]}} | config))

    async def exercise(self, driver: Any) -> None:
        await driver.set("gate_time", 0.02)
        assert await driver.set_bias(0, 150.0) == pytest.approx(150.0)
        await driver.set_enabled(False)
        await driver.set_enabled(True)
        assert (await driver.bias()) == pytest.approx(await driver.get("bias_voltage"))
        assert (await driver.get("bias_voltage"))[0] == pytest.approx(150.0)
        assert (await driver.counts()).period == pytest.approx(0.02)

    def test_without_limits_of_the_site_there_is_no_bias(self) -> None:
        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, limits={}) as driver:
                with pytest.raises(errors.OutOfRange):
                    await driver.set("bias_voltage", 1.0)
                assert await driver.set("bias_voltage", 0.0) == (0.0,)

        self.run(scene)


class TestQuantis(Quick):
    __test__ = True
    driver = Quantis
    driver_name = "idq_quantis"
    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.5}

    def simulator(self) -> SimulatorLike:
        return QuantisSim()

    async def exercise(self, driver: Any) -> None:
        assert len(await driver.read_noise(1000)) == 1000
        assert await driver.read_noise(0) == b""

    @pytest.mark.parametrize("fault", ["stuck", "biased"])
    def test_a_source_that_fails_its_test_gives_nothing_until_it_passed_again(self, fault: str) -> None:
        async def scene(simulator: Any, address: Any) -> None:
            driver: Any = self.make(address)
            await driver.open()
            simulator.inject(fault)
            with pytest.raises(errors.EntropyFailed):
                await driver.read_noise(20_000)
            simulator.inject("clear")
            with pytest.raises(errors.EntropyFailed):
                await driver.read_noise(1)
            with pytest.raises(errors.EntropyFailed):
                await driver.ping()
            await driver.close()
            await self.recovers(driver)

        self.run(scene)

    def test_a_claim_that_is_none_is_refused(self) -> None:
        class Nowhere:
            port, host, tcp_ports = "usb://0aba:0102", "", ()

        for claim in (0, 1.5, "much", True):
            with pytest.raises(errors.DeviceConfigError, match="entropy_per_bit"):
                self.make(Nowhere(), options={"entropy_per_bit": claim})
        assert self.make(Nowhere(), serial_number="A1").bus_key == "usb://0aba:0102/A1"

    def test_a_board_without_a_working_module_is_refused(self) -> None:
        async def scene(simulator: Any, address: Any) -> None:
            simulator.inject("refuse")
            error = await self.attempt(self.make(address))
            assert isinstance(error, errors.CommandRefused)
            assert "no module" in error.problem

        self.run(scene)


class _Generic(Quick):
    """Their answer time stands in the mapping: `hurried` hides the property that reads it."""

    mapping: ClassVar[str]

    def make(self, address: AddressLike, wrap: Any = None, **config: Any) -> Driver:
        if not getattr(address, "options", ()):  # a place where nothing is
            config["options"] = {"mapping": str(ROOT / "generic_scpi/mappings" / self.mapping)}
        return super().make(address, wrap, **config)

    def test_its_readme_names_every_field(self) -> None:
        readme = (ROOT / "generic_scpi/README.md").read_text("utf-8")
        assert not [name for name in self.driver.fields if f"`{name}`" not in readme]


class TestGenericAttenuator(_Generic):
    __test__ = True
    driver = GenericAttenuator
    driver_name = "generic_scpi_attenuator"
    mapping = "hp8156a.toml"

    def simulator(self) -> SimulatorLike:
        return GenericSim("attenuator")

    async def exercise(self, driver: Any) -> None:
        assert driver.attenuation_range == (0.0, 60.0)
        assert await driver.set_attenuation(33.25) == pytest.approx(33.25, abs=0.02)

    def other_value(self, field: Any, now: tuple[Any, ...]) -> Any:  # type: ignore[override]
        return 20.0 if now[0] > 40 else 50.0

    def test_it_opens_and_closes_dark(self) -> None:
        seen: list[float] = []

        async def scene(_: Any, address: Any) -> None:
            async with self.make(address, settings={"attenuation": "12 dB"}):
                assert seen == [60.0, 12.0]
            assert seen[-1] == 60.0

        self.simulator = lambda: GenericSim("attenuator", seen.append)  # type: ignore[method-assign]
        self.run(scene)


class TestGenericSwitch(_Generic):
    __test__ = True
    driver = GenericSwitch
    driver_name = "generic_scpi_switch"
    mapping = "example-switch.toml"

    def simulator(self) -> SimulatorLike:
        return GenericSim("switch")

    async def exercise(self, driver: Any) -> None:
        assert driver.positions == 4
        assert await driver.select(3) == 3
        assert await driver.read_position() == 3

    def other_value(self, field: Any, now: tuple[Any, ...]) -> Any:  # type: ignore[override]
        return 2 if now[0] != 2 else 4


class TestGenericDetector(_Generic):
    __test__ = True
    driver = GenericDetector
    driver_name = "generic_scpi_detector"
    mapping = "example-detector.toml"

    def simulator(self) -> SimulatorLike:
        return GenericSim("detector")

    async def exercise(self, driver: Any) -> None:
        assert driver.detectors == 4
        assert await driver.set_bias(2, 20e-6) == pytest.approx(20e-6)
        assert (await driver.bias())[2] == pytest.approx(20e-6)
        await driver.set_enabled(True)
        assert len((await driver.counts()).counts) == 4

    def other_value(self, field: Any, now: tuple[Any, ...]) -> Any:  # type: ignore[override]
        return 30e-6 if now[0] < 20e-6 else 10e-6
