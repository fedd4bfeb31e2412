"""The bytes of the Acme VOA-1. Pure functions: no I/O, no clock. (Cite your manual's pages here.)

Lines of text, ended by CR LF. `ID?` answers `ACME,VOA-1,<serial>,<firmware>`; `ATT?` answers the attenuation in dB; `ATT <dB>`
answers `OK`, or `ERR <text>` when it will not.
"""

from __future__ import annotations

from qkdd.device.roles import Identity
from qkdd.device.transport import FrameError, Refused, Stranger

END = b"\r\n"
IDENTIFY, READ = b"ID?", b"ATT?"


def set_attenuation(decibels: float) -> bytes:
    return b"ATT %.2f" % decibels


def identity(line: str) -> Identity:
    """Raises Stranger when something else answers, FrameError when it makes no sense."""
    fields = line.split(",")
    if len(fields) != 4:
        raise FrameError(f"{line[:60]!r} is no answer to ID?")
    if fields[:2] != ["ACME", "VOA-1"]:
        raise Stranger(f"{fields[0]} {fields[1]} answers, which is no Acme VOA-1")
    return Identity("Acme", "VOA-1", fields[2], fields[3])


def attenuation(line: str) -> float:
    """Raises FrameError."""
    try:
        return float(line)
    except ValueError:
        raise FrameError(f"{line[:40]!r} is no attenuation") from None


def accepted(line: str) -> None:
    """Raises Refused, FrameError."""
    if line.startswith("ERR"):
        raise Refused(f"answers {line[:60]!r}")
    if line != "OK":
        raise FrameError(f"{line[:40]!r} is neither OK nor ERR")
