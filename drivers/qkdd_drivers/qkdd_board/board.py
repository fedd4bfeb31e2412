"""A board: the other end of the protocol, and its reference. Bytes and the time in, bytes out; no I/O, no clock.

States: IDLE ─Bind→ BOUND ─StreamStart→ STREAMING ─StreamStop→ BOUND; an alarm leads from BOUND or STREAMING to ALARM, Bind
leads out of it; a reboot leads to IDLE. In IDLE and ALARM laser and gates are off.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
from qkdd_fwbridge import messages as m
from qkdd_fwbridge.errors import Malformed, SourceFailed
from qkdd_fwbridge.frames import SEQUENCES, Frame, FrameDecoder
from qkdd_fwbridge.layout import Message
from qkdd_fwbridge.messages import Alarm, Capability, Reason, Role, State
from qkdd_fwbridge.symbols import MAX_DEMAND, U8, answer_demand

from qkdd.core.errors import QkddError
from qkdd.kernels import gap_decode
from qkdd_drivers.qkdd_board import emission, registers
from qkdd_drivers.qkdd_board.bootstore import BootStore, Refuse
from qkdd_drivers.qkdd_board.emission import Emission, OnPulses, OnStream

HARDWARE = 1
_SECOND = 1 << 16
_FAR = 1 << 62  # slots beyond this number do not fit into the arithmetic
ABLE = (
    Capability.FULL_STREAM
    | Capability.ON_DEMAND
    | Capability.QRNG
    | Capability.HOST_RANDOM
    | Capability.THREE_INTENSITIES
)


class Board:
    """One powered board. `power_up` first; `reboot_due` tells that it wants to start again (the line goes away then)."""

    def __init__(
        self,
        role: Role,
        serial: str,
        store: BootStore,
        *,
        noise: Callable[[int], bytes] = secrets.token_bytes,
        on_pulses: OnPulses = lambda first, symbols: None,
        on_stream: OnStream = lambda start, pulse_hz: None,
        window: int = emission.WINDOW,
    ) -> None:
        """window: slots that are kept in memory for a stream on demand."""
        self.window = window
        self.role, self.serial, self.store = role, serial, store
        self.noise, self.on_pulses, self.on_stream = noise, on_pulses, on_stream
        self.model = registers.MODEL[role]
        self.refuse = False
        self.reboot_due = False
        self.registers: dict[int, float] = {}
        self._by_number = {r.number: r for r in registers.OF_ROLE[role]}

    def power_up(self, now: float) -> None:
        """Boot. Raises Brick."""
        self.image = self.store.boot()
        self.version = self.image.manifest.version
        self.protocol = self.image.manifest.protocol
        self.boot = secrets.randbits(64)
        self.state, self.alarms = State.IDLE, Alarm(0)
        self.reboot_due = False
        self._booted = self._heard = now
        self._silence: float | None = None
        self._decoder = FrameDecoder()
        self._sequence = 0
        self._out = bytearray()
        self._choices = (1 << 14, _SECOND, _SECOND)
        self._fed = bytearray()
        self._fed_total = 0
        self._emission: Emission | None = None
        self.on_stream(now, 0.0)
        self.registers = {r.number: r.start for r in registers.OF_ROLE[self.role]}

    # Bytes

    def feed(self, data: bytes, now: float) -> None:
        """Bytes from the host."""
        for frame in self._decoder.feed(data):
            self._heard = now
            try:
                self._handle(frame, now)
            except Refuse as error:
                self._refuse(frame.sequence, error.reason, str(error))
            except (Malformed, ValueError) as error:
                self._refuse(frame.sequence, Reason.FORMAT, str(error))
            except SourceFailed as error:
                self._alarm(Alarm.RANDOM, error.message)
                self._refuse(frame.sequence, Reason.ALARM, error.message)
            except QkddError as error:  # a kernel refused what the host sent (gap code)
                self._refuse(frame.sequence, Reason.FORMAT, error.message)

    def poll(self, now: float) -> bytes:
        """Let time pass; returns the bytes for the host."""
        record = self.store.record
        if record.trial == self.store.running and now - self._booted > record.confirm_s and not self.reboot_due:
            self.store.roll_back()
            self.reboot_due = True
        if self._silence is not None and now - self._heard > self._silence:
            self._silence = None
            self._alarm(Alarm.HOST_SILENT, "the host is silent")
        if self._emission is not None:
            try:
                self._emission.poll(now)
            except SourceFailed as error:
                self._alarm(Alarm.RANDOM, error.message)
        self._send_symbols()
        data = bytes(self._out)
        self._out.clear()
        return data

    def skip_until(self, now: float) -> None:
        """No light in what was not sent until now (see `Emission.skip_until`)."""
        if self._emission is not None:
            self._emission.skip_until(now)

    def _send(self, message: Message) -> None:
        self._out += Frame(message.TYPE, self._sequence, message.encode()).encode()
        self._sequence = (self._sequence + 1) % SEQUENCES

    def _refuse(self, about: int, reason: Reason, text: str) -> None:
        self._send(m.Refusal(about, reason, text.encode()[:512]))

    def _send_symbols(self) -> None:
        if self._emission is not None:
            for block in self._emission.frames():
                self._send(block)

    # Requests

    def _handle(self, frame: Frame, now: float) -> None:
        request, about = m.parse(frame), frame.sequence
        if isinstance(request, m.Hello):
            self._send(self._welcome(about))
            return
        if self.refuse and not isinstance(request, m.AskStatus | m.Bind):
            raise Refuse(Reason.BUSY, "refused by fault injection")
        match request:
            case m.Bind():
                if not self.protocol[0] <= request.protocol <= self.protocol[1]:
                    raise Refuse(Reason.NOT_ABLE, f"protocol {request.protocol} is not spoken here")
                self._safe()
                self.state, self.alarms = State.BOUND, Alarm(0)
                self._silence = request.silence_ms / 1000 if request.silence_ms else None
                self._send(m.Ok(about))
            case m.AskStatus():
                self._send(self._status(about, now))
            case m.Get():
                self._register(request.register)
                self._send(m.GetValue(about, request.register, self.registers[request.register]))
            case m.Set():
                self._set(request)
                self._send(m.SetValue(about, request.register, self.registers[request.register]))
            case m.Prepare():
                self._bound()
                self._transmits()
                if not (request.x <= 1 << 15 and request.first <= request.second <= _SECOND):
                    raise Refuse(Reason.RANGE, "thresholds out of order")
                if self._emission is not None:
                    raise Refuse(Reason.BUSY, "a stream runs")
                self._choices = (request.x, request.first, request.second)
                self._send(m.Ok(about))
            case m.StreamStart():
                self._start(request, now)
                self._send(m.StreamStarted(about, 0, int(self._emitting().pulse_hz)))
            case m.StreamStop():
                self._stop(about, now)
            case m.Credit():
                self._emitting().credit(request.total)
            case m.Demand():
                self._demand(about, request, now)
            case m.Release():
                self._emitting().release(request.below)
            case m.Feed():
                self._feed_random(about, request)
            case _:
                self._firmware(about, request)

    def _welcome(self, about: int) -> m.Welcome:
        return m.Welcome(
            about, *self.protocol, ABLE if self.role is Role.TRANSMITTER else 0, self.role, self.state, self.model,
            self.serial, *self.version, HARDWARE, self.store.rollback_counter, self.boot,
            int(self.registers.get(2, 0)), self.window, emission.BUFFER,
        )  # fmt: skip

    def _status(self, about: int, now: float) -> m.Status:
        e = self._emission
        counters = (e.made, e.held, e.starved, e.overwritten) if e is not None else (0, 0, 0, 0)
        return m.Status(
            about, self.state, self.alarms, *counters, self._decoder.damaged, self._decoder.missing,
            emission.RANDOM_BYTES - len(self._fed), int((now - self._booted) * 1000), 36.5,
        )  # fmt: skip

    def _register(self, number: int) -> registers.Register:
        if number not in self._by_number:
            raise Refuse(Reason.UNKNOWN, f"a {self.model} has no register {number}")
        return self._by_number[number]

    def _set(self, request: m.Set) -> None:
        self._bound()
        register = self._register(request.register)
        if not register.low <= request.value <= register.high:  # also refuses NaN
            raise Refuse(Reason.RANGE, f"{register.name}: {register.low:g} to {register.high:g}")
        if register.name == "pulse_rate" and self._emission is not None:
            raise Refuse(Reason.BUSY, "a stream runs")
        self.registers[register.number] = request.value

    def _bound(self) -> None:
        if self.state is State.ALARM:
            raise Refuse(Reason.ALARM, f"alarm {self.alarms.value:#x}; bind again")
        if self.state is State.IDLE:
            raise Refuse(Reason.NOT_BOUND, "send Bind first")

    def _transmits(self) -> None:
        if self.role is not Role.TRANSMITTER:
            raise Refuse(Reason.NOT_ABLE, f"a {self.model} prepares no symbols")

    def _emitting(self) -> Emission:
        self._bound()
        if self._emission is None:
            raise Refuse(Reason.NOT_BOUND, "no stream runs")
        return self._emission

    def _start(self, request: m.StreamStart, now: float) -> None:
        self._bound()
        self._transmits()
        if self._emission is not None or self.store.record.trial not in (m.NO_SLOT, self.store.running):
            raise Refuse(Reason.BUSY, "a stream runs, or a reboot is due")
        mode, randomness = m.Mode(request.mode), m.Randomness(request.randomness)
        if mode is m.Mode.ON_DEMAND and self.protocol[1] < 2:
            raise Refuse(Reason.NOT_ABLE, "on demand needs protocol 2")
        self._emission = self.emission(mode, randomness, request.credit, now)
        self.on_stream(now, self.registers[2])
        self.state = State.STREAMING

    def emission(self, mode: m.Mode, randomness: m.Randomness, credit: int, now: float) -> Emission:
        """The pulses of a stream that begins now; a subclass has them from elsewhere."""
        pulse_hz, window = self.registers[2], self.window if mode is m.Mode.ON_DEMAND else emission.WINDOW
        return Emission(
            mode, randomness, credit, pulse_hz, self._choices, now, self.noise, self._fed, self._pulses, window
        )

    def _pulses(self, first: int, symbols: U8) -> None:
        lit = bool(self.registers[1])
        self.on_pulses(first, symbols if lit else np.full(len(symbols), emission.ABSENT, np.uint8))

    def _stop(self, about: int, now: float) -> None:
        e = self._emitting()
        e.poll(now)
        self._send_symbols()
        self._emission = None
        self.on_stream(now, 0.0)
        self.state = State.BOUND
        self._send(m.StreamStopped(about, e.next_slot, e.held, e.starved, e.overwritten, e.unsent))

    def _demand(self, about: int, request: m.Demand, now: float) -> None:
        e = self._emitting()
        if e.mode is not m.Mode.ON_DEMAND:
            raise Refuse(Reason.NOT_ABLE, "the stream is not on demand")
        e.poll(now)
        if request.base >= _FAR or not 0 < request.count <= MAX_DEMAND:
            raise Refuse(Reason.RANGE, "base or count")
        offsets = gap_decode(request.gaps, request.count)
        if np.any(np.diff(offsets) <= 0) or int(offsets[-1]) >= _FAR:
            raise Refuse(Reason.FORMAT, "slots do not rise, or are too far away")
        here, values = e.window(offsets + np.int64(request.base))
        self._send(answer_demand(about, here, values, e.oldest, e.next_slot))

    def _feed_random(self, about: int, request: m.Feed) -> None:
        self._bound()
        self._transmits()
        new = request.data[max(0, self._fed_total - request.offset) :] if request.offset <= self._fed_total else b""
        new = new[: (emission.RANDOM_BYTES - len(self._fed)) // 4 * 4]
        self._fed += new
        self._fed_total += len(new)
        self._send(m.Fed(about, self._fed_total, emission.RANDOM_BYTES - len(self._fed)))

    # Firmware

    def _firmware(self, about: int, request: Message) -> None:
        store = self.store
        if isinstance(request, m.FwInfo):
            a, b = ((s.state, *s.version, s.counter) for s in store.record.slots)
            r = store.record
            state = m.FwState(
                about, store.running, r.active, r.trial, store.rollback_counter, r.confirm_s,
                *a, *b, r.size, store.received, r.digest,
            )  # fmt: skip
            self._send(state)
            return
        if self._emission is not None:
            raise Refuse(Reason.BUSY, "a stream runs: stop it before the firmware is touched")
        if self.reboot_due:
            raise Refuse(Reason.BUSY, "a reboot is due")
        match request:
            case m.FwBegin():
                self._send(m.FwBegun(about, store.begin(request.size, request.digest)))
            case m.FwData():
                self._send(m.FwTaken(about, store.take(request.offset, request.data)))
            case m.FwFinish():
                store.finish()
                self._send(m.Ok(about))
            case m.FwStart():
                store.start_trial(request.confirm_s)
                self._reboot(about)
            case m.FwConfirm():
                store.confirm()
                self._send(m.Ok(about))
            case m.FwRollback():
                store.roll_back()
                self._reboot(about)
            case _:
                raise Refuse(Reason.UNKNOWN, f"{type(request).__name__} is no request")

    def _reboot(self, about: int) -> None:
        self._send(m.Ok(about))
        self.reboot_due = True

    # Safety

    def _alarm(self, alarm: Alarm, text: str) -> None:
        slot = self._emission.next_slot if self._emission is not None else 0
        self._send_symbols()
        self._safe()
        self.state = State.ALARM
        self.alarms |= alarm
        self._send(m.AlarmRaised(alarm, slot, text.encode()[:256]))

    def _safe(self) -> None:
        """Laser and gates off, no stream."""
        if self._emission is not None:
            self._emission = None
            self.on_stream(0.0, 0.0)
        self._fed.clear()
        self._fed_total = 0
        for register in self._by_number.values():
            if register.name in registers.SAFE:
                self.registers[register.number] = register.start
