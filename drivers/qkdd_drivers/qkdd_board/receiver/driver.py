"""QKDD-RX1: gate and discriminator of a receiver; the clicks go to a time tagger, not through this board."""

from __future__ import annotations

from qkdd_fwbridge.messages import Role

from qkdd.core.units import Seconds, Volts
from qkdd.device.fields import Category, Field, Values
from qkdd_drivers.qkdd_board.driver import BoardDriver


class Receiver(BoardDriver):
    """Role FirmwareTarget."""

    board_role = Role.RECEIVER

    gate = Field(doc="Control whether the detectors are gated on", kind=bool, settable=True, category=Category.CONTROL)
    gate_width = Field(
        doc="Set width of the gate", unit=Seconds, range=(1e-10, 2e-8), settable=True, category=Category.SETTING
    )
    gate_delay = Field(
        doc="Control delay of the gate", unit=Seconds, range=(0.0, 1e-6), settable=True, category=Category.CONTROL
    )
    discriminator = Field(
        doc="Set threshold of the discriminator", unit=Volts, range=(0.0, 0.5), settable=True, category=Category.SETTING
    )
    dead_time = Field(
        doc="Set dead time after a click", unit=Seconds, range=(0.0, 1e-4), settable=True, category=Category.SETTING
    )

    async def _get_gate(self) -> Values:
        return (bool((await self.read_register("gate"))[0]),)

    async def _set_gate(self, values: Values) -> Values:
        return (bool((await self.write_register("gate", values))[0]),)

    async def _get_gate_width(self) -> Values:
        return await self.read_register("gate_width")

    async def _set_gate_width(self, values: Values) -> Values:
        return await self.write_register("gate_width", values)

    async def _get_gate_delay(self) -> Values:
        return await self.read_register("gate_delay")

    async def _set_gate_delay(self, values: Values) -> Values:
        return await self.write_register("gate_delay", values)

    async def _get_discriminator(self) -> Values:
        return await self.read_register("discriminator")

    async def _set_discriminator(self, values: Values) -> Values:
        return await self.write_register("discriminator", values)

    async def _get_dead_time(self) -> Values:
        return await self.read_register("dead_time")

    async def _set_dead_time(self, values: Values) -> Values:
        return await self.write_register("dead_time", values)
