"""Acme VOA-1: optical attenuator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from qkdd_drivers.dialogue import DialogueDriver, text_line

from acme_qkd.acme_voa1 import protocol as voa
from qkdd.core.units import Decibels
from qkdd.device import Category, DeviceConfig, Field, Identity, Values, errors
from qkdd.device.driver import serial_port
from qkdd.device.serial_link import serial_line
from qkdd.device.transport import ByteLink, ByteReader

T = TypeVar("T")

_MOST_DB = 60.0
_STEP_DB = 0.01


class AcmeVoa1(DialogueDriver):
    """Role Attenuator. Safe state: the largest attenuation."""

    attenuation = Field(
        doc="Control attenuation, insertion loss included",
        unit=Decibels,
        range=(0.0, _MOST_DB),
        settable=True,
        category=Category.CONTROL,
    )

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 115200),)

    # Role Attenuator

    @property
    def attenuation_range(self) -> tuple[float, float]:
        limits = self.limits("attenuation")
        return limits.low, limits.high

    async def read_attenuation(self) -> float:
        self.require_open("get attenuation")
        return await self._ask("get attenuation", voa.READ, voa.attenuation)

    async def set_attenuation(self, value: float) -> float:
        self.require_open("set attenuation")
        self.check("attenuation", value)
        return await self._go("set attenuation", value)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        return await self._ask("identify", voa.IDENTIFY, voa.identity, urgent=True)

    async def _start(self) -> None:
        await self._go("start", _MOST_DB)

    async def _make_safe(self) -> None:
        await self._go("reach safe state", _MOST_DB)

    # Fields

    async def _get_attenuation(self) -> Values:
        return (await self.read_attenuation(),)

    async def _set_attenuation(self, values: Values) -> Values:
        return (await self.set_attenuation(float(values[0])),)

    # Dialogue

    async def _go(self, operation: str, decibels: float) -> float:
        await self._ask(operation, voa.set_attenuation(decibels), voa.accepted)
        found = await self._ask(operation, voa.READ, voa.attenuation)
        if abs(found - decibels) > _STEP_DB:
            raise self.error(errors.CommandRefused, operation, f"it stands at {found:g} instead of {decibels:.2f} dB")
        return found

    async def _ask(self, operation: str, command: bytes, parse: Callable[[str], T], *, urgent: bool = False) -> T:
        def answer(reader: ByteReader, seconds: float) -> T:
            line = text_line(reader.until(voa.END, seconds, limit=256))
            reader.settled()
            return parse(line)

        return await self.exchange(operation, command + voa.END, answer, urgent=urgent)
