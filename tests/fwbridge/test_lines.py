"""USB bulk against a double of pyusb; board behind the node's adapter; the maker's command line; the simulator's entry."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
import usb.core
import usb.util
from qkdd_drivers.qkdd_board.sim import BoardSim, factory_image
from qkdd_drivers.sim_cli import app as sim_app
from qkdd_fwbridge import image
from qkdd_fwbridge.__main__ import app
from qkdd_fwbridge.keys import load_public
from qkdd_fwbridge.messages import Role
from typer.testing import CliRunner

from qkdd.device import errors
from qkdd.device.transport import Busy, Denied, Gone, TimedOut
from qkdd.device.usb_link import UsbBulkLink
from qkdd.node.boards import Board, boards_of
from qkdd.node.devices import DeviceSlot
from qkdd.testing.patience import PATIENCE_S

from .boards import signed
from .test_driver import build, until_version


class Endpoint:
    bmAttributes = usb.util.ENDPOINT_TYPE_BULK

    def __init__(self, address: int) -> None:
        self.bEndpointAddress = address
        self.waiting: list[bytes] = []
        self.written = b""
        self.error: Exception | None = None

    def read(self, size: int, timeout: int) -> bytes:
        assert timeout >= 1
        if self.error is not None:
            raise self.error
        if not self.waiting:
            raise usb.core.USBTimeoutError("timeout")
        return self.waiting.pop(0)

    def write(self, data: bytes, timeout: int) -> int:
        if self.error is not None:
            raise self.error
        self.written += data[:512]
        return min(512, len(data))


class Usb:
    """A device with a pair of bulk endpoints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, serial: str = "QB1") -> None:
        self.i, self.o = Endpoint(0x81), Endpoint(0x02)
        self.serial_number = serial
        self.busy: int | None = None
        monkeypatch.setattr(usb.core, "find", lambda find_all, idVendor, idProduct: iter([self]))
        monkeypatch.setattr(usb.util, "dispose_resources", lambda device: None)

        def descriptor(interface: Any, custom_match: Any) -> Any:
            return next((e for e in interface if custom_match(e)), None)

        monkeypatch.setattr(usb.util, "find_descriptor", descriptor)

    def set_configuration(self) -> None:
        if self.busy is not None:
            raise usb.core.USBError("no", errno=self.busy)

    def get_active_configuration(self) -> Any:
        return {(0, 0): [self.o, self.i]}


def test_usb_carries_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Usb(monkeypatch)
    link = UsbBulkLink("usb://1209:5a01/QB1")
    link.open(1.0)
    link.write(bytes(1300), 1.0)
    assert device.o.written == bytes(1300)
    assert link.read(10, 0.1) == b""
    device.i.waiting = [b"abcdef", b"gh"]
    assert link.read(4, 0.1) == b"abcd"
    link.discard()
    assert link.read(4, 0.1) == b""
    device.i.error = usb.core.USBError("gone", errno=errno.ENODEV)
    with pytest.raises(Gone):
        link.read(4, 0.1)
    device.o.error = usb.core.USBTimeoutError("full")
    with pytest.raises(TimedOut):
        link.write(b"x", 0.1)
    link.close()
    link.close()
    with pytest.raises(Gone):
        link.read(1, 0.1)


@pytest.mark.parametrize(("number", "failure"), [(errno.EACCES, Denied), (errno.EBUSY, Busy), (errno.EIO, Gone)])
def test_usb_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, number: int, failure: type[Exception]) -> None:
    Usb(monkeypatch).busy = number
    with pytest.raises(failure):
        UsbBulkLink("usb://1209:5a01").open(1.0)


def test_usb_of_another_serial_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    Usb(monkeypatch, "QB2")
    with pytest.raises(Gone, match="0 such devices"):
        UsbBulkLink("usb://1209:5a01/QB1").open(1.0)


def test_a_refused_board_is_reached_through_the_closed_driver() -> None:
    async def test() -> None:
        async with asyncio.timeout(PATIENCE_S):
            sim = BoardSim(boot_s=0.05, firmware=factory_image(Role.TRANSMITTER, (1, 0, 0)))
            driver = build(await sim.start())
            slot = DeviceSlot("tx", driver.config)
            boards = boards_of({"tx": slot}, lambda name: driver)
            assert isinstance(boards["tx"], Board)
            await boards["tx"].stage_firmware(signed((2, 1, 0), 2), lambda done, size: None)
            await boards["tx"].start_firmware(60)
            await until_version(boards["tx"], "2.1.0")
            sim.unplug()
            with pytest.raises(errors.DeviceError):
                await boards["tx"].firmware_status()
            assert not driver.buses[0].is_open
            await sim.stop()

    asyncio.run(test())


def test_maker_signs_what_verifies(tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(b"firmware" * 100)
    files = [str(tmp_path / name) for name in ("key", "pub", "out")]
    run = CliRunner().invoke
    assert run(app, ["keygen", *files[:2]]).exit_code == 0
    assert Path(files[0]).stat().st_mode & 0o777 == 0o600
    order = [
        "sign",
        str(payload),
        files[2],
        "--key",
        files[0],
        "--model",
        "QKDD-TX1",
        "--version",
        "2.4.0",
        "--counter",
        "7",
    ]
    assert run(app, order).exit_code == 0
    shown = run(app, ["verify", files[2], "--key", files[1]])
    assert "QKDD-TX1 2.4.0, counter 7" in shown.output
    found = image.verify(Path(files[2]).read_bytes(), [load_public(Path(files[1]))])
    assert found.payload == payload.read_bytes()
    assert isinstance(run(app, ["keygen", *files[:2]]).exception, FileExistsError)


def test_the_simulator_is_reachable_by_its_command() -> None:
    shown = CliRunner().invoke(sim_app, ["qkdd-board", "--help"])
    assert shown.exit_code == 0
    for word in ("--pty", "--listen", "--receiver"):
        assert word in shown.output
