"""Which daemon works with which firmware, and how: a table, not code."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qkdd_fwbridge.errors import FirmwareUnsupported
from qkdd_fwbridge.messages import Capability, Welcome

Version = tuple[int, int, int]

PROTOCOLS = (1, 2)
"""Protocol versions that this code speaks. 1: full stream only. 2: on demand and three intensities as well."""

_ALL_OF_1 = Capability.FULL_STREAM | Capability.QRNG | Capability.HOST_RANDOM
_ALL_OF_2 = _ALL_OF_1 | Capability.ON_DEMAND | Capability.THREE_INTENSITIES

NOTHING = Capability(0)


@dataclass(frozen=True, slots=True)
class Pair:
    """One cell: daemons and firmwares from (included) to (excluded). protocol 0: refused, and `why`."""

    daemon: tuple[Version, Version]
    firmware: tuple[Version, Version]
    protocol: int
    capabilities: Capability = NOTHING
    why: str = ""


TABLE: tuple[Pair, ...] = (
    Pair(((0, 1, 0), (1, 0, 0)), ((0, 0, 0), (1, 2, 0)), 0, why="too old: it counts no lost symbols"),
    Pair(((0, 1, 0), (1, 0, 0)), ((1, 2, 0), (2, 0, 0)), 1, _ALL_OF_1),
    Pair(((0, 1, 0), (1, 0, 0)), ((2, 0, 0), (3, 0, 0)), 2, _ALL_OF_2),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides will use."""

    protocol: int
    capabilities: Capability


def text(version: Version) -> str:
    return ".".join(str(part) for part in version)


def parse(version: str) -> Version:
    """ "1.2.3" (a suffix such as ".dev1" or "rc1" is left out). Raises ValueError."""
    match = re.match(r"^(\d+)\.(\d+)(?:\.(\d+))?", version)
    if match is None:
        raise ValueError(f"{version!r} is no version")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def negotiate(daemon: str, welcome: Welcome, table: tuple[Pair, ...] = TABLE) -> Agreement:
    """What this daemon and the board that sent `welcome` use. Raises FirmwareUnsupported with both versions."""
    firmware = (welcome.major, welcome.minor, welcome.patch)
    ours = parse(daemon)
    pair = next((p for p in table if _in(ours, p.daemon) and _in(firmware, p.firmware)), None)
    if pair is None:
        raise _refused(daemon, firmware, "unknown: the pair is not in the table")
    if not pair.protocol:
        raise _refused(daemon, firmware, pair.why)
    if not welcome.protocol_low <= pair.protocol <= welcome.protocol_high or pair.protocol not in PROTOCOLS:
        spoken = f"{welcome.protocol_low} to {welcome.protocol_high}"
        raise _refused(daemon, firmware, f"it speaks protocol {spoken}, the table says {pair.protocol}")
    return Agreement(pair.protocol, pair.capabilities & Capability(welcome.capabilities))


def _in(version: Version, span: tuple[Version, Version]) -> bool:
    return span[0] <= version < span[1]


def _refused(daemon: str, firmware: Version, why: str) -> FirmwareUnsupported:
    return FirmwareUnsupported(
        f"firmware {text(firmware)} with daemon {daemon}: {why}", daemon=daemon, firmware=text(firmware)
    )
