"""OZ Optics EPC-400: text lines. Pure functions.

Source: fact sheet `devices.md` section 9 (PyPI qmi, pylablib). Commands end with CR LF; each is answered with `text CR LF
Done CR LF`, a failure ends with `Error! CR LF`. Some firmware echoes the command first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qkdd.device.transport import FrameError, Refused, Stranger

END = b"\r\n"
CHANNELS = 4
MAX_MV = 5000
MAX_HZ = 100
MODES = ("dc", "ac")
WAVEFORMS = ("sine", "triangle")

VOLTAGES, MODE, FREQUENCIES, WAVEFORM = b"V?", b"M?", b"F?", b"WF?"
ZERO = tuple(b"VZ%d" % channel for channel in range(1, CHANNELS + 1))


def set_voltage(channel: int, millivolts: int) -> bytes:
    """`channel` from 1."""
    return b"V%d,%d" % (channel, millivolts)


def set_frequency(channel: int, hertz: int) -> bytes:
    return b"F%d,%d" % (channel, hertz)


def set_mode(mode: str) -> bytes:
    return b"M" + mode.upper().encode()


def set_waveform(name: str) -> bytes:
    return b"WF%d" % (WAVEFORMS.index(name) + 1)


def over(line: str) -> bool:
    """Whether this line ends an answer. Raises Refused when it is the instrument's no."""
    if line.endswith("Error!"):
        raise Refused(f"answers {line!r}")
    return line == "Done"


def voltages(text: str) -> tuple[int, ...]:
    """`Voltage(mV): CH1 +2200 CH2 …` → millivolts. Raises FrameError."""
    return _channels(text, "Voltage(mV)", MAX_MV)


def frequencies(text: str) -> tuple[int, ...]:
    """`Frequency(Hz): CH1 007 CH2 …` → hertz. Raises FrameError."""
    return _channels(text, "Frequency(Hz)", MAX_HZ)


def known(text: str) -> tuple[int, ...]:
    """The answer to `V?` as proof of identity: there is no other. Raises Stranger for another instrument's words."""
    if "CH" not in text and "Voltage" not in text:
        raise Stranger(f"answers {text[:60]!r} to V?, as no EPC-400 does")
    return voltages(text)


def mode(text: str) -> str:
    """The last word says DC or AC. Raises FrameError."""
    return _word(text, MODES)


def waveform(text: str) -> str:
    """`AC Waveform: Sine`. Raises FrameError."""
    return _word(text, WAVEFORMS)


def show(title: str, numbers: Sequence[int], form: str) -> str:
    """The answer to a question for all channels, as the instrument writes it."""
    return f"{title}: " + " ".join(f"CH{k} {number:{form}}" for k, number in enumerate(numbers, start=1))


def _channels(text: str, title: str, most: int) -> tuple[int, ...]:
    found = re.fullmatch(rf"{re.escape(title)}:" + r"\s*CH(\d)\s*([+-]?\d+)" * CHANNELS + r"\s*", text)
    if found is None or found.groups()[::2] != ("1", "2", "3", "4"):
        raise FrameError(f"{text[:80]!r} is no list of {title} for {CHANNELS} channels")
    numbers = tuple(int(number) for number in found.groups()[1::2])
    if any(abs(number) > most for number in numbers):
        raise FrameError(f"{text[:80]!r} goes beyond {most}")
    return numbers


def _word(text: str, words: Sequence[str]) -> str:
    last = text.rsplit(maxsplit=1)[-1].lower() if text.split() else ""
    if last not in words:
        raise FrameError(f"{text[:60]!r} does not end with one of {', '.join(words)}")
    return last
