"""An optical switch that speaks SCPI or something like it, by a mapping file."""

from __future__ import annotations

from collections.abc import Sequence

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.fields import Category, Field, Values
from qkdd.device.transport import ByteLink
from qkdd_drivers.generic_scpi.base import MappedDriver
from qkdd_drivers.generic_scpi.mapping import SwitchMapping


class GenericSwitch(MappedDriver[SwitchMapping]):
    """Role OpticalSwitch. Opening and closing leave it where it is, unless the mapping's `open` and `safe` say otherwise."""

    kind = SwitchMapping

    position = Field(
        doc="Control output to which the light goes",
        kind=int,
        range=(1, 1024),
        settable=True,
        category=Category.CONTROL,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self.narrow("position", 1, self._map.positions)

    @property
    def positions(self) -> int:
        return self._map.positions

    async def read_position(self) -> int:
        self.require_open("get position")
        own = await self.read("get position", self._map.position)
        found = round(own) - self._map.first + 1
        if own != round(own) or not 1 <= found <= self._map.positions:
            problem = f"it stands at {own:g}, which is none of its {self._map.positions} outputs"
            raise self.error(errors.ProtocolError, "get position", problem)
        return found

    async def select(self, position: int) -> int:
        """Raises OutOfRange, CommandRefused."""
        self.require_open("set position")
        self.check("position", position)
        await self.write("set position", self._map.position, position + self._map.first - 1)
        return position

    async def _get_position(self) -> Values:
        return (await self.read_position(),)

    async def _set_position(self, values: Values) -> Values:
        return (await self.select(round(float(values[0]))),)
