"""70-qkdd.rules: not stale, and every line passes a linter (Debian's udevadm 252 has no `verify`)."""

import re
from pathlib import Path

import pytest

from qkdd.device.facts import DriverFacts, Quality, Tier, Usb
from qkdd.device.udev import installed_facts, rules

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "udev/70-qkdd.rules"
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
    assert FILE.read_text() == rules(installed_facts()), "run `python -m qkdd.device.udev udev/70-qkdd.rules`"


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
