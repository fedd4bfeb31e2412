"""Facts about a driver that are data, not code: read from the `driver.toml` beside it without importing it."""

from __future__ import annotations

from enum import StrEnum

from qkdd.core.config import Section


class Tier(StrEnum):
    """How far a driver is trusted. A tier includes the ones below; `reasons` in driver.toml says why it is not higher."""

    BRONZE = "bronze"  # passes the contract suite against its simulator
    SILVER = "silver"  # bronze, and an independent program drives the simulator
    GOLD = "gold"  # silver, and it ran on real hardware
    PLATINUM = "platinum"  # gold, and it ran unattended for a month


class Model(Section, frozen=True):
    vendor: str
    model: str
    note: str = ""


class Usb(Section, frozen=True):
    """Ids as "vvvv:pppp" in lower-case hex; `serial` is a pattern of serial numbers (udev glob) that narrows a shared id."""

    ids: tuple[str, ...] = ()
    serial: str = ""
    note: str = ""


class Firmware(Section, frozen=True):
    """Versions that the driver was made for, both ends included; empty means no bound is known."""

    minimum: str = ""
    maximum: str = ""
    note: str = ""

    def allows(self, version: str) -> bool:
        """Compare dotted numbers; an instrument that tells no version is allowed."""
        found = _numbers(version)
        if not found:
            return True
        low, high = _numbers(self.minimum), _numbers(self.maximum)
        return (not low or low <= found) and (not high or found[: len(high)] <= high)


class Quality(Section, frozen=True):
    """judges: independent programs that drive the simulator in continuous integration (`make judges`), by package name."""

    tier: Tier
    reasons: tuple[str, ...]
    checked: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()


class DriverFacts(Section, frozen=True):
    """Content of a driver.toml.

    roles: names in `qkdd.device.roles`. transport: serial, tcp, visa, usb, library, process, file. tcp_ports: the ports that
    are used when the configuration names none. contract: version of the driver contract ("1.1") that a third party's driver
    was written for; empty for ours.
    """

    title: str
    roles: tuple[str, ...]
    transport: str
    models: tuple[Model, ...]
    quality: Quality
    contract: str = ""
    tcp_ports: tuple[int, ...] = ()
    usb: Usb = Usb()
    firmware: Firmware = Firmware()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
