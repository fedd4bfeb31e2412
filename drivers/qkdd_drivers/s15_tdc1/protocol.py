"""S-Fifteen TDC1: commands, answers and the 32-bit record. Pure functions.

Source: fact sheet `devices.md` section 2 (vendor's pyS15 `usb_counter_fpga.py`, `docs/pyserial.md`; vendor wiki "TDC1
Documentation"). Commands are separated by `;`, a line ends in CR LF; answers are text lines, the tag stream is binary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd.device.transport import FrameError

INPUTS = 4
UNIT_PS = 2000  # one step of the counter
COUNTER_BITS = 27
WRAP_UNITS = 1 << COUNTER_BITS  # 268.435456 ms
DUMMY = 1 << 4  # mark of a record without click, sent about every 140 ms when nothing clicks
DUMMY_UNITS = 1 << 26  # 134.2 ms
PATTERN = 0xF
END = b"\r\n"
MAX_WRITE = 255  # the device flushes its buffer beyond
IDENTIFY = b"*IDN?" + END
STOP = b"abort" + END
SAFE = b"abort;singles" + END
START_STREAM = b"INPKT;time 0;timestamp;counts?;" + END
CLOCKS = ("auto", "external", "internal")  # REFCLK 0, 1, 2


def identity(line: bytes) -> str | None:
    """The text of an answer to *IDN? if it names a TDC1, else None. Raises FrameError when it is not text."""
    try:
        text = line.decode("ascii").strip()
    except UnicodeDecodeError:
        raise FrameError(f"the answer to *IDN? is not text ({len(line)} bytes)") from None
    if not text.isprintable():
        raise FrameError("the answer to *IDN? is not text")
    return text if "TDC1" in text.upper() else None


def set_threshold(volts: float) -> bytes:
    """Trigger level; its sign is the polarity of the pulses."""
    return f"{'NEG' if volts < 0 else 'POS'} {volts:.3f}".encode() + END


def threshold(line: bytes) -> float:
    """Answer to `level?`: begins with the voltage; what follows is not documented."""
    try:
        return float(line.split()[0])
    except (ValueError, IndexError):
        raise FrameError(f"no voltage in the answer to level?: {line[:40]!r}") from None


def number(line: bytes, what: str) -> int:
    try:
        return int(line.strip())
    except ValueError:
        raise FrameError(f"no number in the answer to {what}: {line[:40]!r}") from None


def milliseconds(line: bytes) -> int:
    """Answer to `time?`; some firmware gives it as signed 16-bit."""
    value = number(line, "time?")
    return value + 65536 if value < 0 else value


def clock_source(line: bytes) -> str:
    """Answer to `REFCLK?`."""
    value = number(line, "REFCLK?")
    if not 0 <= value < len(CLOCKS):
        raise FrameError(f"{value} is no clock source")
    return CLOCKS[value]


def counts(line: bytes) -> tuple[int, ...]:
    """Answer to `counts?` after `singles`: one count for each input."""
    parts = line.split()
    if len(parts) != INPUTS or not all(part.isdigit() for part in parts):
        raise FrameError(f"no {INPUTS} counts in the answer to counts?: {line[:60]!r}")
    return tuple(int(part) for part in parts)


def encode(times_ps: NDArray[np.int64], channels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Records of clicks (sorted): uint32[k]; clicks in one 2 ns step share a record."""
    if not len(times_ps):
        return np.empty(0, np.uint32)
    ticks = times_ps // UNIT_PS
    bits = np.left_shift(np.uint32(1), channels, dtype=np.uint32)
    first = np.flatnonzero(np.diff(ticks, prepend=ticks[0] - 1))
    patterns = np.bitwise_or.reduceat(bits, first)
    counter = (ticks[first] & (WRAP_UNITS - 1)).astype(np.uint32)
    return (counter << np.uint32(5) | patterns).astype(np.uint32)


def dummy(time_ps: int) -> NDArray[np.uint32]:
    """The record that says that time has passed: uint32[1]."""
    return np.array([((time_ps // UNIT_PS) & (WRAP_UNITS - 1)) << 5 | DUMMY], np.uint32)
