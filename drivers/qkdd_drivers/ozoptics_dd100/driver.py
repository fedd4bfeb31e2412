"""OZ Optics DD-100-MC: motorized optical attenuator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from qkdd.core.units import Decibels
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.serial_link import serial_line
from qkdd.device.transport import ByteLink, ByteReader, FrameError
from qkdd_drivers.dialogue import DialogueDriver, text_line
from qkdd_drivers.ozoptics_dd100 import protocol as voa

T = TypeVar("T")

_LINES = 40  # lines of an answer; the configuration is the longest
_TOLERANCE_DB = 0.1  # by which the read-back may differ from what was asked


class Dd100(DialogueDriver):
    """Role Attenuator. Safe state: the largest attenuation. It is never homed unless `homing` says so."""

    attenuation = Field(
        doc="Control attenuation, insertion loss included",
        unit=Decibels,
        range=(0.0, voa.LARGEST_DB),
        settable=True,
        category=Category.CONTROL,
    )
    homed = Field(doc="Get whether the position is known since power-up", kind=bool, category=Category.DIAGNOSTIC)
    homing = Field(
        doc="Set whether to home when the position is unknown; that lets light through",
        kind=bool,
        settable=True,
        readable=False,
        category=Category.SETTING,
    )

    move_time: ClassVar[float] = 10.0
    """Seconds for a change of the attenuation; public drivers wait 5."""
    home_time: ClassVar[float] = 45.0
    """Seconds for homing; 30 to 40 are usual."""

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 9600),)

    # Role Attenuator

    @property
    def attenuation_range(self) -> tuple[float, float]:
        limits = self.limits("attenuation")
        return limits.low, limits.high

    async def read_attenuation(self) -> float:
        """In dB. Raises CommandRefused while the position is unknown."""
        self.require_open("get attenuation")
        return await self._standing("get attenuation")

    async def set_attenuation(self, value: float) -> float:
        """Go to `value` dB and wait. Returns the read-back. Raises OutOfRange; CommandRefused."""
        self.require_open("set attenuation")
        self.check("attenuation", value)
        return await self._go("set attenuation", value)

    # Hooks of the driver

    async def _identify(self) -> Identity:
        self._span = await self._ask("identify", voa.CONFIGURATION, voa.span, self.answer_time, urgent=True)
        return Identity("OZ Optics", "DD-100-MC", "", "")

    async def _start(self) -> None:
        self.narrow("attenuation", self._span.least, self._span.most)
        await self._make_safe()

    async def _make_safe(self) -> None:
        found = await self._ask("reach safe state", voa.READ, voa.standing, self.answer_time)
        # not homed since power-up it cannot go anywhere, and homing could let light through: it stays, `homed` says so
        if found.attenuation is not None:
            await self._go("reach safe state", self._span.most)

    # Fields

    async def _get_attenuation(self) -> Values:
        return (await self.read_attenuation(),)

    async def _set_attenuation(self, values: Values) -> Values:
        return (await self.set_attenuation(float(values[0])),)

    async def _get_homed(self) -> Values:
        found = await self._ask("get homed", voa.READ, voa.standing, self.answer_time)
        return (found.attenuation is not None,)

    async def _set_homing(self, values: Values) -> Values:
        if values[0] and not (await self._get_homed())[0]:
            await self._ask("set homing", voa.HOME, lambda _: None, self.home_time)
            await self._go("set homing", self._span.most)
        return values

    # Dialogue

    async def _standing(self, operation: str) -> float:
        found = await self._ask(operation, voa.READ, voa.standing, self.answer_time)
        if found.attenuation is None:
            raise self.error(errors.CommandRefused, operation, "its position is unknown: it must be homed first")
        return found.attenuation

    async def _go(self, operation: str, decibels: float) -> float:
        await self._ask(operation, voa.set_attenuation(decibels), voa.moved, self.move_time)
        found = await self._standing(operation)
        if abs(found - decibels) > _TOLERANCE_DB:
            raise self.error(
                errors.CommandRefused, operation, f"it stands at {found:g} dB instead of {decibels:.2f} dB"
            )
        return found

    async def _ask(
        self,
        operation: str,
        command: bytes,
        parse: Callable[[Sequence[str]], T],
        timeout: float,
        *,
        urgent: bool = False,
    ) -> T:
        def answer(reader: ByteReader, seconds: float) -> T:
            lines: list[str] = []
            for _ in range(_LINES):
                line = text_line(reader.until(voa.END_IN, seconds, limit=1024)).strip()
                if voa.over(line):
                    return parse(lines)
                if line:  # empty: the end of an earlier answer
                    lines.append(line)
            raise FrameError(f"{_LINES} lines and no Done")

        return await self.exchange(operation, command + voa.END_OUT, answer, timeout, urgent=urgent)
