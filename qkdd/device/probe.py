"""Which instruments are attached: serial ports and USB devices as the kernel knows them, VISA resources on request.

Looking opens nothing and needs no library: it reads /sys. Only `ask` opens what was found, as the driver's own `probe()` does.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serial.tools import list_ports

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import QkddError
from qkdd.device import build
from qkdd.device.config import DeviceConfig
from qkdd.device.facts import DriverFacts
from qkdd.device.udev import installed_facts
from qkdd.device.visa_link import list_resources

_USB = Path("/sys/bus/usb/devices")
_BY_ID = Path("/dev/serial/by-id")
_RESOURCE = re.compile(r"^USB\d*::(0x[0-9a-f]+|\d+)::(0x[0-9a-f]+|\d+)::([^:]+)::", re.IGNORECASE)
_NAMES = {  # what a device is called in the examples, by its first role
    "TimeTagger": "tagger",
    "Detector": "detectors",
    "PolarizationController": "polarization",
    "Attenuator": "attenuator",
    "PowerMeter": "power",
    "LaserDriver": "laser",
    "EntropySource": "noise",
    "OpticalSwitch": "switch",
    "ClockReference": "clock",
    "RotationMount": "mount",
}
_ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class Attached:
    """Something that the kernel or VISA knows. ids: "vvvv:pppp", empty when it is no USB device. where: how it is named now."""

    where: str
    ids: str = ""
    serial: str = ""
    text: str = ""
    tty: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """An attached thing and the driver that claims its ids; driver is empty when none does."""

    attached: Attached
    driver: str = ""
    title: str = ""
    table: str = ""
    identity: str = ""
    problem: str = ""


def serial_ports() -> list[Attached]:
    """Serial ports behind USB, by their by-id name where there is one."""
    names = {os.path.realpath(link): str(link) for link in sorted(_BY_ID.glob("*"))} if _BY_ID.is_dir() else {}
    found = []
    for port in list_ports.comports():
        if port.vid is None or port.pid is None:
            continue
        ids = f"{port.vid:04x}:{port.pid:04x}"
        where = names.get(os.path.realpath(port.device), port.device)
        text = " ".join(part for part in (port.manufacturer, port.product) if part)
        found.append(Attached(where, ids, port.serial_number or "", text, tty=port.device))
    return found


def usb_devices(folder: Path = _USB) -> list[Attached]:
    """USB devices, from /sys."""
    found = []
    for entry in sorted(folder.glob("*")) if folder.is_dir() else ():
        vendor, product = _read(entry / "idVendor"), _read(entry / "idProduct")
        if not vendor or not product:
            continue
        text = " ".join(part for part in (_read(entry / "manufacturer"), _read(entry / "product")) if part)
        found.append(Attached(entry.name, f"{vendor}:{product}", _read(entry / "serial"), text))
    return found


def visa_resources(usbip: str = "") -> list[Attached]:
    """What the VISA library finds on the network (broadcast) and on USB; takes seconds. usbip: "HOST:PORT" to look there."""
    found = []
    for resource in list_resources(usbip=usbip):
        if match := _RESOURCE.match(resource):  # pyvisa-py writes the ids as decimal numbers
            vendor, product = int(match[1], 0), int(match[2], 0)
            name = f"USB0::0x{vendor:04X}::0x{product:04X}::{match[3]}::INSTR"
            where = f"usbip://{usbip}/{name}" if usbip else name
            found.append(Attached(where, f"{vendor:04x}:{product:04x}", match[3]))
        else:
            found.append(Attached(resource))
    return found


def match(attached: Iterable[Attached], facts: Mapping[str, DriverFacts] | None = None) -> list[Found]:
    """Each thing with every driver that claims it. A USB device that is also a serial port is shown as the latter only."""
    facts = installed_facts() if facts is None else facts
    things = list(attached)
    ports = {(a.ids, a.serial) for a in things if a.tty}
    found = []
    for thing in things:
        claims = [*_claims(thing, facts)]
        if claims:
            found += [Found(thing, name, facts[name].title, _table(name, facts[name], thing)) for name in claims]
        elif thing.tty or (not thing.ids and thing.where) or "::" in thing.where:
            found.append(Found(thing))
    return [
        f for f in found if f.attached.tty or (f.attached.ids, f.attached.serial) not in ports or not f.attached.ids
    ]


def _claims(thing: Attached, facts: Mapping[str, DriverFacts]) -> Iterator[str]:
    for name in sorted(facts):
        usb = facts[name].usb
        fits = facts[name].transport != "serial" or bool(thing.tty)
        if thing.ids in usb.ids and fnmatch.fnmatchcase(thing.serial, usb.serial or "*") and fits:
            yield name


def _table(name: str, facts: DriverFacts, thing: Attached) -> str:
    """The TOML table to paste."""
    lines = [f"[devices.{_NAMES.get(facts.roles[0], 'instrument')}]", f'driver = "{name}"']
    by_number = f"/{thing.serial}" if thing.serial else ""
    match facts.transport:
        case "serial":
            stable = thing.where.startswith(str(_BY_ID)) or not thing.serial
            lines.append(f'port = "{thing.where if stable else f"serial://{thing.ids}{by_number}"}"')
        case "usb" if "::" not in thing.where:
            lines.append(f'port = "usb://{thing.ids}{by_number}"')
        case "visa":
            vendor, product = thing.ids.upper().split(":")
            where = thing.where if "::" in thing.where else f"USB0::0x{vendor}::0x{product}::{thing.serial}::INSTR"
            lines.append(f'port = "{where}"')
        case "library":
            lines.append('library = "/path/to/the/vendors/library.so"')
            lines += [f'serial_number = "{thing.serial}"'] if thing.serial else []
        case "process":
            lines.append("# see the README of the driver for the program or interpreter to give here")
        case _:
            lines.append(f'port = "{thing.where}"')
    return "\n".join(lines)


async def ask(found: Found) -> Found:
    """Open what was found with its driver, ask who it is, close it."""
    port = re.search(r'^port = "(.+)"$', found.table, re.MULTILINE)
    if port is None:
        return found
    try:
        config = DeviceConfig(driver=found.driver, port=port[1])
        async with asyncio.timeout(_ASK_S):
            who = await build("probe", config, SystemClock(), RecordingMeter()).probe()
    except TimeoutError:
        return _with(found, problem=f"no answer within {_ASK_S:g} s")
    except QkddError as error:
        return _with(found, problem=f"{error.code}: {error.message}")
    return _with(found, identity=" ".join(part for part in (who.vendor, who.model, who.serial, who.firmware) if part))


def _with(found: Found, *, identity: str = "", problem: str = "") -> Found:
    return Found(found.attached, found.driver, found.title, found.table, identity, problem)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:  # the device has no such string, or has just gone
        return ""
