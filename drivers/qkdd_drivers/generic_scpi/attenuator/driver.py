"""An attenuator that speaks SCPI or something like it, by a mapping file."""

from __future__ import annotations

from collections.abc import Sequence

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Decibels
from qkdd.device.config import DeviceConfig
from qkdd.device.fields import Category, Field, Values
from qkdd.device.transport import ByteLink
from qkdd_drivers.generic_scpi.base import MappedDriver
from qkdd_drivers.generic_scpi.mapping import AttenuatorMapping


class GenericAttenuator(MappedDriver[AttenuatorMapping]):
    """Role Attenuator. Safe state: the largest attenuation of the mapping, then its `safe` commands."""

    kind = AttenuatorMapping

    attenuation = Field(
        doc="Control attenuation, insertion loss included",
        unit=Decibels,
        range=(0.0, 200.0),
        settable=True,
        category=Category.CONTROL,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self.narrow("attenuation", *self._map.attenuation.range)

    @property
    def attenuation_range(self) -> tuple[float, float]:
        limits = self.limits("attenuation")
        return limits.low, limits.high

    async def read_attenuation(self) -> float:
        """In dB."""
        self.require_open("get attenuation")
        return await self.read("get attenuation", self._map.attenuation)

    async def set_attenuation(self, value: float) -> float:
        """Returns the read-back. Raises OutOfRange; CommandRefused."""
        self.require_open("set attenuation")
        self.check("attenuation", value)
        return await self.write("set attenuation", self._map.attenuation, value)

    async def _start(self) -> None:
        await super()._start()
        await self.write("start", self._map.attenuation, self._map.attenuation.range[1])

    async def _make_safe(self) -> None:
        await self.write("reach safe state", self._map.attenuation, self._map.attenuation.range[1])
        await super()._make_safe()

    async def _get_attenuation(self) -> Values:
        return (await self.read_attenuation(),)

    async def _set_attenuation(self, values: Values) -> Values:
        return (await self.set_attenuation(float(values[0])),)
