"""The device room: the public contract of instrument drivers. Start at `driver.Driver`; `build` makes one."""

from __future__ import annotations

from collections.abc import Collection

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device import registry
from qkdd.device.config import DeviceConfig, bus_keys, check_devices
from qkdd.device.driver import Driver
from qkdd.device.fields import Category, Field, Limits, Value, Values
from qkdd.device.registry import CONTRACT_VERSION
from qkdd.device.roles import CountReading, Detector, Identity, PolarizationController, TimeTagger
from qkdd.device.tags import StreamStart, TagBlock
from qkdd.device.transport import Wrap

__all__ = [
    "CONTRACT_VERSION",
    "Category",
    "CountReading",
    "Detector",
    "DeviceConfig",
    "Driver",
    "Field",
    "Identity",
    "Limits",
    "PolarizationController",
    "StreamStart",
    "TagBlock",
    "TimeTagger",
    "Value",
    "Values",
    "build",
    "bus_keys",
    "check_devices",
]


def build(
    name: str,
    config: DeviceConfig,
    clock: Clock,
    meter: Meter,
    *,
    allow: Collection[str] | None = None,
    wrap: Wrap | None = None,
) -> Driver:
    """The closed driver of one device; no I/O.

    `allow`: the site's list of allowed drivers, None for all. `wrap` is put around each link (fault injection, traffic
    recording). Raises UnknownDriver, DriverNotAllowed, DriverBroken, DeviceConfigError.
    """
    kind = registry.load(config.driver, allow)
    links = kind.links(config)
    if wrap is not None:
        links = tuple(wrap(link) for link in links)
    return kind(name, config, links, clock, meter)
