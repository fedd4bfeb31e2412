"""Thorlabs MPC320 / MPC220: APT frames. Pure functions.

Source: fact sheet `devices.md` section 8 (PyPI thorlabs-apt-protocol, qmi, pnpq; QKDServer). Frames are little-endian: a
short one is id u16, two parameters, destination, source; a long one has the payload's length instead of the parameters and
the destination's bit 0x80 set.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from qkdd.device.transport import FrameError

HOST, DEVICE = 0x01, 0x50
HEADER_BYTES = 6
MAX_PAYLOAD = 255  # longest in the protocol is the 84 bytes of HW_GET_INFO

MOD_IDENTIFY = 0x0223
SET_CHANENABLESTATE, REQ_CHANENABLESTATE, GET_CHANENABLESTATE = 0x0210, 0x0211, 0x0212
HW_REQ_INFO, HW_GET_INFO = 0x0005, 0x0006
HW_START_UPDATEMSGS, HW_STOP_UPDATEMSGS = 0x0011, 0x0012
HW_RESPONSE, HW_RICHRESPONSE = 0x0080, 0x0081
SET_POSCOUNTER, REQ_POSCOUNTER, GET_POSCOUNTER = 0x0410, 0x0411, 0x0412
MOVE_HOME, MOVE_HOMED = 0x0443, 0x0444
MOVE_ABSOLUTE, MOVE_COMPLETED = 0x0453, 0x0464
MOVE_STOP, MOVE_STOPPED = 0x0465, 0x0466
MOVE_JOG = 0x046A
REQ_USTATUSUPDATE, GET_USTATUSUPDATE, ACK_USTATUSUPDATE = 0x0490, 0x0491, 0x0492
POL_SET_PARAMS, POL_REQ_PARAMS, POL_GET_PARAMS = 0x0530, 0x0531, 0x0532

PADDLES = (1, 2, 4)  # channel id of each paddle
ALL = 7
TRAVEL_COUNTS = 1370
TRAVEL_RAD = math.radians(170.0)
MAX_RAD_PER_S = math.radians(400.0)

MOVING = 0x0000_00F0  # moving or jogging, either way
CONNECTED, HOMING, HOMED = 1 << 8, 1 << 9, 1 << 10
POWER_OK, ENABLED = 1 << 28, 1 << 31


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `data` is None in the short form, else the payload."""

    id: int
    p1: int = 0
    p2: int = 0
    data: bytes | None = None
    dest: int = DEVICE
    source: int = HOST

    def encode(self) -> bytes:
        if self.data is None:
            return struct.pack("<HBBBB", self.id, self.p1, self.p2, self.dest, self.source)
        return struct.pack("<HHBB", self.id, len(self.data), self.dest | 0x80, self.source) + self.data


def header(data: bytes, dest: int, source: int) -> tuple[Frame, int]:
    """The first six bytes: (frame without payload, payload bytes that follow). Raises FrameError."""
    number, p1, p2, to, by = struct.unpack("<HBBBB", data)
    if (to & 0x7F) != dest or by != source:
        raise FrameError(f"a frame from {by:#04x} to {to:#04x} where {source:#04x} to {dest:#04x} was due")
    if not to & 0x80:
        return Frame(number, p1, p2, None, dest, source), 0
    length = p1 | p2 << 8
    if not 0 < length <= MAX_PAYLOAD:
        raise FrameError(f"a frame {number:#06x} of {length} bytes")
    return Frame(number, 0, 0, b"", dest, source), length


@dataclass(frozen=True, slots=True)
class Info:
    """HW_GET_INFO."""

    serial: int
    model: str
    firmware: str
    channels: int


def info(data: bytes) -> Info:
    _size(data, 84, "HW_GET_INFO")
    serial, model, _, minor, interim, major, _ = struct.unpack_from("<i8sHBBBB", data)
    try:
        name = model.split(b"\0")[0].decode("ascii").strip()
    except UnicodeDecodeError:
        raise FrameError("the model name in HW_GET_INFO is not text") from None
    return Info(serial, name, f"{major}.{interim}.{minor}", struct.unpack_from("<H", data, 82)[0])


def encode_info(value: Info) -> bytes:
    major, interim, minor = (int(part) for part in value.firmware.split("."))
    head = struct.pack("<i8sHBBBB", value.serial, value.model.encode(), 44, minor, interim, major, 0)
    return head + bytes(60) + struct.pack("<HHH", 1, 0, value.channels)


@dataclass(frozen=True, slots=True)
class Status:
    """GET_USTATUSUPDATE: position in counts, velocity in percent, motor current in mA, status bits."""

    channel: int
    position: int
    velocity: int
    current: int
    bits: int


def status(data: bytes) -> Status:
    _size(data, 14, "GET_USTATUSUPDATE")
    return Status(*struct.unpack("<HihhI", data))


def encode_status(value: Status) -> bytes:
    return struct.pack("<HihhI", value.channel, value.position, value.velocity, value.current, value.bits)


@dataclass(frozen=True, slots=True)
class Params:
    """POL_GET_PARAMS: velocity in percent of 400 degrees a second, home and jog steps in counts."""

    velocity: int
    home: int
    jog: tuple[int, int, int]


def params(data: bytes) -> Params:
    _size(data, 12, "POL_GET_PARAMS")
    _, velocity, home, *jog = struct.unpack("<6H", data)
    return Params(velocity, home, (jog[0], jog[1], jog[2]))


def encode_params(value: Params) -> bytes:
    return struct.pack("<6H", 0, value.velocity, value.home, *value.jog)


def move_absolute(channel: int, counts: int) -> Frame:
    return Frame(MOVE_ABSOLUTE, data=struct.pack("<Hi", channel, counts))


def counts(radian: float) -> int:
    """Position in the instrument's counts: 1370 for 170 degrees."""
    return round(radian * TRAVEL_COUNTS / TRAVEL_RAD)


def radian(value: int) -> float:
    return value * TRAVEL_RAD / TRAVEL_COUNTS


def complaint(number: int, payload: bytes) -> str | None:
    """What an error message says, None for any other message."""
    if number == HW_RESPONSE:
        return "it reports an error (HW_RESPONSE)"
    if number == HW_RICHRESPONSE and len(payload) >= 4:
        about, code = struct.unpack_from("<HH", payload)
        text = payload[4:].split(b"\0")[0].decode("ascii", "replace")
        return f"it reports error {code} for message {about:#06x}: {text}"
    return None


def _size(data: bytes, size: int, what: str) -> None:
    if len(data) != size:
        raise FrameError(f"{what} of {len(data)} bytes, not {size}")
