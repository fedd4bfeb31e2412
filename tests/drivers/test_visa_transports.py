"""VISA beside plain sockets: USBTMC (through USB/IP), HiSLIP and VXI-11, each in a process that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any, ClassVar

import pytest
from qkdd_drivers.thorlabs_pm100d.driver import Pm100d
from qkdd_drivers.thorlabs_pm100d.sim import Pm100dSim

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, bus_keys, errors
from qkdd.device.errors import DeviceConfigError
from qkdd.device.tcp_link import TcpLink
from qkdd.device.transport import Busy, Denied, Gone, Hung, LinkFailure, TimedOut
from qkdd.device.visa_child import classify
from qkdd.device.visa_link import VisaLink, is_visa, visa_key, visa_line
from qkdd.testing.contract import DriverContract, SimulatorLike
from qkdd.testing.leaks import no_leaks
from qkdd.testing.patience import PATIENCE_S

INTERFACES = ("usbtmc", "hislip", "vxi11")


class _Interface(DriverContract):
    __test__ = False
    driver = Pm100d
    driver_name = "thorlabs_pm100d"
    interface = ""

    hurried: ClassVar[dict[str, float]] = {"answer_time": 0.5}

    def simulator(self) -> SimulatorLike:
        return Pm100dSim().over(self.interface)

    async def exercise(self, driver: Any) -> None:
        assert await driver.set_wavelength(1310e-9) == pytest.approx(1310e-9)
        assert await driver.read_power() == pytest.approx(12.5e-6, rel=0.02)

    def other_value(self, field: Any, now: tuple[Any, ...]) -> Any:  # type: ignore[override]
        if field.unit is not None:
            return 1310e-9 if now[0] > 1.4e-6 else 1550e-9
        return super().other_value(field, now)


@pytest.mark.slow
class TestUsbTmc(_Interface):
    __test__ = True
    interface = "usbtmc"


@pytest.mark.slow
class TestHislip(_Interface):
    __test__ = True
    interface = "hislip"


@pytest.mark.slow
class TestVxi11(_Interface):
    __test__ = True
    interface = "vxi11"


@pytest.mark.parametrize("interface", INTERFACES)
def test_each_interface_serves_is_unplugged_and_comes_back(interface: str) -> None:
    async def scene(simulator: Any, address: Any) -> None:
        driver = suite.make(address)
        await driver.open()
        await suite.exercise(driver)
        simulator.inject("unplug")
        with pytest.raises(errors.DeviceError) as caught:
            await driver.ping()
        assert isinstance(caught.value, (errors.DeviceOffline, errors.DeviceTimeout))
        await driver.close()
        with pytest.raises(errors.DeviceOffline):
            await driver.open()
        simulator.inject("plug")
        await suite.recovers(driver)

    suite = {"usbtmc": TestUsbTmc, "hislip": TestHislip, "vxi11": TestVxi11}[interface]()
    suite.run(scene)


def test_a_usbtmc_instrument_is_found_again_on_another_port() -> None:
    """The resource names its serial number, not its place on the bus."""

    async def scene(simulator: Any, address: Any) -> None:
        driver = suite.make(address)
        identity = await driver.open()
        await driver.close()
        server = simulator._wire._server
        server.busid, server.address = "1-9", 17
        assert await driver.open() == identity
        await driver.close()

    suite = TestUsbTmc()
    suite.run(scene)


def test_a_call_that_hangs_costs_its_process_and_nothing_else() -> None:
    """The process is stopped: no time-out inside of it can help any more."""

    async def main() -> None:
        simulator = Pm100dSim().over("vxi11")
        address = await simulator.start()
        meter = RecordingMeter()
        config = DeviceConfig(driver="thorlabs_pm100d", port=address.port)
        (link,) = Pm100d.links(config)
        assert isinstance(link, VisaLink)
        driver = Pm100d("meter", config, (link,), SystemClock(), meter)
        await driver.open()
        process = link._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        ticks = 0
        asking = asyncio.ensure_future(driver.ping())
        while not asking.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(errors.DeviceHung):
            await asking
        assert ticks > 20  # the event loop went on meanwhile
        assert link.hung == 1
        assert process.poll() == -signal.SIGKILL
        assert meter.total("qkdd_device_errors_total", device="meter", code="QKD-DEV-HUNG") == 1
        await driver.close()
        await driver.open()  # a new process
        await driver.ping()
        await driver.close()
        await simulator.stop()

    with pytest.MonkeyPatch.context() as patch, no_leaks():
        patch.setattr(Pm100d, "answer_time", 0.3)
        asyncio.run(main())


def test_the_child_ends_with_its_line() -> None:
    link = VisaLink("TCPIP0::127.0.0.1,1::inst0::INSTR")
    with no_leaks(), pytest.raises(Gone):
        link.open(5.0)
    with pytest.raises(Gone, match="not open"):
        link.read(1, 0.1)
    link.close()


def test_a_missing_interpreter_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with no_leaks(), pytest.raises(Gone, match="does not start"):
        VisaLink("USB0::1::2::3::INSTR").open(1.0)


def test_a_child_that_dies_is_gone() -> None:
    async def main() -> None:
        simulator = Pm100dSim().over("hislip")
        link = visa_line((await simulator.start()).port)
        assert isinstance(link, VisaLink)
        await asyncio.to_thread(link.open, 5.0)
        process = link._process
        assert process is not None
        process.kill()
        with pytest.raises(Gone):
            await asyncio.to_thread(link.read, 10, 0.2)
        link.close()
        await simulator.stop()

    with no_leaks():
        asyncio.run(main())


def test_a_message_goes_out_with_its_line_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    link = VisaLink("USB0::1::2::3::INSTR")
    monkeypatch.setattr(link, "call", lambda _op, body, _timeout: sent.append(body) or b"")
    for piece in (b"*ID", b"N?\nSYST:", b"ERR?\n*CL"):
        link.write(piece, 1.0)
    assert sent == [b"*IDN?\n", b"SYST:ERR?\n"]


class _Visa(Exception):
    def __init__(self, abbreviation: str) -> None:
        self.abbreviation = abbreviation


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (_Visa("VI_ERROR_TMO"), b"t", TimedOut),
        (TimeoutError(), b"t", TimedOut),
        (_Visa("VI_ERROR_RSRC_BUSY"), b"b", Busy),
        (OSError(16, "busy"), b"b", Busy),
        (_Visa("VI_ERROR_NPERMISSION"), b"d", Denied),
        (PermissionError(13, "no"), b"d", Denied),
        (_Visa("VI_ERROR_RSRC_NFOUND"), b"g", Gone),
        (ConnectionResetError(104, "reset"), b"g", Gone),
        (ValueError("No device found."), b"g", Gone),
    ],
)
def test_whatever_a_library_raises_becomes_one_of_four(
    error: Exception, status: bytes, kind: type[LinkFailure]
) -> None:
    assert classify(error) == status
    assert issubclass(kind, LinkFailure)
    assert issubclass(Hung, TimedOut)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TCPIP0::h::5025::SOCKET", "TCPIP::h::5025::socket"),
        ("USB0::0x1313::0x8078::P1::INSTR", "USB::0x1313::0x8078::p1::instr"),
        ("USB0::0x1313::0x8078::P1::INSTR", "USB::0x01313::0x8078::P1::INSTR"),
        ("USB0::0x1313::0x8078::P1::INSTR", "USB0::4883::32888::P1::0::INSTR"),
    ],
)
def test_two_spellings_are_one_line(one: str, other: str) -> None:
    assert visa_key(one) == visa_key(other)
    assert bus_keys(DeviceConfig(driver="x", port=one)) == (visa_key(other),)


def test_a_socket_is_the_tcp_connection_that_it_is() -> None:
    link = visa_line("TCPIP0::192.0.2.1::5025::SOCKET")
    assert isinstance(link, TcpLink)
    assert link.key == visa_key("TCPIP0::192.0.2.1::5025::SOCKET") == "tcp:192.0.2.1:5025"
    assert is_visa("usbip://127.0.0.1:3240/USB0::0x1313::0x8078::P1::INSTR")
    assert not is_visa("/dev/ttyUSB0")
    with pytest.raises(DeviceConfigError, match="no VISA resource"):
        visa_line("USB0")


def test_loading_the_visa_library_is_no_silence_of_the_instrument(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process loads the library within a time of its own; only then runs the time in which the instrument must answer."""
    calls: list[tuple[bytes, float]] = []
    call = VisaLink.call

    def heard(self: VisaLink, operation: bytes, body: bytes, timeout: float) -> bytes:
        calls.append((operation, timeout))
        return call(self, operation, body, timeout)

    monkeypatch.setattr(VisaLink, "call", heard)
    with pytest.raises(Gone):
        VisaLink("USB0::0x1313::0x8078::P1::INSTR", usbip="127.0.0.1:1").open(60.0)
    assert calls == [(b"s", VisaLink.start_time), (b"o", 60.0)]


def test_opening_what_is_not_there_is_quick() -> None:
    start = time.monotonic()
    with pytest.raises(Gone):
        VisaLink("USB0::0x1313::0x8078::P1::INSTR", usbip="127.0.0.1:1").open(PATIENCE_S)
    assert time.monotonic() - start < PATIENCE_S  # it does not wait for its time-out
