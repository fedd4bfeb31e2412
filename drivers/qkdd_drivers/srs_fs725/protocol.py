"""SRS FS725 / PRS10 rubidium reference: text lines. Pure functions.

Source: fact sheet `devices.md` section 16 (public command table, EPICS support note). Two-letter commands ended by CR, asked
with `?`, set with a number behind; answers end with CR, with some firmware with CR LF.
"""

from __future__ import annotations

import re

from qkdd.device.transport import FrameError, Refused, Stranger

END = b"\r"
QUIET = b"VB0"  # not verbose: bare numbers
IDENTITY, SERIAL, STATUS, LOCKED = b"ID?", b"SN?", b"ST?", b"LO?"
PULSE, PULSE_LOCK, CASE_TEMPERATURE = b"TT?", b"PL?", b"AD10?"
STATUS_BYTES = 6


def set_pulse_lock(on: bool) -> bytes:
    return b"PL%d" % on


def status(text: str) -> tuple[int, ...]:
    """Six status bytes as comma list. Raises FrameError."""
    parts = text.split(",")
    if len(parts) != STATUS_BYTES or not all(re.fullmatch(r"\s*\d{1,3}\s*", part) for part in parts):
        raise FrameError(f"{text[:60]!r} is no list of {STATUS_BYTES} status bytes")
    found = tuple(int(part) for part in parts)
    if max(found) > 255:
        raise FrameError(f"{text[:60]!r} holds more than a byte")
    return found


def known(text: str) -> tuple[int, ...]:
    """The answer to `ST?` as proof of identity, for the text of `ID?` is uncertain. Raises Stranger."""
    if "," not in text:
        raise Stranger(f"answers {text[:60]!r} to ST?, as no FS725 does")
    return status(text)


def serial(text: str) -> str:
    """Serial number. Raises FrameError."""
    if not re.fullmatch(r"\w+", text):
        raise FrameError(f"{text[:60]!r} is no serial number")
    return text


def flag(text: str) -> bool:
    """0 or 1. Raises FrameError."""
    if text not in ("0", "1"):
        raise FrameError(f"{text[:60]!r} is neither 0 nor 1")
    return text == "1"


def pulse_ns(text: str) -> int:
    """Time tag of the 1PPS input in ns. Raises FrameError; Refused when no pulse came (-1)."""
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise FrameError(f"{text[:60]!r} is no time in ns")
    if int(text) < 0:
        raise Refused("it has seen no pulse at its 1PPS input")
    return int(text)


def celsius(text: str) -> float:
    """Case temperature: the voltage is a hundredth of it. Raises FrameError."""
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
        raise FrameError(f"{text[:60]!r} is no voltage")
    return float(text) * 100
