"""udev rules and hwdb of the drivers whose driver.toml names USB ids: `python -m qkdd.device.udev [FOLDER]` writes them.

A device of a known id gets the group qkd, the mode 0660, and a stable name under /dev/qkd. The rules run no program. The
hardware database tells `udevadm info` (and whoever asks it) which driver and roles belong to an id.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from qkdd.device import registry
from qkdd.device.facts import DriverFacts

GROUP, MODE = "qkd", "0660"
_ID = re.compile(r"^[0-9a-f]{4}:[0-9a-f]{4}$")
_SERIAL = re.compile(r"^[A-Za-z0-9*?._-]*$")  # what cannot end the quoted value
_HEAD = f"""# Generated from the drivers' driver.toml by `python -m qkdd.device.udev`; do not edit.
# Instruments belong to the group {GROUP} and have a stable name under /dev/qkd: driver and serial number.
"""
_HWDB_HEAD = """# Generated from the drivers' driver.toml by `python -m qkdd.device.udev`; do not edit.
# `systemd-hwdb update` takes it in; `udevadm info /dev/…` shows ID_QKD_DRIVER and ID_QKD_ROLES.
"""


def rules(facts: Mapping[str, DriverFacts]) -> str:
    """The text of 70-qkdd.rules. `facts` by driver name. Raises ValueError for an id or pattern that is no such thing."""
    lines = [_HEAD]
    for name in sorted(facts):
        for usb_id in facts[name].usb.ids:
            lines += [f"# {facts[name].title}", *_rules_of(name, usb_id, facts[name].usb.serial), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _rules_of(name: str, usb_id: str, serial: str) -> Iterator[str]:
    if not _ID.match(usb_id) or not _SERIAL.match(serial):
        raise ValueError(f"driver {name}: usb id {usb_id!r} or serial pattern {serial!r} is malformed")
    vendor, product = usb_id.split(":")
    narrowed = f', ATTRS{{serial}}=="{serial}"' if serial else ""
    give = f'GROUP="{GROUP}", MODE="{MODE}", TAG+="systemd"'
    # the serial port of an adapter chip; all ATTRS of one rule match at the same parent: the USB device
    yield (
        f'SUBSYSTEM=="tty", ATTRS{{idVendor}}=="{vendor}", ATTRS{{idProduct}}=="{product}"{narrowed}, '
        f'{give}, SYMLINK+="qkd/{name}-$attr{{serial}}"'
    )
    # the device itself, for drivers that speak USB; its name is another one, for it is another file
    yield (
        f'SUBSYSTEM=="usb", ENV{{DEVTYPE}}=="usb_device", ATTR{{idVendor}}=="{vendor}", '
        f'ATTR{{idProduct}}=="{product}"{narrowed.replace("ATTRS", "ATTR")}, {give}, '
        f'SYMLINK+="qkd/usb/{name}-$attr{{serial}}"'
    )


def hwdb(facts: Mapping[str, DriverFacts]) -> str:
    """The text of 70-qkdd.hwdb (hwdb(7)): one record for each USB id; drivers that share an id stand in one line.

    Raises ValueError for an id that is no such thing.
    """
    drivers: dict[str, list[str]] = {}
    for name in sorted(facts):
        for usb_id in facts[name].usb.ids:
            if not _ID.match(usb_id):
                raise ValueError(f"driver {name}: usb id {usb_id!r} is malformed")
            drivers.setdefault(usb_id, []).append(name)
    lines = [_HWDB_HEAD]
    for usb_id, names in sorted(drivers.items()):
        vendor, product = usb_id.upper().split(":")
        roles = dict.fromkeys(role for name in names for role in facts[name].roles)
        lines += [
            f"usb:v{vendor}p{product}*",
            f" ID_QKD_DRIVER={' '.join(names)}",
            f" ID_QKD_ROLES={' '.join(roles)}",
            "",
        ]
    return "\n".join(lines).rstrip("\n") + "\n"


def installed_facts() -> dict[str, DriverFacts]:
    """Facts of every installed driver that brings them; no driver is imported."""
    found = {name: entry.facts() for name, entry in registry.catalogue().items()}
    return {name: facts for name, facts in found.items() if facts is not None}


def main(arguments: list[str]) -> None:
    facts = installed_facts()
    texts = {"70-qkdd.rules": rules(facts), "70-qkdd.hwdb": hwdb(facts)}
    for name, text in texts.items():
        if arguments:
            Path(arguments[0], name).write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
