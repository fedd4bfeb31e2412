"""The driver contract as tests: subclass `DriverContract` beside your driver and pytest runs all of it.

    class TestMyDriver(DriverContract):
        driver = MyDriver
        def simulator(self): return MySim()
        async def exercise(self, driver): await driver.move(0, 1.0)

The simulator is any object with `start() -> address`, `stop()`, `inject(fault)`; the address has `port` or `host` and
`tcp_ports`. Everything runs on the machine's clock, as an instrument does; a whole suite takes about half a minute.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, ClassVar, Protocol

import pytest

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import Kind
from qkdd.device import DeviceConfig, Driver, errors, roles
from qkdd.device.transport import ByteLink, Wrap
from qkdd.testing import wires
from qkdd.testing.leaks import no_leaks, no_leaks_async

_PATIENCE = (
    60.0  # seconds in which anything must have ended, well or with an error; generous: a guard, never what is judged
)


class AddressLike(Protocol):
    """Where a simulator listens."""

    @property
    def port(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def tcp_ports(self) -> tuple[int, ...]: ...


class SimulatorLike(Protocol):
    """What the suite needs of a simulator."""

    async def start(self) -> AddressLike: ...
    async def stop(self) -> None: ...
    def inject(self, fault: str, **args: float) -> None: ...


class _Tap(wires.Wire):
    """Counts what is sent."""

    sent = 0

    def write(self, data: bytes, timeout: float) -> None:
        type(self).sent += len(data)
        super().write(data, timeout)


class DriverContract(abc.ABC):
    """The promises of `qkdd.device.driver.Driver`, as tests."""

    driver: ClassVar[type[Driver]]
    driver_name: ClassVar[str] = "any"
    free_fields: ClassVar[frozenset[str]] = frozenset()
    """Settable fields that live in the driver, so that no instrument can refuse them."""

    harmless_faults: ClassVar[dict[str, dict[str, float]]] = {"late": {"seconds": 0.1}}

    hurried: ClassVar[dict[str, float]] = {}
    """Time-outs (class attributes of the driver, seconds) while a line or an instrument is silent on purpose, so that a test
    need not wait for the driver's own. On a good line the driver's own hold: a busy machine must not look like a dead device."""

    @abc.abstractmethod
    def simulator(self) -> SimulatorLike:
        """A fresh simulator, not started."""

    @abc.abstractmethod
    async def exercise(self, driver: Any) -> None:
        """Use the open device's main verbs once; must pass on a good line within a few seconds."""

    # Tools

    def make(self, address: AddressLike, wrap: Wrap | None = None, **config: Any) -> Driver:
        """A closed driver for a simulator's address."""
        where: dict[str, Any] = {"port": address.port, "host": address.host, "tcp_ports": address.tcp_ports}
        where |= {way: getattr(address, way, "") for way in ("library", "program", "python", "recording")}
        where["options"] = dict(getattr(address, "options", ()))
        settings = DeviceConfig(driver=self.driver_name, **{k: v for k, v in where.items() if v}, **config)
        links: tuple[ByteLink, ...] = self.driver.links(settings)
        if wrap is not None:
            links = tuple(wrap(link) for link in links)
        return self.driver("device", settings, links, SystemClock(), RecordingMeter())

    @contextlib.contextmanager
    def in_a_hurry(self) -> Iterator[None]:
        """The time-outs of `hurried` hold."""
        with pytest.MonkeyPatch.context() as patch:
            for name, seconds in self.hurried.items():
                patch.setattr(self.driver, name, seconds)
            yield

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[SimulatorLike, AddressLike]]:
        """A started simulator; stopped at the end."""
        simulator = self.simulator()
        address = await simulator.start()
        try:
            yield simulator, address
        finally:
            await simulator.stop()

    def run(self, scene: Callable[[SimulatorLike, AddressLike], Awaitable[None]]) -> None:
        """Play a scene against a fresh simulator; nothing may leak, nothing may take for ever."""

        async def main() -> None:
            async with no_leaks_async(), self.running() as (simulator, address), asyncio.timeout(3 * _PATIENCE):
                await scene(simulator, address)

        with no_leaks():
            asyncio.run(main())

    async def attempt(self, driver: Driver) -> errors.DeviceError | None:
        """Open, exercise and close; the typed error that came, None when all went well. Anything else is a failure."""
        try:
            async with asyncio.timeout(_PATIENCE):
                async with driver:
                    await self.exercise(driver)
        except errors.DeviceError as error:
            assert error.device == "device"
            assert error.bus
            assert error.operation
            return error
        finally:
            assert not driver.is_open
            assert not any(bus.is_open for bus in driver.buses)
        return None

    # Declarations

    def test_facts_and_roles_are_complete(self) -> None:
        facts = self.driver.facts()
        assert facts.models
        assert facts.quality.reasons
        for role in facts.roles:
            assert hasattr(roles, role), f"{role} is no role of qkdd.device.roles"
        for name, field in self.driver.fields.items():
            assert field.doc.split()[0] in ("Control", "Measure", "Set", "Get"), name
            assert not field.doc.endswith("."), name

    def test_it_plays_its_roles(self) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            driver = self.make(address)
            for role in self.driver.facts().roles:
                assert isinstance(driver, getattr(roles, role))

        self.run(scene)

    def test_construction_does_no_io(self) -> None:
        class Nowhere:
            port, host, library, python, recording = "", "", "", "", ""
            tcp_ports: tuple[int, ...] = ()
            program: tuple[str, ...] = ()

            def __init__(self, **way: Any) -> None:
                vars(self).update(way)

        places = [
            Nowhere(port="/nonexistent/port"),
            Nowhere(host="192.0.2.1"),
            *(Nowhere(**{way: "/nonexistent/file"}) for way in ("library", "python", "recording")),
            Nowhere(program=("/nonexistent/program",)),
            Nowhere(port="usb://0000:0000/nobody"),
        ]
        made = 0
        with no_leaks():
            for place in places:
                with contextlib.suppress(errors.DeviceConfigError):
                    driver = self.make(place)
                    made += 1
                    assert not driver.is_open
                    asyncio.run(driver.close())
        assert made

    # A good line

    def test_open_use_close_and_again(self) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            driver = self.make(address)
            for _round in range(2):
                identity = await driver.open()
                assert await driver.open() == identity
                await driver.ping()
                assert await driver.probe() == identity
                await self.exercise(driver)
                await driver.close()
                await driver.close()
            assert (await driver.probe()).model == identity.model  # also when closed
            assert not driver.is_open

        self.run(scene)

    def test_every_readable_field_reads_within_its_limits(self) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            async with self.make(address) as driver:
                for name, field in driver.fields.items():
                    if not field.readable:
                        continue
                    values = await driver.get(name)
                    assert field.size is None or len(values) == field.size, name
                    assert all(isinstance(v, (int, float) if field.kind is float else field.kind) for v in values), name
                    if field.range is not None and name != "counts":
                        assert all(field.hardware.low <= float(v) <= field.hardware.high for v in values), name

        self.run(scene)

    def test_settings_of_the_configuration_are_applied_and_read_back(self) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            async with self.make(address) as driver:
                for name, field in driver.fields.items():
                    if field.settable and field.readable:
                        found = await driver.get(name)
                        assert len(await driver.set(name, *found)) == len(found)

        self.run(scene)

    def test_using_a_closed_device_is_an_error(self) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            driver = self.make(address)
            for name, field in driver.fields.items():
                if field.readable:
                    with pytest.raises(errors.NotOpen):
                        await driver.get(name)
            with pytest.raises(errors.NotOpen):
                await driver.ping()

        self.run(scene)

    def test_out_of_range_is_refused_and_nothing_is_sent(self) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            async with self.make(address, _Tap) as driver:
                for name, field in driver.fields.items():
                    if not (field.settable and field.range):
                        continue
                    limits = driver.limits(name)
                    width = limits.high - limits.low
                    for value in (limits.low - 0.01 * width, limits.high + 0.01 * width, float("nan"), float("inf")):
                        before = _Tap.sent
                        with pytest.raises(errors.OutOfRange) as caught:
                            await driver.set(name, value)
                        assert caught.value.field == name
                        assert caught.value.unit == field.unit_name
                        assert _Tap.sent == before

        self.run(scene)

    def test_site_limits_narrow_those_of_the_hardware(self) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            for name, field in self.driver.fields.items():
                if not (field.settable and field.range):
                    continue
                low, high = field.range
                site = [_written(field, low + 0.25 * (high - low)), _written(field, low + 0.5 * (high - low))]
                driver = self.make(address, limits={name: site})
                with pytest.raises(errors.OutOfRange):
                    driver.check(name, low + 0.9 * (high - low))
                with pytest.raises(errors.DeviceConfigError):
                    self.make(address, limits={name: [_written(field, high * 2 + 1), _written(field, high * 3 + 2)]})
            with pytest.raises(errors.DeviceConfigError):
                self.make(address, limits={"no such field": ["1 V", "2 V"]})

        self.run(scene)

    # Bad lines

    @pytest.mark.parametrize("wire", [wires.ByteAtATime, wires.Slow])
    def test_a_line_that_is_only_slow_does_no_harm(self, wire: type[wires.Wire]) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            assert await self.attempt(self.make(address, wire)) is None

        self.run(scene)

    @pytest.mark.parametrize("wire", [wires.Lossy, wires.Garbage])
    def test_a_line_that_damages_bytes_gives_a_typed_error(self, wire: Callable[[ByteLink], Any]) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            made: list[Any] = []

            def wrap(link: ByteLink) -> ByteLink:
                made.append(wire(link))
                return made[-1]  # type: ignore[no-any-return]

            driver = self.make(address, wrap)
            with self.in_a_hurry():
                error = await self.attempt(driver)
            assert error is None or error.kind in (Kind.TRANSIENT, Kind.PERMANENT)
            for one in made:
                one.active = False
            await self.recovers(driver)

        self.run(scene)

    @pytest.mark.parametrize("after", [0, 1, 5, 20, 60, 200])
    def test_unplugged_in_the_middle(self, after: int) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            made: list[wires.Unplugged] = []

            def wrap(link: ByteLink) -> ByteLink:
                made.append(wires.Unplugged(link, after))
                return made[-1]

            driver = self.make(address, wrap)
            error = await self.attempt(driver)
            assert error is None or isinstance(error, errors.DeviceOffline)
            for wire in made:
                wire.plug()
            await self.recovers(driver)

        self.run(scene)

    async def recovers(self, driver: Driver) -> None:
        """When the cause is gone, the same driver works again, at the latest at the third try."""
        for _ in range(3):
            error = await self.attempt(driver)
            if error is None:
                return
        raise AssertionError(f"still {error} after the cause was gone")

    # Faults of the instrument

    def test_unplug_while_open_and_plug_again(self) -> None:
        async def scene(simulator: SimulatorLike, address: AddressLike) -> None:
            driver = self.make(address)
            await driver.open()
            simulator.inject("unplug")
            with self.in_a_hurry(), pytest.raises(errors.DeviceError) as caught:
                await driver.ping()
            assert caught.value.kind is Kind.TRANSIENT
            await driver.close()
            with pytest.raises(errors.DeviceOffline):
                await driver.open()
            simulator.inject("plug")
            await self.recovers(driver)

        self.run(scene)

    def test_another_instrument_answers(self) -> None:
        async def scene(simulator: SimulatorLike, address: AddressLike) -> None:
            simulator.inject("wrong-identity")
            assert isinstance(await self.attempt(self.make(address)), errors.WrongDevice)

        self.run(scene)

    def test_another_serial_number_answers(self) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            error = await self.attempt(self.make(address, serial_number="not this one"))
            assert isinstance(error, errors.WrongDevice)

        self.run(scene)

    def test_hang_is_a_timeout_and_ends(self) -> None:
        async def scene(simulator: SimulatorLike, address: AddressLike) -> None:
            driver = self.make(address)
            await driver.open()
            simulator.inject("hang")
            with self.in_a_hurry():
                with pytest.raises(errors.DeviceTimeout):
                    await driver.ping()
                await driver.close()
                assert isinstance(await self.attempt(driver), errors.DeviceTimeout)
            simulator.inject("clear")
            await self.recovers(driver)

        self.run(scene)

    def test_garbage_between_answers(self) -> None:
        async def scene(simulator: SimulatorLike, address: AddressLike) -> None:
            driver = self.make(address)
            await driver.open()
            simulator.inject("garbage", bytes=300)
            with self.in_a_hurry(), contextlib.suppress(errors.DeviceError):
                await driver.ping()  # may be seen, or thrown away before the next question
            await driver.close()
            await self.recovers(driver)

        self.run(scene)

    def test_refused_commands_are_noticed(self) -> None:
        async def scene(simulator: SimulatorLike, address: AddressLike) -> None:
            async with self.make(address) as driver:
                simulator.inject("refuse")
                for name, field in driver.fields.items():
                    if not (field.settable and field.readable) or name in self.free_fields:
                        continue
                    other = self.other_value(field, await driver.get(name))
                    with self.in_a_hurry(), pytest.raises((errors.CommandRefused, errors.DeviceTimeout)):
                        await driver.set(name, other)
                simulator.inject("clear")

        self.run(scene)

    @staticmethod
    def other_value(field: Any, now: tuple[Any, ...]) -> Any:
        """A legal value that is not the present one."""
        if field.kind is bool:
            return not now[0]
        if field.choices:
            return next(choice for choice in field.choices if choice != now[0])
        low, high = field.range
        value = low + (0.3 if abs(now[0] - low) > 0.4 * (high - low) else 0.45) * (high - low)
        return round(value) if field.kind is int else value

    def test_late_answers_do_no_harm(self) -> None:
        async def scene(simulator: SimulatorLike, address: AddressLike) -> None:
            for fault, args in self.harmless_faults.items():
                simulator.inject(fault, **args)
            assert await self.attempt(self.make(address)) is None

        self.run(scene)

    # Cancellation

    @pytest.mark.parametrize("moment", [0.0, 0.002, 0.02, 0.1])
    def test_cancelled_at_any_moment_it_leaves_nothing_behind(self, moment: float) -> None:
        async def scene(_: SimulatorLike, address: AddressLike) -> None:
            driver = self.make(address)
            task = asyncio.create_task(self.attempt(driver))
            await asyncio.sleep(moment)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert not driver.is_open
            await self.recovers(driver)

        self.run(scene)


def _written(field: Any, value: float) -> Any:
    """As it stands in a configuration."""
    if field.unit is not None:
        return f"{value:.12g} {field.unit.base}"
    return round(value) if field.kind is int else value
