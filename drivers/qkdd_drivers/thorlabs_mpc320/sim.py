"""An MPC320 that behaves: paddles that take time to move, status messages, enable mask, stored parameters."""

from __future__ import annotations

import asyncio
import struct
from typing import ClassVar

from qkdd.device.transport import FrameError
from qkdd_drivers.simkit import Address, OnMove, Simulator, make_wire
from qkdd_drivers.thorlabs_mpc320 import protocol as apt
from qkdd_drivers.thorlabs_mpc320.protocol import Frame

_TICK = 0.02  # seconds between two positions of a moving paddle
_STATUS_PERIOD = 0.1  # seconds between automatic status messages


class _Paddle:
    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.position = float(apt.TRAVEL_COUNTS) / 2
        self.target = self.position
        self.homed = False
        self.completion: int | None = None  # message that says the move is over

    @property
    def moving(self) -> bool:
        return self.position != self.target


class Mpc320Sim(Simulator):
    """One controller with three paddles. `pty`/`listen` as in `simkit.make_wire`.

    Own fault: `jam` (the paddles stay where they are, whatever is commanded).
    """

    model = "mpc320"
    faults: ClassVar[frozenset[str]] = Simulator.faults | {"jam"}

    def __init__(
        self,
        on_move: OnMove,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = None,
        seed: int = 1,
        serial: int = 38123456,
    ) -> None:
        super().__init__(seed)
        self._on_move = on_move
        self._wire = make_wire(self._received, pty, listen)
        self._input = bytearray()
        self._paddles = tuple(_Paddle(channel) for channel in apt.PADDLES)
        self._enabled = 0
        self._params = apt.Params(50, apt.TRAVEL_COUNTS // 2, (25, 25, 25))
        self._serial = serial
        self._updates = False
        self._jam = False
        self._mover: asyncio.Task[None] | None = None
        self._updater: asyncio.Task[None] | None = None

    @property
    def angles(self) -> tuple[float, float, float]:
        """Where the paddles are, in radian."""
        a, b, c = (apt.radian(1) * paddle.position for paddle in self._paddles)
        return a, b, c

    async def start(self) -> Address:
        address = await self._wire.listen()
        self._on_move(self.angles)
        return Address(self.model, address.port, address.host, address.tcp_ports)

    async def stop(self) -> None:
        tasks = [task for task in (self._mover, self._updater) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._mover = self._updater = None
        self._updates = False
        await self._wire.close()

    def unplug(self) -> None:
        self._input.clear()
        self._wire.cut()

    def plug(self) -> None:
        self._wire.mend()

    def send(self, data: bytes) -> None:
        self._wire.write(data)

    def inject(self, fault: str, **args: float) -> None:
        super().inject(fault, **args)
        if fault == "clear":
            self._jam = False

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        self._jam = fault == "jam"

    # Messages

    def _received(self, data: bytes) -> None:
        if self.hang:
            return
        self._input += data
        while len(self._input) >= apt.HEADER_BYTES:
            try:
                frame, length = apt.header(bytes(self._input[: apt.HEADER_BYTES]), apt.DEVICE, apt.HOST)
            except FrameError:
                del self._input[0]  # look for the next place where a frame may begin
                continue
            end = apt.HEADER_BYTES + length
            if len(self._input) < end:
                return
            if length:
                frame = Frame(frame.id, data=bytes(self._input[apt.HEADER_BYTES : end]))
            del self._input[:end]
            try:
                self._handle(frame)
            except struct.error:
                self._reply(Frame(apt.HW_RESPONSE))

    def _handle(self, frame: Frame) -> None:
        acts = frame.id in (apt.MOVE_ABSOLUTE, apt.MOVE_HOME, apt.MOVE_JOG, apt.POL_SET_PARAMS, apt.SET_CHANENABLESTATE)
        if self.refuse and acts:
            text = struct.pack("<HH64s", frame.id, 0x11, b"refused by fault injection")
            self._reply(Frame(apt.HW_RICHRESPONSE, data=text))
            return
        match frame.id:
            case apt.HW_REQ_INFO:
                model = "KDC101" if self.wrong_identity else "MPC320"
                self._reply(Frame(apt.HW_GET_INFO, data=apt.encode_info(apt.Info(self._serial, model, "1.0.2", 3))))
            case apt.SET_CHANENABLESTATE:
                self._enabled = frame.p1 & apt.ALL
                for paddle in self._paddles:
                    if not self._enabled & paddle.channel:
                        paddle.target = paddle.position
                        paddle.completion = None
                # answered with a status, not with silence
                self._send_status(next((p for p in self._paddles if frame.p1 & p.channel), self._paddles[0]))
            case apt.REQ_CHANENABLESTATE:
                on = 1 if self._enabled & frame.p1 else 2
                self._reply(Frame(apt.GET_CHANENABLESTATE, frame.p1, on))
            case apt.REQ_USTATUSUPDATE:
                self._send_status(self._paddle(frame.p1))
            case apt.REQ_POSCOUNTER:
                paddle = self._paddle(frame.p1)
                data = struct.pack("<Hi", paddle.channel, round(paddle.position))
                self._reply(Frame(apt.GET_POSCOUNTER, data=data))
            case apt.POL_REQ_PARAMS:
                self._reply(Frame(apt.POL_GET_PARAMS, data=apt.encode_params(self._params)))
            case apt.POL_SET_PARAMS if frame.data is not None:
                _, velocity, home, a, b, c = struct.unpack("<6H", frame.data)
                self._params = apt.Params(min(max(velocity, 10), 100), min(home, apt.TRAVEL_COUNTS), (a, b, c))
            case apt.MOVE_ABSOLUTE if frame.data is not None:
                channel, counts = struct.unpack("<Hi", frame.data)
                self._go(self._paddle(channel), counts, apt.MOVE_COMPLETED)
            case apt.MOVE_HOME:
                paddle = self._paddle(frame.p1)
                self._go(paddle, self._params.home, apt.MOVE_HOMED)
            case apt.MOVE_JOG:
                paddle = self._paddle(frame.p1)
                step = self._params.jog[self._paddles.index(paddle)]
                self._go(paddle, round(paddle.position) + (step if frame.p2 == 1 else -step), apt.MOVE_COMPLETED)
            case apt.MOVE_STOP:
                paddle = self._paddle(frame.p1)
                paddle.position = paddle.target = float(round(paddle.position))
                paddle.completion = None
                self._reply(Frame(apt.MOVE_STOPPED, paddle.channel))
            case apt.HW_START_UPDATEMSGS:
                self._updates = True
                if self._updater is None or self._updater.done():
                    self._updater = asyncio.get_running_loop().create_task(self._update())
            case apt.HW_STOP_UPDATEMSGS:
                self._updates = False
            case _:  # MOD_IDENTIFY blinks, ACK_USTATUSUPDATE keeps alive, others are not for this model
                return

    def _paddle(self, channel: int) -> _Paddle:
        return next((p for p in self._paddles if p.channel == channel), self._paddles[0])

    def _reply(self, frame: Frame) -> None:
        data = Frame(frame.id, frame.p1, frame.p2, frame.data, apt.HOST, apt.DEVICE).encode()
        if self.late:
            asyncio.get_running_loop().call_later(self.late, self._wire.write, data)
        else:
            self._wire.write(data)

    def _send_status(self, paddle: _Paddle) -> None:
        bits = apt.CONNECTED | apt.POWER_OK
        if self._enabled & paddle.channel:
            bits |= apt.ENABLED
        if paddle.homed:
            bits |= apt.HOMED
        if paddle.moving and not self._jam:
            bits |= 0x10 if paddle.target > paddle.position else 0x20
        value = apt.Status(paddle.channel, round(paddle.position), self._params.velocity, 0, bits)
        self._reply(Frame(apt.GET_USTATUSUPDATE, data=apt.encode_status(value)))

    # Motion

    def _go(self, paddle: _Paddle, counts: int, completion: int) -> None:
        if not self._enabled & paddle.channel:
            return  # a disabled channel ignores moves
        paddle.target = float(min(max(counts, 0), apt.TRAVEL_COUNTS))
        paddle.completion = completion
        if self._mover is None or self._mover.done():
            self._mover = asyncio.get_running_loop().create_task(self._move())

    async def _move(self) -> None:
        while any(p.completion is not None for p in self._paddles):
            await asyncio.sleep(_TICK)
            if self._jam:
                continue
            step = apt.MAX_RAD_PER_S * self._params.velocity / 100 * _TICK / apt.radian(1)
            for paddle in self._paddles:
                ahead = paddle.target - paddle.position
                paddle.position = (
                    paddle.target if abs(ahead) <= step else paddle.position + (step if ahead > 0 else -step)
                )
            self._on_move(self.angles)
            for paddle in self._paddles:
                if paddle.completion is not None and not paddle.moving:
                    paddle.homed |= paddle.completion == apt.MOVE_HOMED
                    self._reply(Frame(paddle.completion, paddle.channel))
                    paddle.completion = None

    async def _update(self) -> None:
        while self._updates:
            for paddle in self._paddles:
                self._send_status(paddle)
            await asyncio.sleep(_STATUS_PERIOD)
