"""Single-photon detectors whose controller speaks SCPI or something like it, by a mapping file."""

from __future__ import annotations

from collections.abc import Sequence

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import CountReading
from qkdd.device.transport import ByteLink
from qkdd_drivers.generic_scpi.base import MappedDriver
from qkdd_drivers.generic_scpi.mapping import DetectorMapping, Quantity


class GenericDetector(MappedDriver[DetectorMapping]):
    """Role Detector. Opening leaves the bias as it is found; closing takes it to zero, then sends the `safe` commands."""

    kind = DetectorMapping

    bias_level = Field(
        doc="Control bias of each detector, in the unit of the mapping",
        range=(0.0, 1000.0),
        size=None,
        settable=True,
        category=Category.CONTROL,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self.narrow("bias_level", *(self._map.bias.range if self._map.bias is not None else (0.0, 0.0)))

    # Role Detector

    @property
    def detectors(self) -> int:
        return self._map.detectors

    @property
    def bias_unit(self) -> str:
        return self._map.bias_unit

    async def counts(self) -> CountReading:
        self.require_open("get counts")
        found = [round(await self.read("get counts", self._map.counts, d)) for d in self._numbers]
        return CountReading(self._clock.wall(), float(self._map.period), tuple(found))

    async def bias(self) -> tuple[float, ...]:
        """One for each detector; none when the mapping has no bias."""
        self.require_open("get bias")
        if self._map.bias is None:
            return ()
        return tuple([await self.read("get bias", self._map.bias, d) for d in self._numbers])

    async def set_bias(self, detector: int, value: float) -> float:
        self.require_open("set bias")
        if not 0 <= detector < self.detectors:
            raise ValueError(f"there are detectors 0 to {self.detectors - 1}, not {detector}")
        self.check("bias_level", value)
        return await self.write("set bias", self._bias("set bias"), value, self._map.first + detector)

    async def set_enabled(self, enabled: bool) -> None:
        """The mapping's `on` commands, or its `safe` commands."""
        self.require_open("set enabled")
        await self.command("set enabled", *(self._map.on if enabled else self._map.safe))

    # Hooks of the driver

    async def _make_safe(self) -> None:
        if self._map.bias is not None and self._map.bias.range[0] <= 0.0:
            for number in self._numbers:
                await self.write("reach safe state", self._map.bias, 0.0, number)
        await super()._make_safe()

    # Fields

    async def _get_bias_level(self) -> Values:
        return await self.bias()

    async def _set_bias_level(self, values: Values) -> Values:
        if len(values) not in (1, self.detectors):
            raise ValueError(f"bias_level has {self.detectors} elements, not {len(values)}")
        wanted = values * self.detectors if len(values) == 1 else values
        return tuple([await self.set_bias(n, float(value)) for n, value in enumerate(wanted)])

    @property
    def _numbers(self) -> range:
        return range(self._map.first, self._map.first + self._map.detectors)

    def _bias(self, operation: str) -> Quantity:
        if self._map.bias is None:
            raise self.error(errors.CommandRefused, operation, "its mapping has no bias")
        return self._map.bias
