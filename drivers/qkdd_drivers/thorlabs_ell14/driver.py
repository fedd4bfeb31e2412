"""Thorlabs ELL14: rotation mount with a piezo motor, on the Elliptec bus."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Radians
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.serial_link import serial_line
from qkdd.device.transport import ByteLink, ByteReader, FrameError
from qkdd_drivers.dialogue import DialogueDriver, text_line
from qkdd_drivers.thorlabs_ell14 import protocol as ell

T = TypeVar("T")

_TURN = 2 * math.pi
_SLACK = 1e-9  # 360 degrees written in a configuration must not fail by rounding
_TOLERANCE = math.radians(0.2)  # by which a mount may miss its target; 0.1 degrees are usual
_FRAMES = 8  # frames nobody asked for that may come before an answer
_PAUSE = 0.1  # seconds between two moves: one that is sent earlier can end at zero (a public driver's finding)


class Ell14(DialogueDriver):
    """Role RotationMount. Angles count from the home position, or from where the mount stood when it was switched on."""

    angle = Field(
        doc="Control angle of the mount",
        unit=Radians,
        range=(0.0, _TURN + _SLACK),
        settable=True,
        category=Category.CONTROL,
    )
    velocity = Field(
        doc="Set speed as a fraction of the largest",
        range=(0.01, 1.0),
        settable=True,
        category=Category.SETTING,
    )
    homing = Field(
        doc="Set whether to go to the home position now",
        kind=bool,
        settable=True,
        readable=False,
        category=Category.SETTING,
    )

    move_time: ClassVar[float] = 15.0
    """Seconds for a move or for homing, at the lowest speed too."""
    scan_time: ClassVar[float] = 0.1
    """Seconds for an answer of the addresses 1 to F, which most sites do not use."""

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._address: str | None = None
        self._pulses = ell.PULSES
        self._moved_at = -math.inf

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 9600),)

    # Role RotationMount

    @property
    def angle_range(self) -> tuple[float, float]:
        limits = self.limits("angle")
        return limits.low, limits.high

    async def read_angle(self) -> float:
        """In radian."""
        self.require_open("get angle")
        return self._radian(await self._ask("get angle", "gp", "", "PO", ell.position))

    async def rotate(self, value: float) -> float:
        """Go to `value` radian and wait. Returns the angle reached. Raises OutOfRange; CommandRefused; DeviceTimeout."""
        self.require_open("rotate")
        self.check("angle", value)
        found = self._radian(await self._move("rotate", "ma", ell.number(round(value / _TURN * self._pulses))))
        if abs(found - value) > _TOLERANCE:
            raise self.error(
                errors.CommandRefused, "rotate", f"it stands at {found:.4f} rad instead of {value:.4f} rad"
            )
        return found

    async def home(self) -> None:
        """Go to the home position and wait."""
        self.require_open("home")
        await self._move("home", "ho", str(ell.CLOCKWISE))

    # Hooks of the driver

    async def _connect(self) -> Identity:
        self._address = None
        return await super()._connect()

    async def _identify(self) -> Identity:
        if self._address is not None:
            return await self._who(self._address, self.answer_time)
        return await self._search()

    async def _search(self) -> Identity:
        """Address 0 answers, or one of the others; a configured serial number chooses among several mounts."""
        refusal: errors.DeviceError | None = None
        other: Identity | None = None
        for address in ell.ADDRESSES:
            try:
                identity = await self._who(address, self.answer_time if address == "0" else self.scan_time)
            except (errors.DeviceTimeout, errors.WrongDevice) as error:
                if refusal is None or isinstance(error, errors.WrongDevice):
                    refusal = error
                continue
            if self.config.serial_number in ("", identity.serial):
                self._address = address
                return identity
            other = identity
        if other is not None:
            return other  # the base says that its serial number is not the configured one
        raise refusal or self.error(errors.DeviceTimeout, "identify", "no address answers")

    async def _who(self, address: str, timeout: float) -> Identity:
        def answer(reader: ByteReader, seconds: float) -> ell.Info:
            return ell.info(_line(reader, seconds), address)

        found = await self.exchange("identify", ell.command(address, "in"), answer, timeout, urgent=True)
        self._pulses = found.pulses
        model = "ELL14" if found.imperial else "ELL14/M"
        return Identity("Thorlabs", model, found.serial, found.firmware)

    async def _start(self) -> None:
        """Nothing moves by itself, and homing would turn the polarization."""

    async def _make_safe(self) -> None:
        """Nothing moves by itself; every move was waited for."""

    # Fields

    async def _get_angle(self) -> Values:
        return (await self.read_angle(),)

    async def _set_angle(self, values: Values) -> Values:
        return (await self.rotate(float(values[0])),)

    async def _get_velocity(self) -> Values:
        return (await self._ask("get velocity", "gv", "", "GV", ell.percent) / 100,)

    async def _set_velocity(self, values: Values) -> Values:
        percent = round(float(values[0]) * 100)
        await self._ask("set velocity", "sv", f"{percent:02X}", "GS", lambda _: None)
        found = await self._get_velocity()
        if found[0] != percent / 100:
            raise self.error(errors.CommandRefused, "set velocity", f"it stays at {found[0]}")
        return found

    async def _set_homing(self, values: Values) -> Values:
        if values[0]:
            await self._move("set homing", "ho", str(ell.CLOCKWISE))
        return values

    # Dialogue

    def _radian(self, counts: int) -> float:
        return counts / self._pulses * _TURN

    async def _move(self, operation: str, letters: str, data: str) -> int:
        await self._clock.sleep(self._moved_at + _PAUSE - self._clock.monotonic())
        try:
            return await self._ask(operation, letters, data, "PO", ell.position, self.move_time)
        finally:
            self._moved_at = self._clock.monotonic()

    async def _ask(
        self,
        operation: str,
        letters: str,
        data: str,
        wanted: str,
        parse: Callable[[str], T],
        timeout: float | None = None,
    ) -> T:
        address = self._address or "0"

        def answer(reader: ByteReader, seconds: float) -> T:
            for _ in range(_FRAMES):
                found = ell.frame(_line(reader, seconds), address)
                if found is None:
                    continue
                if found[0] != wanted:
                    raise FrameError(f"a {found[0]} frame where {wanted} was due")
                return parse(found[1])
            raise FrameError(f"{_FRAMES} frames and no {wanted}")

        return await self.exchange(operation, ell.command(address, letters, data), answer, timeout)


def _line(reader: ByteReader, seconds: float) -> str:
    return text_line(reader.until(ell.END_IN, seconds, limit=256)).strip()
