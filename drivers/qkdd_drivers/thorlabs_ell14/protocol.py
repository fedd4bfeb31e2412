"""Thorlabs ELL14: frames of the Elliptec bus. Pure functions.

Source: fact sheet `devices.md` section 10 (PyPI thorlabs-elliptec, pylablib). A command is the address (one hex digit), two
letters and upper-case hex, without terminator; an answer is the address, two upper-case letters, upper-case hex and CR LF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qkdd.device.transport import FrameError, Refused, Stranger

END_IN = b"\r\n"
ADDRESSES = "0123456789ABCDEF"
TYPE = 0x0E
PULSES = 143_360  # for one turn
CLOCKWISE, COUNTERCLOCKWISE = 0, 1

STATES = (
    "ok",
    "communication time-out",
    "mechanical time-out",
    "command not supported",
    "value out of range",
    "module isolated",
    "module out of isolation",
    "initialization error",
    "thermal error",
    "busy",
    "sensor error",
    "motor error",
    "out of range",
    "over-current",
)

_UNASKED = ("BO", "BS")  # somebody pressed the button of the hand controller
_FRAME = re.compile(r"([0-9A-F])([A-Z][A-Z0-9])([0-9A-Za-z]*)")


@dataclass(frozen=True, slots=True)
class Info:
    """The answer to `in`. pulses: for one turn. imperial: thread of the mount."""

    type: int
    serial: str
    year: str
    firmware: str
    imperial: bool
    travel: int
    pulses: int


def command(address: str, letters: str, data: str = "") -> bytes:
    return (address + letters + data).encode("ascii")


def number(value: int) -> str:
    """A signed 32-bit number as eight digits."""
    return f"{value & 0xFFFF_FFFF:08X}"


def frame(line: str, address: str) -> tuple[str, str] | None:
    """(letters, data) of an answer; None for one that nobody asked for. Raises FrameError; Refused for an error status."""
    found = _FRAME.fullmatch(line)
    if found is None or found[1] != address:
        raise FrameError(f"{line[:60]!r} is no answer of address {address}")
    letters, data = found[2], found[3]
    if letters in _UNASKED:
        return None
    if letters == "GS" and (state := _hex(data, 2)):
        raise Refused(STATES[state] if state < len(STATES) else f"status {state}")
    return letters, data


def info(line: str, address: str) -> Info:
    """The answer to `in`. Raises Stranger when it is no ELL14's, FrameError when it is damaged."""
    if not line.startswith(address + "IN"):
        raise Stranger(f"answers {line[:60]!r}, as no Elliptec mount does")
    data = line[3:]
    if len(data) != 30:
        raise FrameError(f"{line[:60]!r} holds {len(data)} characters, not 30")
    hardware = _hex(data[16:18], 2)
    found = Info(
        _hex(data[:2], 2),
        data[2:10],
        data[10:14],
        data[14:16],
        bool(hardware & 0x80),
        _hex(data[18:22], 4),
        _hex(data[22:30], 8),
    )
    if found.type != TYPE:
        raise Stranger(f"is an Elliptec module of type {found.type}, no ELL14")
    if not 0 < found.pulses < 1 << 24:
        raise FrameError(f"{found.pulses} pulses a turn")
    return found


def encode_info(value: Info) -> str:
    hardware = 0x81 if value.imperial else 0x01
    return (
        f"{value.type:02X}{value.serial}{value.year}{value.firmware}{hardware:02X}{value.travel:04X}{value.pulses:08X}"
    )


def position(data: str) -> int:
    """Signed counts of a PO answer. Raises FrameError."""
    value = _hex(data, 8)
    return value - (1 << 32) if value >= 1 << 31 else value


def percent(data: str) -> int:
    """Velocity of a GV answer. Raises FrameError."""
    value = _hex(data, 2)
    if value > 100:
        raise FrameError(f"a velocity of {value} percent")
    return value


def _hex(text: str, digits: int) -> int:
    if not re.fullmatch(rf"[0-9A-F]{{{digits}}}", text):
        raise FrameError(f"{text[:30]!r} is no number of {digits} digits")
    return int(text, 16)
