"""What is attached: matching by ids, the table to paste, asking, and instruments that come back on another port."""

from __future__ import annotations

import asyncio
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qkdd_drivers.idq_quantis.driver import Quantis
from qkdd_drivers.idq_quantis.sim import QuantisSim
from qkdd_drivers.thorlabs_pm100d.sim import Pm100dSim
from qkdd_drivers.usbip_sim import UsbIpServer
from typer.testing import CliRunner

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, bus_keys, drivers_cli, probe
from qkdd.device.facts import DriverFacts, Model, Quality, Tier, Usb
from qkdd.device.probe import Attached, Found
from qkdd.device.serial_link import SerialLink, find_port
from qkdd.device.transport import Gone


def facts(transport: str, *ids: str, serial: str = "", role: str = "Attenuator") -> DriverFacts:
    return DriverFacts(
        title="An instrument",
        roles=(role,),
        transport=transport,
        models=(Model(vendor="V", model="M"),),
        quality=Quality(tier=Tier.BRONZE, reasons=("none",)),
        usb=Usb(ids=ids, serial=serial),
    )


ALL = {
    "mover": facts("serial", "0403:faf0", serial="38*", role="PolarizationController"),
    "motor": facts("serial", "0403:faf0", serial="27*"),
    "meter": facts("visa", "1313:8078", role="PowerMeter"),
    "noise": facts("usb", "0aba:0102", role="EntropySource"),
    "tagger": facts("library", "0d0e:0016", role="TimeTagger"),
}


def only(attached: Attached) -> Found:
    (found,) = probe.match([attached], ALL)
    return found


@pytest.mark.parametrize(
    ("attached", "driver", "table"),
    [
        (
            Attached("/dev/serial/by-id/usb-T_38123-if00", "0403:faf0", "38123", tty="/dev/ttyUSB0"),
            "mover",
            {"polarization": {"driver": "mover", "port": "/dev/serial/by-id/usb-T_38123-if00"}},
        ),
        (
            Attached("/dev/ttyUSB1", "0403:faf0", "27001", tty="/dev/ttyUSB1"),
            "motor",
            {"attenuator": {"driver": "motor", "port": "serial://0403:faf0/27001"}},
        ),
        (
            Attached("1-4", "1313:8078", "P0012345"),
            "meter",
            {"power": {"driver": "meter", "port": "USB0::0x1313::0x8078::P0012345::INSTR"}},
        ),
        (Attached("1-5", "0aba:0102", "16A"), "noise", {"noise": {"driver": "noise", "port": "usb://0aba:0102/16A"}}),
        (
            Attached("1-6", "0d0e:0016", "1045"),
            "tagger",
            {"tagger": {"driver": "tagger", "library": "/path/to/the/vendors/library.so", "serial_number": "1045"}},
        ),
    ],
)
def test_the_table_can_be_pasted(attached: Attached, driver: str, table: dict[str, Any]) -> None:
    found = only(attached)
    assert found.driver == driver
    pasted = tomllib.loads(found.table)
    assert pasted == {"devices": table}
    for section in pasted["devices"].values():
        DeviceConfig(**section)


def test_a_serial_port_that_nobody_claims_is_shown_and_a_keyboard_is_not() -> None:
    port = Attached("/dev/ttyUSB0", "1a86:7523", "", "QinHeng USB Serial", tty="/dev/ttyUSB0")
    keyboard = Attached("1-1", "046d:c31c", "", "Logitech Keyboard")
    assert [f.attached for f in probe.match([port, keyboard], ALL)] == [port]


def test_a_device_is_shown_once() -> None:
    port = Attached("/dev/ttyUSB0", "0403:faf0", "38123", tty="/dev/ttyUSB0")
    bare = Attached("1-2", "0403:faf0", "38123")
    assert [f.attached for f in probe.match([bare, port], ALL)] == [port]


def test_usb_devices_come_from_sys(tmp_path: Path) -> None:
    device = tmp_path / "1-4"
    device.mkdir()
    for name, text in (("idVendor", "1313"), ("idProduct", "8078"), ("serial", "P1"), ("product", "PM100D")):
        (device / name).write_text(text + "\n")
    (tmp_path / "usb1").mkdir()
    (tmp_path / "1-4:1.0").mkdir()
    assert probe.usb_devices(tmp_path) == [Attached("1-4", "1313:8078", "P1", "PM100D")]
    assert probe.usb_devices(tmp_path / "nothing") == []


def test_what_is_found_is_asked_who_it_is() -> None:
    async def main() -> None:
        simulator = QuantisSim()
        address = await simulator.start()
        found = Found(Attached("1-1"), "idq_quantis", table=f'port = "{address.port}"')
        assert "Quantis-USB 163041A410" in (await probe.ask(found)).identity
        simulator.inject("unplug")
        assert "QKD-DEV-OFFLINE" in (await probe.ask(found)).problem
        await simulator.stop()

    asyncio.run(main())


def test_the_command_prints_what_visa_finds_behind_usbip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "serial_ports", list)
    monkeypatch.setattr(probe, "usb_devices", list)

    async def main() -> list[dict[str, Any]]:
        simulator = Pm100dSim().over("usbtmc")
        address = await simulator.start()
        place = address.port.split("/")[2]
        arguments = ["probe", "--json", "--ask", "--usbip", place]
        result = await asyncio.to_thread(CliRunner().invoke, drivers_cli.app, arguments)
        await simulator.stop()
        assert result.exit_code == 0, result.output
        rows: list[dict[str, Any]] = json.loads(result.stdout)
        return rows

    (row,) = asyncio.run(main())
    assert row["driver"] == "thorlabs_pm100d"
    assert row["identity"] == "Thorlabs PM100D P0012345 2.6.0"
    result = CliRunner().invoke(drivers_cli.app, ["probe"])
    assert "nothing was found" in result.stdout


# Hot plug: the same instrument at another place


@pytest.fixture
def two_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Any], list[str]]]:
    ports, paths, fds = [], [], []
    for _ in range(2):
        master, slave = os.openpty()
        fds += [master, slave]
        paths.append(os.ttyname(slave))
    ports.append(SimpleNamespace(device=paths[0], vid=0x0403, pid=0xFAF0, serial_number="38123"))
    monkeypatch.setattr("qkdd.device.serial_link.list_ports.comports", lambda: ports)
    yield ports, paths
    for fd in fds:
        os.close(fd)


def test_a_serial_instrument_is_found_again_by_its_number(two_ports: tuple[list[Any], list[str]]) -> None:
    ports, paths = two_ports
    name = "serial://0403:faf0/38123"
    link = SerialLink(name)
    link.open(1.0)
    link.close()
    assert bus_keys(DeviceConfig(driver="x", port=name)) == (f"serial:{paths[0]}",)
    ports[0].device = paths[1]  # plugged into another socket
    link.open(1.0)
    link.close()
    assert find_port(name) == paths[1]
    ports.append(SimpleNamespace(device=paths[0], vid=0x0403, pid=0xFAF0, serial_number="38123"))
    with pytest.raises(Gone, match="2 such"):
        link.open(1.0)
    ports.clear()
    with pytest.raises(Gone, match="0 such"):
        link.open(1.0)
    assert bus_keys(DeviceConfig(driver="x", port=name)) == (f"serial:{name}",)


def test_a_usb_instrument_is_found_again_by_its_number() -> None:
    """The bus address changes; the name in the configuration does not."""

    async def main() -> None:
        simulator = QuantisSim()
        address = await simulator.start()
        config = DeviceConfig(driver="idq_quantis", port=address.port)
        driver = Quantis("noise", config, Quantis.links(config), SystemClock(), RecordingMeter())
        identity = await driver.open()
        await driver.close()
        server: UsbIpServer = simulator._server
        server.busid, server.address = "1-7", 9
        assert await driver.open() == identity
        await driver.close()
        await simulator.stop()

    asyncio.run(main())
