"""The `[devices.NAME]` section, and what can be said about all of them before any driver is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qkdd.core.config import Section
from qkdd.device import registry
from qkdd.device.lines import line_key

_CREDENTIALS = re.compile(r"://[^/]*@")
WAYS = ("port", "host", "library", "program", "python", "recording")
"""Keys of a device's section that say where it is; exactly one of them is given."""


class DeviceConfig(Section, frozen=True):
    """One instrument: which driver, where it is, and what the site wants of it.

    Where it is, in exactly one of these ways: port: a serial device path (best under /dev/serial/by-id) or a pyserial URL.
    host: name or address for TCP; tcp_ports: its ports when they are not the driver's usual ones. library: path of the
    vendor's shared library. program: the vendor's streaming program with its arguments. python: the interpreter that has
    the vendor's Python package. recording: a file of time tags.
    options: what the driver needs beside that before it opens; its README lists them. serial_number: refuse any other
    instrument. limits: site limits by field, two values with unit. settings: values to set after each connect, by field;
    one value for all elements or a list with one for each.
    """

    driver: str
    port: str = ""
    host: str = ""
    library: str = ""
    program: tuple[str, ...] = ()
    python: str = ""
    recording: str = ""
    tcp_ports: tuple[int, ...] = ()
    options: dict[str, Any] = {}
    serial_number: str = ""
    limits: dict[str, Any] = {}
    settings: dict[str, Any] = {}

    def check(self) -> Iterator[tuple[str, str, str]]:
        given = [way for way in WAYS if getattr(self, way)]
        if len(given) != 1:
            yield (
                given[0] if given else "driver",
                f"an instrument is reached in one way: {', '.join(f'`{way}`' for way in WAYS)}; "
                + (f"given are {', '.join(given)}" if given else "none is given"),
                'write for example port = "/dev/serial/by-id/…" or host = "192.0.2.1"; the README of the driver says which',
            )
        if _CREDENTIALS.search(self.port):
            yield "port", "the address holds a name or password; no line uses them, and messages repeat it", "remove it"
        if self.tcp_ports and not self.host:
            yield "tcp_ports", "belongs to `host` only", "remove it"
        if any(not 0 < number < 65536 for number in self.tcp_ports):
            yield "tcp_ports", "a TCP port lies between 1 and 65535", ""


def bus_keys(config: DeviceConfig) -> tuple[str, ...]:
    """The lines that a device will use, by name, without opening or importing anything.

    Two names of one serial device give the same key while it is there. A TCP instrument whose driver is not installed
    gives one key for its host.
    """
    if config.port:
        return (line_key(config.port),)
    if not config.host:
        return (place_key(config),)
    ports = config.tcp_ports
    if not ports:
        entry = registry.catalogue().get(config.driver)
        facts = entry.facts() if entry is not None else None
        ports = facts.tcp_ports if facts is not None else ()
    return tuple(f"tcp:{config.host}:{port}" for port in ports) or (f"tcp:{config.host}",)


def place_key(config: DeviceConfig) -> str:
    """Bus key of what is reached by a library, a program, an interpreter or a file.

    One library serves several instruments: `serial_number`, or else the option `device_index`, tells them apart.
    """
    which = f"#{config.serial_number or config.options.get('device_index', '')}".rstrip("#")
    if config.library:
        return f"library:{os.path.realpath(config.library)}{which}"
    if config.program:
        return f"program:{' '.join(config.program)}"
    if config.python:
        return f"python:{os.path.abspath(config.python)}#{config.driver}{which}"
    return f"recording:{os.path.realpath(config.recording)}"


def resolved(config: DeviceConfig, base: Path) -> DeviceConfig:
    """Paths of files as seen from `base`, the folder of the configuration. Names without a slash stay: they are looked up."""

    def place(text: str) -> str:
        return str(base / text) if "/" in text else text

    return msgspec.structs.replace(
        config,
        library=place(config.library),
        program=(place(config.program[0]), *config.program[1:]) if config.program else (),
        python=place(config.python),
        recording=str(base / config.recording) if config.recording else "",
    )


def check_devices(devices: Mapping[str, DeviceConfig]) -> Iterator[tuple[str, str, str]]:
    """Findings over all devices (key relative to `devices`, problem, remedy): a line that is given twice."""
    owners: dict[str, str] = {}
    for name, config in devices.items():
        for key in bus_keys(config):
            if (owner := owners.setdefault(key, name)) != name:
                yield (
                    f"{name}.{next((way for way in WAYS if getattr(config, way)), 'driver')}",
                    f"{_readable(config)} is already the line of device {owner!r}",
                    "give each instrument its own port",
                )
                break


def _readable(config: DeviceConfig) -> str:
    if not config.port:
        return config.host or place_key(config)
    real = os.path.realpath(config.port)
    return config.port if "://" in config.port or real == config.port else f"{config.port} ({real})"
