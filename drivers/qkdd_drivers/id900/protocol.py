"""SCPI of the ID900 and ID1000 (one message a command, one reply), and the text commands of its DataLinkTargetService.

Facts: the device fact sheet, section 1 (the vendor's Python examples).
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkdd.device.transport import FrameError, Refused, Stranger

INPUTS = 4
CONTROL_PORT, SERVICE_PORT, STREAM_PORT = 5555, 6060, 4241
GAP_PS = 40_000
"""Least time between two sub-acquisitions."""

_NUMBER = re.compile(r"^\s*([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*[A-Za-z]*\s*$")
_IDENTITY = re.compile(r"\bID\s?(900|1000)\b|Time Controller", re.IGNORECASE)
_SERIAL = re.compile(r"Serial\s*:?\s*([\w-]+)", re.IGNORECASE)
_FIRMWARE = re.compile(r"(?:Firmware|FW|Version)\s*:?\s*([\d.]+)", re.IGNORECASE)


def text(data: bytes) -> str:
    """A reply. Raises FrameError when it is no text."""
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise FrameError(f"a reply of {len(data)} bytes that is no text") from None


def number(data: bytes) -> float:
    """A numeric reply; a unit behind it (V, TB, …) is left away. Other text is its no. Raises FrameError, Refused."""
    reply = text(data)
    if match := _NUMBER.match(reply):
        return float(match[1])
    if not reply.isprintable():
        raise FrameError("a reply that is no text")
    raise Refused(f"it answers {reply[:80]!r} where a number is due")


def identity(data: bytes) -> tuple[str, str, str]:
    """(model, serial number, firmware) of *IDN?, empty where it does not say. Raises FrameError, Stranger."""
    reply = text(data)
    if (found := _IDENTITY.search(reply)) is None:
        raise Stranger(f"answers {reply[:60]!r}, which names no Time Controller")
    serial, firmware = _SERIAL.search(reply), _FIRMWARE.search(reply)
    model = f"ID{found[1]}" if found[1] else "Time Controller"
    return model, serial[1] if serial else "", firmware[1] if firmware else ""


def input_setup(channel: int, volts: float, edge: str, coupling: str) -> str:
    """Command for one input; channel from 1."""
    return f"INPU{channel}:ENAB ON;THRE {volts:.3f}V;COUP {coupling.upper()};EDGE {edge.upper()};SELE UNSHAPED"


def routing(channel: int) -> list[str]:
    """Commands that lead an input's clicks to its raw output, none of them gated."""
    return [
        f"DELA{channel}:LINK INPU{channel}",
        f"TSCO{channel}:FIR:LINK DELA{channel}",
        f"TSCO{channel}:OPIN ONLYFIR",
        f"TSCO{channel}:OPOUt ONLYFIR",
        f"RAW{channel}:REF:LINK NONE",
        f"RAW{channel}:STOP:LINK TSCO{channel}",
        f"RAW{channel}:ERRORS:CLEAR",
        f"RAW{channel}:SEND ON",
    ]


def recording(width_ps: int) -> list[str]:
    """Commands for sub-acquisitions without end, before REC:PLAY."""
    return [
        "REC:TRIG:ARM:MODE MANUal",
        "REC:ENABle ON",
        "REC:STOP",
        "REC:NUM INF",
        f"REC:PWID {width_ps};PPER {width_ps + GAP_PS}",
    ]


STOP = ("REC:STOP", *(f"RAW{channel}:SEND OFF" for channel in range(1, INPUTS + 1)))
SAFE = (*STOP, *(f"GEN{n}:ENAB OFF" for n in range(1, 9)), *(f"OUTP{n}:ENAB OFF" for n in range(1, 9)))


def service(data: bytes) -> Any:
    """A reply of the service. Raises FrameError, and Refused with its own words."""
    try:
        reply = json.loads(data)
    except (ValueError, UnicodeDecodeError):
        raise FrameError("the service's reply is no JSON") from None
    if isinstance(reply, dict) and isinstance(reply.get("error"), dict):
        raise Refused(f"the service says {str(reply['error'].get('description'))[:120]!r}")
    return reply


def stopped_errors(reply: Any) -> list[str]:
    """What went wrong in an acquisition that was stopped."""
    status = reply.get("status", {}) if isinstance(reply, dict) else {}
    return [str(error.get("description", "")) for error in status.get("errors", []) if isinstance(error, dict)]


class Merge:
    """Streams of the inputs, one message for each sub-acquisition and input, put together in time.

    bin_ps: unit of the time stamps, which begin again with each sub-acquisition. Message k of every input belongs to
    sub-acquisition k, also when nothing clicked.
    """

    def __init__(self, bin_ps: float, period_ps: int, inputs: int = INPUTS) -> None:
        self._bin, self._period = bin_ps, period_ps
        self._waiting: list[list[NDArray[np.int64]]] = [[] for _ in range(inputs)]
        self._next = 0

    @property
    def apart(self) -> int:
        """By how many messages one input is ahead of another."""
        counts = [len(waiting) for waiting in self._waiting]
        return max(counts) - min(counts)

    @property
    def until(self) -> int:
        """The streams are complete up to here, in ps."""
        return self._next * self._period

    def add(self, channel: int, message: bytes) -> None:
        """One message of an input (from 0). Raises FrameError."""
        if len(message) % 8:
            raise FrameError(f"a message of {len(message)} bytes holds no whole number of time stamps")
        stamps = np.frombuffer(message, "<u8")
        if len(stamps) and float(stamps.max()) * self._bin > 2 * self._period:
            raise FrameError("a time stamp lies outside of its sub-acquisition")
        self._waiting[channel].append(np.rint(stamps * self._bin).astype(np.int64))

    def take(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Times in ps and channels from 1 of all sub-acquisitions that are complete."""
        times: list[NDArray[np.int64]] = []
        channels: list[NDArray[np.uint8]] = []
        while all(self._waiting):
            parts = [waiting.pop(0) for waiting in self._waiting]
            stamps = np.concatenate(parts)
            which = np.repeat(np.arange(1, len(parts) + 1, dtype=np.uint8), [len(part) for part in parts])
            order = np.argsort(stamps, kind="stable")
            times.append(stamps[order] + self._next * self._period)
            channels.append(which[order])
            self._next += 1
        if not times:
            return np.empty(0, np.int64), np.empty(0, np.uint8)
        return np.concatenate(times), np.concatenate(channels)
