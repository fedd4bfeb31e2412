"""70-qkdd.rules: not stale, and every line passes a linter (Debian's udevadm 252 has no `verify`)."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qkdd.device.facts import DriverFacts, Quality, Tier, Usb
from qkdd.device.udev import hwdb, installed_facts, rules
from qkdd.testing.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "udev/70-qkdd.rules"
HWDB = ROOT / "udev/70-qkdd.hwdb"
TOKEN = re.compile(r'^(?P<key>[A-Z]+)(\{(?P<attr>[A-Za-z]+)\})?(?P<operator>==|!=|\+=|=)"(?P<value>[^"]*)"$')
MATCH = {"SUBSYSTEM", "ATTR", "ATTRS", "ENV"}
ASSIGN = {"GROUP": "=", "MODE": "=", "TAG": "+=", "SYMLINK": "+="}


def findings(text: str) -> list[str]:
    """What is wrong: unknown keys, `=` where a match is meant, programs, open modes, groups that nobody makes."""
    sysusers = (ROOT / "systemd/sysusers.d/qkdd.conf").read_text()
    groups = {line.split()[1] for line in sysusers.splitlines() if line[:2] in ("g ", "u ")}
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        for part in line.split(", "):
            token = TOKEN.match(part)
            if token is None:
                found.append(f"{number}: {part!r} is no assignment or match")
                continue
            key, operator, value = token["key"], token["operator"], token["value"]
            if key in MATCH:
                if operator not in ("==", "!="):
                    found.append(f"{number}: {key} must be a match")
            elif ASSIGN.get(key) != operator:
                found.append(f"{number}: {key}{operator} is not permitted")
            if key == "GROUP" and value not in groups:
                found.append(f"{number}: nobody makes the group {value}")
            if key == "MODE" and value != "0660":
                found.append(f"{number}: mode {value}")
        if "ATTR" not in line:
            found.append(f"{number}: matches every device")
    return found


def facts(*ids: str, serial: str = "") -> DriverFacts:
    quality = Quality(Tier.BRONZE, ("none",))
    return DriverFacts("An instrument", ("TimeTagger",), "usb", (), quality, usb=Usb(ids, serial))


def test_the_file_is_not_stale() -> None:
    assert FILE.read_text() == rules(installed_facts()), "run `python -m qkdd.device.udev udev`"
    assert HWDB.read_text() == hwdb(installed_facts()), "run `python -m qkdd.device.udev udev`"


def test_the_file_passes_the_linter() -> None:
    assert findings(FILE.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        'SUBSYSTEM="tty", ATTRS{idVendor}=="0403", GROUP="qkd"',
        'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403" GROUP="qkd"',
        'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", RUN+="/bin/sh"',
        'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", GROUP="nobody-made-this"',
        'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", MODE="0666"',
        'SUBSYSTEM=="tty", GROUP="qkd"',
    ],
)
def test_the_linter_finds(line: str) -> None:
    assert findings(line)


def test_a_shared_id_is_narrowed_by_its_serial_numbers() -> None:
    text = rules({"mover": facts("0403:faf0", serial="38*")})
    assert text.count('{serial}=="38*"') == 2
    assert findings(text) == []


def test_a_driver_without_ids_has_no_rule() -> None:
    assert "SUBSYSTEM" not in rules({"tagger": facts()})


@pytest.mark.parametrize("wrong", [facts("403:faf0"), facts("0403:FAF0"), facts("0403:faf0", serial='"; RUN')])
def test_facts_that_could_break_out_of_a_rule_are_refused(wrong: DriverFacts) -> None:
    with pytest.raises(ValueError, match="malformed"):
        rules({"x": wrong})


def test_the_hardware_database_names_all_drivers_of_an_id() -> None:
    text = hwdb({"a": facts("0403:faf0"), "b": facts("0403:faf0", "1313:8078")})
    assert "usb:v0403pFAF0*\n ID_QKD_DRIVER=a b\n ID_QKD_ROLES=TimeTagger\n" in text
    assert "usb:v1313p8078*\n ID_QKD_DRIVER=b\n" in text
    with pytest.raises(ValueError, match="malformed"):
        hwdb({"a": facts("0403:FAF0")})


@pytest.mark.skipif(shutil.which("systemd-hwdb") is None, reason="systemd-hwdb is not installed")
def test_the_hardware_database_is_taken_in(tmp_path: Path) -> None:
    folder = tmp_path / "etc/udev/hwdb.d"
    folder.mkdir(parents=True)
    shutil.copy(HWDB, folder)
    done = subprocess.run(
        ["systemd-hwdb", "--strict", "--root", tmp_path, "update"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


DEVICES = """P: /devices/pci0000:00/usb1/1-4
N: bus/usb/001/004
E: DEVNAME=/dev/bus/usb/001/004
E: MAJOR=189
E: MINOR=3
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: idVendor=1313
A: idProduct=8078
A: serial=P0012345

P: /devices/pci0000:00/usb1/1-5
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: idVendor=0403
A: idProduct=faf0
A: serial=38123456

P: /devices/pci0000:00/usb1/1-5/1-5:1.0/ttyUSB0/tty/ttyUSB0
N: ttyUSB0
E: DEVNAME=/dev/ttyUSB0
E: MAJOR=188
E: MINOR=0
E: SUBSYSTEM=tty

P: /devices/pci0000:00/usb1/1-6
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: idVendor=0403
A: idProduct=faf0
A: serial=27123456

P: /devices/pci0000:00/usb1/1-6/1-6:1.0/ttyUSB1/tty/ttyUSB1
N: ttyUSB1
E: DEVNAME=/dev/ttyUSB1
E: MAJOR=188
E: MINOR=1
E: SUBSYSTEM=tty
"""


@pytest.fixture
def in_place() -> Iterator[None]:
    """udevadm reads rules from fixed folders only; /run is gone at the next start of the machine."""
    missing = [tool for tool in ("umockdev-run", "udevadm") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")
    folder = Path("/run/udev/rules.d")
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / "70-qkdd-test.rules"
    shutil.copy(FILE, copy)
    yield
    copy.unlink()


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("usb1/1-4", "/dev/qkd/usb/thorlabs_pm100d-P0012345"),
        ("usb1/1-5/1-5:1.0/ttyUSB0/tty/ttyUSB0", "/dev/qkd/thorlabs_mpc320-38123456"),
        ("usb1/1-6/1-6:1.0/ttyUSB1/tty/ttyUSB1", ""),  # the same chip, another maker's number
    ],
)
def test_udev_gives_an_instrument_its_stable_name(in_place: None, tmp_path: Path, device: str, name: str) -> None:
    description = tmp_path / "bench.umockdev"
    description.write_text(DEVICES)
    path = f"/sys/devices/pci0000:00/{device}"
    command = ["umockdev-run", "-d", description, "--", "udevadm", "test", "--action=add", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    said = done.stdout + done.stderr
    assert ("DEVLINKS=" in said) == bool(name), said
    if name:
        assert name in re.findall(r"^DEVLINKS=(.*)$", said, re.MULTILINE)[0].split()
        assert re.search(r"70-qkdd-test.rules:\d+ MODE 0660", said)
