"""OZ Optics DD-100-MC: text lines. Pure functions.

Source: fact sheet `devices.md` section 11 (PyPI qmi). Commands end with CR; an answer is lines ended by CR LF, the last ones
`Done` and an empty line. A line that starts with `Error` is a failure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qkdd.device.transport import FrameError, Refused, Stranger

END_OUT, END_IN = b"\r", b"\r\n"
LARGEST_DB = 99.99  # what `A<dd.dd>` can say

READ, CONFIGURATION, HOME = b"D", b"CD", b"H"

_NUMBER = r"\s*([+-]?\d+(?:\.\d+)?)"


@dataclass(frozen=True, slots=True)
class Span:
    """What this instrument can do, in dB: from its insertion loss to its largest attenuation."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Where it stands. `attenuation` is None while the position is unknown (not homed since power-up)."""

    attenuation: float | None


def set_attenuation(decibels: float) -> bytes:
    return b"A%05.2f" % decibels


def over(line: str) -> bool:
    """Whether this line ends an answer. Raises Refused when it is the instrument's no."""
    if line.lower().startswith("error"):
        raise Refused(f"answers {line!r}")
    return line == "Done"


def span(lines: Sequence[str]) -> Span:
    """The answer to `CD`. Raises Stranger when it speaks of no attenuation, FrameError when it makes no sense."""
    text = "\n".join(lines)
    if not re.search(r"\b(IL|ATTEN)\b", text):
        raise Stranger(f"answers {text[:60]!r} to CD, as no DD-100 does")
    least, most = re.search(rf"\bIL:{_NUMBER}", text), re.search(rf"\bMAX ATTEN:{_NUMBER}", text)
    if least is None or most is None:
        raise FrameError(f"{text[:120]!r} gives no IL and MAX ATTEN")
    found = Span(float(least[1]), float(most[1]))
    if not 0 <= found.least < found.most <= LARGEST_DB:
        raise FrameError(f"an attenuation from {found.least:g} to {found.most:g} dB")
    return found


def standing(lines: Sequence[str]) -> Standing:
    """The answer to `D`. Raises FrameError."""
    text = "\n".join(lines)
    if re.search("unknown", text, re.IGNORECASE):
        return Standing(None)
    found = re.fullmatch(rf"DPos:\s*[+-]?\d+\nATTEN:{_NUMBER}\s*(?:dB)?", text)
    if found is None:
        raise FrameError(f"{text[:80]!r} gives no position and attenuation")
    return Standing(float(found[1]))


def moved(lines: Sequence[str]) -> None:
    """The answer to `A`: its last line is the position in steps. Raises FrameError, Refused."""
    text = lines[-1] if lines else ""
    if re.search("unknown", text, re.IGNORECASE):
        raise Refused("its position is unknown: it must be homed first")
    if re.fullmatch(r"Pos:\s*[+-]?\d+", text) is None:
        raise FrameError(f"{text[:60]!r} is no position")
