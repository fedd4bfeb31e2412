"""The `[devices.NAME]` section, and what can be said about all of them before any driver is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from qkdd.core.config import Section
from qkdd.device import registry
from qkdd.device.serial_link import serial_key


class DeviceConfig(Section, frozen=True):
    """One instrument: which driver, where it is, and what the site wants of it.

    port: a serial device path (best under /dev/serial/by-id) or a pyserial URL. host: name or address for TCP;
    tcp_ports: its ports when they are not the driver's usual ones. serial_number: refuse any other instrument.
    limits: site limits by field, two values with unit. settings: values to set after each connect, by field; one value
    for all elements or a list with one for each.
    """

    driver: str
    port: str = ""
    host: str = ""
    tcp_ports: tuple[int, ...] = ()
    serial_number: str = ""
    limits: dict[str, Any] = {}
    settings: dict[str, Any] = {}

    def check(self) -> Iterator[tuple[str, str, str]]:
        if bool(self.port) == bool(self.host):
            yield (
                "port" if self.port else "driver",
                "an instrument is reached by `port` or by `host`"
                + (", not by both" if self.port else "; neither is given"),
                'write port = "/dev/serial/by-id/…" or host = "192.0.2.1"',
            )
        if self.port and self.tcp_ports:
            yield "tcp_ports", "belongs to `host`, not to a serial port", "remove it"
        if any(not 0 < number < 65536 for number in self.tcp_ports):
            yield "tcp_ports", "a TCP port lies between 1 and 65535", ""


def bus_keys(config: DeviceConfig) -> tuple[str, ...]:
    """The lines that a device will use, by name, without opening or importing anything.

    Two names of one serial device give the same key while it is there. A TCP instrument whose driver is not installed
    gives one key for its host.
    """
    if config.port:
        return (serial_key(config.port),)
    ports = config.tcp_ports
    if not ports:
        entry = registry.catalogue().get(config.driver)
        facts = entry.facts() if entry is not None else None
        ports = facts.tcp_ports if facts is not None else ()
    return tuple(f"tcp:{config.host}:{port}" for port in ports) or (f"tcp:{config.host}",)


def check_devices(devices: Mapping[str, DeviceConfig]) -> Iterator[tuple[str, str, str]]:
    """Findings over all devices (key relative to `devices`, problem, remedy): a line that is given twice."""
    owners: dict[str, str] = {}
    for name, config in devices.items():
        for key in bus_keys(config):
            if (owner := owners.setdefault(key, name)) != name:
                yield (
                    f"{name}.{'port' if config.port else 'host'}",
                    f"{_readable(config)} is already the line of device {owner!r}",
                    "give each instrument its own port",
                )
                break


def _readable(config: DeviceConfig) -> str:
    if not config.port:
        return config.host
    real = os.path.realpath(config.port)
    return config.port if "://" in config.port or real == config.port else f"{config.port} ({real})"
