"""Thorlabs MPC320 / MPC220: motorized fibre paddles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Radians
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver, serial_port
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.serial_link import serial_line
from qkdd.device.transport import ByteLink, ByteReader, FrameError, Refused
from qkdd_drivers.thorlabs_mpc320 import protocol as apt
from qkdd_drivers.thorlabs_mpc320.protocol import Frame

T = TypeVar("T")

_WRITE = 1.0
_POLL = 0.03  # seconds between two looks at a moving paddle
_MARGIN = 2.0  # seconds a move may take longer than its speed says
_TOLERANCE = 1  # counts (0.12 degrees) by which a paddle may miss its target
_MESSAGES = 64  # messages nobody asked for (status, completions) that may come before an answer
_STOP = tuple(Frame(apt.MOVE_STOP, channel, 2) for channel in apt.PADDLES)
_SLACK = apt.radian(1) * 1e-6  # 170 degrees written in a configuration must not fail by rounding


class Mpc320(Driver):
    """Role PolarizationController. Positions are those of the status messages, which public drivers agree on.

    MOVE_COMPLETED is not relied on (fact sheet): a move is over when the status says that the paddle stands on its target.
    """

    answer_time: ClassVar[float] = 1.0
    """Seconds for an answer."""

    angle = Field(
        doc="Control angle of each paddle",
        unit=Radians,
        range=(0.0, apt.TRAVEL_RAD + _SLACK),
        size=3,
        settable=True,
        category=Category.CONTROL,
    )
    velocity = Field(
        doc="Set speed of the paddles as a fraction of 400 degrees a second",
        range=(0.1, 1.0),
        settable=True,
        category=Category.SETTING,
    )
    home = Field(
        doc="Set angle to which a paddle goes when it is homed",
        unit=Radians,
        range=(0.0, apt.TRAVEL_RAD + _SLACK),
        settable=True,
        category=Category.SETTING,
    )
    motor_current = Field(doc="Measure current of each motor in milliampere", size=3, category=Category.DIAGNOSTIC)

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._reader = ByteReader(links[0], clock)

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        return (serial_line(serial_port(config), 115200, rtscts=True),)

    # Role PolarizationController

    @property
    def paddles(self) -> int:
        return len(apt.PADDLES)

    @property
    def setting_unit(self) -> str:
        return "rad"

    @property
    def setting_range(self) -> tuple[float, float]:
        limits = self.limits("angle")
        return limits.low, limits.high

    async def settings(self) -> tuple[float, ...]:
        """Angles of all paddles in radian."""
        self.require_open("get angle")
        return tuple([apt.radian((await self._status("get angle", channel)).position) for channel in apt.PADDLES])

    async def move(self, paddle: int, value: float) -> float:
        """Move paddle 0, 1 or 2 to `value` radian and wait for it. Returns the angle reached, to the nearest count.

        Raises OutOfRange; CommandRefused when the instrument says no; DeviceTimeout when the paddle does not arrive.
        """
        self.require_open("move")
        if not 0 <= paddle < self.paddles:
            raise ValueError(f"there are paddles 0 to {self.paddles - 1}, not {paddle}")
        self.check("angle", value)
        channel, target = apt.PADDLES[paddle], apt.counts(value)
        speed = (await self._params("move")).velocity / 100 * apt.MAX_RAD_PER_S
        status = await self._status("move", channel, apt.move_absolute(channel, target))
        end = self._clock.monotonic() + apt.TRAVEL_RAD / speed + _MARGIN
        while True:
            if abs(status.position - target) <= _TOLERANCE and not status.bits & apt.MOVING:
                return apt.radian(status.position)
            if not status.bits & apt.ENABLED:
                raise self.error(errors.CommandRefused, "move", f"paddle {paddle} is disabled")
            if self._clock.monotonic() > end:
                raise self.error(
                    errors.DeviceTimeout, "move", f"paddle {paddle} stands at count {status.position}, not at {target}"
                )
            await self._clock.sleep(_POLL)
            status = await self._status("move", channel)

    # Hooks of the driver

    async def _connect(self) -> Identity:
        self._reader.forget()
        return await super()._connect()

    async def _identify(self) -> Identity:
        info = await self._ask("identify", (Frame(apt.HW_REQ_INFO),), apt.HW_GET_INFO, apt.info, urgent=True)
        if not info.model.startswith("MPC"):
            raise self.error(errors.WrongDevice, "identify", f"says that it is a {info.model!r}")
        return Identity("Thorlabs", info.model, str(info.serial), info.firmware)

    async def _start(self) -> None:
        # stop what moves, then enable: a paddle that was never disabled does not jump to an earlier set point
        await self._enable("enable paddles", apt.ALL)

    async def _make_safe(self) -> None:
        await self._enable("reach safe state", 0)

    async def _enable(self, operation: str, mask: int) -> None:
        # enabling is answered with a status that nobody asked for; the parameters come after it and take it off the line,
        # where it would pass for the answer to a later question
        orders = (*_STOP, Frame(apt.SET_CHANENABLESTATE, mask, 1), Frame(apt.POL_REQ_PARAMS))
        await self._ask(operation, orders, apt.POL_GET_PARAMS, apt.params)

    # Fields

    async def _get_angle(self) -> Values:
        return await self.settings()

    async def _set_angle(self, values: Values) -> Values:
        return tuple([await self.move(paddle, float(value)) for paddle, value in enumerate(values)])

    async def _get_velocity(self) -> Values:
        return ((await self._params("get velocity")).velocity / 100,)

    async def _set_velocity(self, values: Values) -> Values:
        old = await self._params("set velocity")
        found = await self._write_params("set velocity", round(float(values[0]) * 100), old.home, old.jog)
        return (found.velocity / 100,)

    async def _get_home(self) -> Values:
        return (apt.radian((await self._params("get home")).home),)

    async def _set_home(self, values: Values) -> Values:
        old = await self._params("set home")
        found = await self._write_params("set home", old.velocity, apt.counts(float(values[0])), old.jog)
        return (apt.radian(found.home),)

    async def _get_motor_current(self) -> Values:
        return tuple([float((await self._status("get motor_current", c)).current) for c in apt.PADDLES])

    # Dialogue

    async def _params(self, operation: str) -> apt.Params:
        return await self._ask(operation, (Frame(apt.POL_REQ_PARAMS),), apt.POL_GET_PARAMS, apt.params)

    async def _write_params(self, operation: str, velocity: int, home: int, jog: tuple[int, int, int]) -> apt.Params:
        wanted = apt.Params(velocity, home, jog)
        write = Frame(apt.POL_SET_PARAMS, data=apt.encode_params(wanted))
        found = await self._ask(operation, (write, Frame(apt.POL_REQ_PARAMS)), apt.POL_GET_PARAMS, apt.params)
        if found != wanted:
            raise self.error(errors.CommandRefused, operation, f"it keeps {found} instead of {wanted}")
        return found

    async def _status(self, operation: str, channel: int, *orders: Frame) -> apt.Status:
        """Status of one paddle after `orders`. A complaint about an order comes before the status, so it is seen."""

        def of_channel(data: bytes) -> apt.Status | None:
            found = apt.status(data)
            return found if found.channel == channel else None

        question = Frame(apt.REQ_USTATUSUPDATE, channel)
        return await self._ask(operation, (*orders, question), apt.GET_USTATUSUPDATE, of_channel)

    async def _ask(
        self,
        operation: str,
        frames: tuple[Frame, ...],
        answer: int,
        parse: Callable[[bytes], T | None],
        *,
        urgent: bool = False,
    ) -> T:
        """Send frames, return the first message `answer` that `parse` takes (None: not this one)."""
        return await self.run(
            operation, lambda _: self._exchange(frames, answer, parse), self.answer_time + _WRITE, urgent=urgent
        )

    def _exchange(self, frames: tuple[Frame, ...], answer: int, parse: Callable[[bytes], T | None]) -> T:
        reader = self._reader
        reader.ask(b"".join(frame.encode() for frame in frames), _WRITE)
        for _ in range(_MESSAGES):
            frame, length = apt.header(reader.exactly(apt.HEADER_BYTES, self.answer_time), apt.HOST, apt.DEVICE)
            payload = reader.exactly(length, self.answer_time) if length else b""
            if (problem := apt.complaint(frame.id, payload)) is not None:
                raise Refused(problem)
            if frame.id == answer and (value := parse(payload)) is not None:
                reader.settled()
                return value
        raise FrameError(f"{_MESSAGES} messages and no answer {answer:#06x} among them")
