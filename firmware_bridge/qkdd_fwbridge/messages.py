"""Every message of the protocol: type, byte layout, meaning. docs/rooms/firmware_bridge.md shows them as one table.

A request has a type below 0x40; its answer has the type + 0x80 and begins with `about`, the request's sequence number. 0x80
is the plain yes, 0xFF the refusal. 0x50 and above are sent by the board unasked. Hello, Welcome, Refusal and everything
named Fw… never change, so that every daemon can tell every board to update itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from qkdd_fwbridge.errors import Malformed
from qkdd_fwbridge.frames import Frame
from qkdd_fwbridge.layout import Message


class Role(IntEnum):
    TRANSMITTER = 1
    RECEIVER = 2


class Capability(IntFlag):
    """What a board can do beyond the least; the host uses only what both sides have."""

    FULL_STREAM = 1
    ON_DEMAND = 2
    QRNG = 4
    HOST_RANDOM = 8
    THREE_INTENSITIES = 16


class State(IntEnum):
    """Of the board; the state diagram stands in the protocol document."""

    IDLE = 0  # nobody bound: laser and gates off
    BOUND = 1  # a host set it up
    STREAMING = 2
    ALARM = 3  # safe state until the next Bind


class Reason(IntEnum):
    """Of a refusal."""

    UNKNOWN = 1  # no such request
    FORMAT = 2  # the request's content
    NOT_BOUND = 3
    BUSY = 4  # a stream runs, or an update is not confirmed
    RANGE = 5
    NOT_ABLE = 6  # a capability that this board lacks
    IMAGE = 7  # damaged, not trusted, another model
    DOWNGRADE = 8
    OFFSET = 9  # not where the board goes on; ask FwInfo
    NOTHING = 10  # no staged image, no slot to go back to
    ALARM = 11


class Alarm(IntFlag):
    RANDOM = 1  # the board's source failed a health test
    HOST_SILENT = 2  # no frame for the time of Bind
    TEMPERATURE = 4
    STARVED = 8  # host-fed choices ran out


class Mode(IntEnum):
    FULL = 1
    ON_DEMAND = 2


class Randomness(IntEnum):
    QRNG = 1
    HOST = 2


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Harmless at any time: who is there?"""

    TYPE: ClassVar[int] = 0x01
    LAYOUT: ClassVar[str] = "<HHI16s"
    protocol_low: int
    protocol_high: int
    capabilities: int
    daemon: str


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """rollback: anti-rollback counter. boot: random at each power-up. window, buffer: symbols that fit into memory."""

    TYPE: ClassVar[int] = 0x81
    LAYOUT: ClassVar[str] = "<IHHIBB16s16sHHHHIQQII"
    about: int
    protocol_low: int
    protocol_high: int
    capabilities: int
    role: int
    state: int
    model: str
    serial: str
    major: int
    minor: int
    patch: int
    hardware: int
    rollback: int
    boot: int
    pulse_hz: int
    window: int
    buffer: int


@dataclass(frozen=True, slots=True)
class Bind(Message):
    """Begin to work: stops any stream, goes to the safe state. silence_ms: without a frame for this long, safe state."""

    TYPE: ClassVar[int] = 0x02
    LAYOUT: ClassVar[str] = "<HII"
    protocol: int
    capabilities: int
    silence_ms: int


@dataclass(frozen=True, slots=True)
class AskStatus(Message):
    TYPE: ClassVar[int] = 0x03


@dataclass(frozen=True, slots=True)
class Status(Message):
    """Counters since Bind, in slots: made, held (no credit, no pulse), starved (no random bits, no pulse),
    overwritten (in the window before the host released them); damaged, missing: frames from the host."""

    TYPE: ClassVar[int] = 0x83
    LAYOUT: ClassVar[str] = "<IBHQQQQIIIQf"
    about: int
    state: int
    alarms: int
    made: int
    held: int
    starved: int
    overwritten: int
    damaged: int
    missing: int
    random_free: int
    uptime_ms: int
    temperature_c: float


@dataclass(frozen=True, slots=True)
class Ok(Message):
    TYPE: ClassVar[int] = 0x80
    LAYOUT: ClassVar[str] = "<I"
    about: int


@dataclass(frozen=True, slots=True)
class Refusal(Message):
    TYPE: ClassVar[int] = 0xFF
    LAYOUT: ClassVar[str] = "<IH"
    TAIL: ClassVar[bool] = True
    about: int
    reason: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Get(Message):
    TYPE: ClassVar[int] = 0x10
    LAYOUT: ClassVar[str] = "<H"
    register: int


@dataclass(frozen=True, slots=True)
class Set(Message):
    """Value in the register's SI unit; refused outside its range, never clipped. Answered by the value read back."""

    TYPE: ClassVar[int] = 0x11
    LAYOUT: ClassVar[str] = "<Hd"
    register: int
    value: float


@dataclass(frozen=True, slots=True)
class GetValue(Message):
    TYPE: ClassVar[int] = 0x90
    LAYOUT: ClassVar[str] = "<IHd"
    about: int
    register: int
    value: float


@dataclass(frozen=True, slots=True)
class SetValue(Message):
    TYPE: ClassVar[int] = 0x91
    LAYOUT: ClassVar[str] = "<IHd"
    about: int
    register: int
    value: float


@dataclass(frozen=True, slots=True)
class Prepare(Message):
    """How choices are made from 32 random bits r a pulse: bit = r & 1; basis X if (r >> 1) mod 2^15 < x (units of 2^-15);
    intensity 0 if r >> 16 < first, else 1 if < second, else 2 (units of 2^-16; 65536 allowed)."""

    TYPE: ClassVar[int] = 0x20
    LAYOUT: ClassVar[str] = "<III"
    x: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class StreamStart(Message):
    """credit: symbols that the board may send (full stream); ignored on demand."""

    TYPE: ClassVar[int] = 0x21
    LAYOUT: ClassVar[str] = "<BBQ"
    mode: int
    randomness: int
    credit: int


@dataclass(frozen=True, slots=True)
class StreamStarted(Message):
    TYPE: ClassVar[int] = 0xA1
    LAYOUT: ClassVar[str] = "<IQQ"
    about: int
    first_slot: int
    pulse_hz: int


@dataclass(frozen=True, slots=True)
class StreamStop(Message):
    TYPE: ClassVar[int] = 0x22


@dataclass(frozen=True, slots=True)
class StreamStopped(Message):
    """next_slot: first slot that was not made; all of the full stream was sent before this answer or is in `unsent`."""

    TYPE: ClassVar[int] = 0xA2
    LAYOUT: ClassVar[str] = "<IQQQQQ"
    about: int
    next_slot: int
    held: int
    starved: int
    overwritten: int
    unsent: int


@dataclass(frozen=True, slots=True)
class Credit(Message):
    """No answer. Symbols that the board may send since the start of the stream: a total, so that a lost frame costs nothing
    once the next one comes."""

    TYPE: ClassVar[int] = 0x23
    LAYOUT: ClassVar[str] = "<Q"
    total: int


@dataclass(frozen=True, slots=True)
class Demand(Message):
    """Symbols of `count` slots: base plus gap-coded rising offsets (docs/rooms/native.md, "Gap code")."""

    TYPE: ClassVar[int] = 0x24
    LAYOUT: ClassVar[str] = "<QI"
    TAIL: ClassVar[bool] = True
    base: int
    count: int
    gaps: bytes


@dataclass(frozen=True, slots=True)
class Demanded(Message):
    """data: ceil(count/8) bytes of flags (most significant bit first; 1 = the symbol is there), then the packed symbols
    of all asked slots (0 where it is not)."""

    TYPE: ClassVar[int] = 0xA4
    LAYOUT: ClassVar[str] = "<IQQI"
    TAIL: ClassVar[bool] = True
    about: int
    oldest: int
    next_slot: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Release(Message):
    """No answer. Slots below are no longer needed."""

    TYPE: ClassVar[int] = 0x25
    LAYOUT: ClassVar[str] = "<Q"
    below: int


@dataclass(frozen=True, slots=True)
class Feed(Message):
    """Random bytes from the host, four a pulse, used in order."""

    TYPE: ClassVar[int] = 0x26
    LAYOUT: ClassVar[str] = "<Q"
    TAIL: ClassVar[bool] = True
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fed(Message):
    """next: offset that the board goes on with (it takes what fits). free: bytes that fit now."""

    TYPE: ClassVar[int] = 0xA6
    LAYOUT: ClassVar[str] = "<IQI"
    about: int
    next: int
    free: int


@dataclass(frozen=True, slots=True)
class Symbols(Message):
    """skipped: slots since the start that carry no pulse and are not sent (held or starved), up to first_slot. count is 0 in
    what the board sends when it had nothing to send for 100 ms, so that a loss is seen even if nothing follows it."""

    TYPE: ClassVar[int] = 0x50
    LAYOUT: ClassVar[str] = "<QQI"
    TAIL: ClassVar[bool] = True
    first_slot: int
    skipped: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class AlarmRaised(Message):
    """The board went to its safe state; slots from `slot` on were not prepared."""

    TYPE: ClassVar[int] = 0x51
    LAYOUT: ClassVar[str] = "<HQ"
    TAIL: ClassVar[bool] = True
    alarms: int
    slot: int
    text: bytes


@dataclass(frozen=True, slots=True)
class FwInfo(Message):
    TYPE: ClassVar[int] = 0x30


NO_SLOT = 0xFF


@dataclass(frozen=True, slots=True)
class FwState(Message):
    """Slots 0 = A, 1 = B: state as in `SlotState`, version, counter. trial: slot that runs on trial, else 255. received of
    size: an image that is on its way, with its SHA-256."""

    TYPE: ClassVar[int] = 0xB0
    LAYOUT: ClassVar[str] = "<IBBBIHBHHHIBHHHIII32s"
    about: int
    running: int
    active: int
    trial: int
    rollback: int
    confirm_s: int
    a_state: int
    a_major: int
    a_minor: int
    a_patch: int
    a_counter: int
    b_state: int
    b_major: int
    b_minor: int
    b_patch: int
    b_counter: int
    size: int
    received: int
    digest: bytes


class SlotState(IntEnum):
    EMPTY = 0
    RECEIVING = 1
    STAGED = 2  # complete and its signature verified
    CONFIRMED = 3  # ran and was confirmed
    BAD = 4  # its trial ended without confirmation


@dataclass(frozen=True, slots=True)
class FwBegin(Message):
    """Begin, or go on with the same image after a power loss: the answer says where."""

    TYPE: ClassVar[int] = 0x31
    LAYOUT: ClassVar[str] = "<I32s"
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class FwBegun(Message):
    TYPE: ClassVar[int] = 0xB1
    LAYOUT: ClassVar[str] = "<II"
    about: int
    offset: int


@dataclass(frozen=True, slots=True)
class FwData(Message):
    TYPE: ClassVar[int] = 0x32
    LAYOUT: ClassVar[str] = "<I"
    TAIL: ClassVar[bool] = True
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class FwTaken(Message):
    TYPE: ClassVar[int] = 0xB2
    LAYOUT: ClassVar[str] = "<II"
    about: int
    offset: int


@dataclass(frozen=True, slots=True)
class FwFinish(Message):
    """All is there: verify digest, signature, model, counter. Answered by Ok when the image is staged."""

    TYPE: ClassVar[int] = 0x33


@dataclass(frozen=True, slots=True)
class FwStart(Message):
    """Boot the staged image on trial; without FwConfirm within `confirm_s` seconds the board goes back by itself."""

    TYPE: ClassVar[int] = 0x34
    LAYOUT: ClassVar[str] = "<H"
    confirm_s: int


@dataclass(frozen=True, slots=True)
class FwConfirm(Message):
    """The image on trial is good: make it the active one and raise the anti-rollback counter to its."""

    TYPE: ClassVar[int] = 0x35


@dataclass(frozen=True, slots=True)
class FwRollback(Message):
    """Back to the other slot: at once out of a trial, else only if its counter is not below the board's."""

    TYPE: ClassVar[int] = 0x36


MESSAGES: dict[int, type[Message]] = {
    kind.TYPE: kind
    for kind in tuple(globals().values())
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
}


def parse(frame: Frame) -> Message:
    """The message in a frame. Raises Malformed for an unknown type or a wrong content."""
    kind = MESSAGES.get(frame.type)
    if kind is None:
        raise Malformed(f"unknown message type {frame.type:#04x}")
    return kind.decode(frame.payload)
