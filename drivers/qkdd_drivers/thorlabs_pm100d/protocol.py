"""Thorlabs PM100D: what is its own in its answers. Pure functions. Source: fact sheet `devices.md` section 12."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from qkdd.device.transport import FrameError

_POWER, _TEMPERATURE = 1, 256


@dataclass(frozen=True, slots=True)
class Sensor:
    """The head that is plugged in."""

    name: str
    power: bool
    temperature: bool


NO_SENSOR = Sensor("no sensor", False, False)


def sensor(text: str) -> Sensor:
    """The answer to SYST:SENS:IDN?: name, serial, "calibration", type, subtype, flags. Raises FrameError."""
    if text.strip().strip('"').lower().startswith("no sensor"):
        return NO_SENSOR
    fields = [field.strip() for field in next(csv.reader([text]))]
    if len(fields) < 6 or not fields[5].isdigit():
        raise FrameError(f"{text[:80]!r} describes no sensor")
    flags = int(fields[5])
    return Sensor(fields[0], bool(flags & _POWER), bool(flags & _TEMPERATURE))
