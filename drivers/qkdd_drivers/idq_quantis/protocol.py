"""ID Quantique Quantis-USB: vendor requests on the control endpoint, noise on a bulk endpoint. Pure functions.

Source: fact sheet `devices.md` section 14 (public OpenBSD driver, vendor headers).
"""

from __future__ import annotations

from dataclasses import dataclass

from qkdd.device.transport import FrameError, Refused

IDS = "0aba:0102"
REQUEST_TYPE = 0xC1  # device to host, vendor, interface
VERSION, MASK, POWER, PRESENT, RATE = 0x10, 0x13, 0x14, 0x15, 0x16
_MODULES = 4
_RATE_MOST = 100_000  # kbit/s a module; the fastest that is sold makes 4000


@dataclass(frozen=True, slots=True)
class Board:
    """What the control endpoint tells. rate: bits a second, all working modules together."""

    version: int
    working: int
    present: int
    powered: bool
    rate: float


def board(version: bytes, working: bytes, present: bytes, power: bytes, rate: bytes) -> Board:
    """Raises FrameError for lengths and values that no board has, Refused when no module works."""
    for name, data, length in (
        ("version", version, 4),
        ("status", working, 1),
        ("present modules", present, 1),
        ("power", power, 1),
        ("rate", rate, 4),
    ):
        if len(data) != length:
            raise FrameError(f"{len(data)} bytes as {name}, not {length}")
    if present[0] >> _MODULES or working[0] & ~present[0]:
        raise FrameError(f"modules {working[0]:#x} of {present[0]:#x}")
    kbit = int.from_bytes(rate, "little")
    if not 0 < kbit <= _RATE_MOST:
        raise FrameError(f"a rate of {kbit} kbit/s")
    if not working[0]:
        raise Refused("no module of it works")
    total = kbit * 1000.0 * working[0].bit_count()
    return Board(int.from_bytes(version, "little"), working[0], present[0], bool(power[0]), total)
