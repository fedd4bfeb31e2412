"""What is said to a person whose line cannot be opened: ports, holders, permissions, libraries."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
from pathlib import Path

import pytest
import serial
from qkdd_drivers.picoquant.multiharp.driver import MultiHarp

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, errors, hints
from qkdd.device.bus import Bus
from qkdd.device.serial_link import SerialLink
from qkdd.device.transport import Busy, ByteLink, Denied, Gone, TimedOut


def test_a_port_that_is_not_there_names_those_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usb-Maker_TDC1-if00").touch()
    assert hints.ports_now(tmp_path) == f"there are now: {tmp_path}/usb-Maker_TDC1-if00"
    monkeypatch.setattr(hints.list_ports, "comports", list)
    assert hints.ports_now(tmp_path / "none") == "no serial port is there now"
    with pytest.raises(Gone, match=r"No such file or directory\); .*there"):
        SerialLink(str(tmp_path / "ttyUSB7")).open(1.0)


def test_a_file_is_no_serial_port(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(Gone, match="is no serial port"):
        SerialLink(str(path)).open(1.0)


def test_a_port_that_is_held_names_its_holder(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        path = os.ttyname(theirs)
        first = SerialLink(path)
        first.open(1.0)
        with pytest.raises(Busy, match="is held by another program: "):
            SerialLink(path).open(1.0)
        first.close()
        process = tmp_path / "proc" / "4711"
        (process / "fd").mkdir(parents=True)
        (process / "fd" / "3").symlink_to(path)
        (process / "comm").write_text("minicom\n")
        assert hints.holders(path, tmp_path / "proc") == "4711 (minicom)"
        assert hints.holders("/dev/null", tmp_path / "proc") == ""
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_port_without_permission_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tty"
    path.touch(0o640)

    def refuse(_: object) -> None:
        raise serial.SerialException(errno.EACCES, "could not open port")

    monkeypatch.setattr(serial.Serial, "open", refuse)
    with pytest.raises(
        Denied, match=r"no permission to open .*tty: it belongs to \S+:\S+, mode 640; this is user \S+ in "
    ):
        SerialLink(str(path)).open(1.0)
    assert "sudo usermod -aG qkd" in errors.AccessDenied.default_remedy
    assert "udev/70-qkdd.rules" in errors.AccessDenied.default_remedy


def test_silence_at_the_first_question_names_the_rate_of_the_line() -> None:
    class Quiet(SerialLink):
        def open(self, timeout: float) -> None: ...

    async def main() -> None:
        line: Bus[ByteLink] = Bus(Quiet("/dev/none", 9600), "thing", SystemClock(), RecordingMeter())
        await line.open()

        def silent(_: ByteLink) -> None:
            raise TimedOut("no answer")

        with pytest.raises(errors.DeviceTimeout, match=r"no answer \(the line runs at 9600 baud\)"):
            await line.run("identify", silent, 1.0)
        with pytest.raises(errors.DeviceTimeout, match=r"no answer$"):
            await line.run("get knob", silent, 1.0)
        await line.close()

    asyncio.run(main())


def test_a_library_that_is_not_there_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "sdk"
    elsewhere.mkdir()
    (elsewhere / "libmh150.so.3").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    async def main() -> None:
        config = DeviceConfig(driver="picoquant_multiharp", library=str(tmp_path / "libmh150.so"))
        driver = MultiHarp("harp", config, MultiHarp.links(config), SystemClock(), RecordingMeter())
        with pytest.raises(errors.VendorUnusable) as caught:
            await driver.open()
        assert f"looked for at {tmp_path}/libmh150.so; there is {elsewhere}/libmh150.so.3" in str(caught.value)

    asyncio.run(main())
    assert hints.where_libraries_are("libnone.so").startswith(
        f"looked for at {tmp_path}, /lib, /usr/lib and the linker"
    )
