"""A driver without an instrument, for the tests of the device room."""

from __future__ import annotations

from typing import Any

from qkdd.core import config as core_config
from qkdd.core.units import Radians, Volts
from qkdd.device import Category, DeviceConfig, Driver, Field, Identity
from qkdd.device.facts import DriverFacts
from qkdd.device.fields import Values
from qkdd.device.transport import ByteLink

FACTS = """
title = "toy"
roles = []
transport = "serial"
models = [{ vendor = "v", model = "m" }]
quality = { tier = "bronze", reasons = ["test"] }
firmware = { minimum = "2.0", maximum = "3" }
"""


class Toy(Driver):
    """Keeps what it is told in `state`."""

    angle = Field(doc="Control angle", unit=Radians, range=(0.0, 3.0), size=3, settable=True, category=Category.CONTROL)
    mode = Field(doc="Set mode", kind=str, choices=("a", "b"), settable=True)
    on = Field(doc="Set power", kind=bool, settable=True)
    steps = Field(doc="Set steps", kind=int, range=(0, 10), settable=True)
    level = Field(doc="Measure level", unit=Volts)

    firmware = "2.5"
    fail_in = ""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state: dict[str, Values] = {}
        self.events: list[str] = []

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return ()

    @classmethod
    def facts(cls) -> DriverFacts:
        return core_config.parse(FACTS, DriverFacts)

    def _event(self, name: str) -> None:
        self.events.append(name)
        if self.fail_in == name:
            raise RuntimeError(name)

    async def _identify(self) -> Identity:
        self._event("identify")
        return Identity("v", "m", "7", self.firmware)

    async def _start(self) -> None:
        self._event("start")

    async def _make_safe(self) -> None:
        self._event("safe")

    async def _get_level(self) -> Values:
        return (0.5,)

    async def _store(self, name: str, values: Values) -> Values:
        self._event(f"set {name}")
        self.state[name] = values
        return values

    async def _get_angle(self) -> Values:
        return self.state["angle"]

    async def _set_angle(self, values: Values) -> Values:
        return await self._store("angle", values)

    async def _get_mode(self) -> Values:
        return self.state["mode"]

    async def _set_mode(self, values: Values) -> Values:
        return await self._store("mode", values)

    async def _get_on(self) -> Values:
        return self.state["on"]

    async def _set_on(self, values: Values) -> Values:
        return await self._store("on", values)

    async def _get_steps(self) -> Values:
        return self.state["steps"]

    async def _set_steps(self, values: Values) -> Values:
        return await self._store("steps", values)
