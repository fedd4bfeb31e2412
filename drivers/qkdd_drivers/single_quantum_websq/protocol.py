"""Single Quantum WebSQ: JSON on a control socket, lines of counts on another. Pure functions.

Source: fact sheet `devices.md` section 5 (PyPI qcodes-contrib-drivers, vendor-authored). To the server go JSON objects
without terminator; from the server comes JSON ended by ETB (0x17). Counts are lines `unixtime,c1,c2,…` LF.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qkdd.device.transport import FrameError

CONTROL_PORT, COUNTS_PORT = 12000, 12345
ETB = b"\x17"
LF = b"\n"
MAX_MESSAGE = 65536

DETECTORS, BIAS, BIAS_VOLTAGE = "NumberOfDetectors", "BiasCurrent", "BiasVoltage"
TRIGGER, PERIOD, ENABLE = "TriggerLevel", "InptMeasurementPeriod", "DetectorEnable"
DARK_TARGETS, AUTO_RUNNING = "DarkCountsAutoIV", "StartAutoIV"
LABEL_PROPS = "labelProps"


def request(name: str, value: str | None = None) -> bytes:
    """Ask for a label, or with "labelProps" for all of them."""
    return json.dumps({"request": name} | ({} if value is None else {"value": value})).encode()


def command(name: str, label: str, value: Any) -> bytes:
    return json.dumps({"command": name, "label": label, "value": value}).encode()


def set_bias(microampere: Sequence[float]) -> bytes:
    """Bias current of every detector."""
    return command("SetAllBiasCurrents", BIAS, list(microampere))


def set_trigger(millivolt: Sequence[float]) -> bytes:
    return command("SetAllTriggerLevels", TRIGGER, list(millivolt))


def set_period(milliseconds: float) -> bytes:
    return command("SetMeasurementPeriod", PERIOD, milliseconds)


def set_enabled(enabled: bool) -> bytes:
    return command("DetectorEnable", ENABLE, enabled)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the server. `described` tells the answer to labelProps from a later broadcast."""

    label: str
    value: Any
    described: bool = False
    bounds: Any = None

    @property
    def is_error(self) -> bool:
        return "Error" in self.label


def message(data: bytes) -> Message:
    """Decode what stood before an ETB. Raises FrameError."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        raise FrameError(f"a message of {len(data)} bytes is not JSON") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("label"), str) or "value" not in tree:
        raise FrameError("a message without label and value")
    value = tree["value"]
    if isinstance(value, dict) and "value" in value:
        return Message(tree["label"], value["value"], True, value.get("bounds"))
    return Message(tree["label"], value)


def number(value: Any, label: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FrameError(f"{label} is not a number")
    return float(value)


def numbers(value: Any, label: str, count: int) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise FrameError(f"{label} is not a list of {count}")
    return tuple(number(one, label) for one in value)


def counts_line(line: bytes, detectors: int) -> tuple[float, tuple[int, ...]]:
    """(end of the period in seconds since the Unix epoch, counts per detector). Raises FrameError."""
    parts = line.strip().split(b",")
    try:
        when, counts = float(parts[0]), tuple(int(float(part)) for part in parts[1:])
    except (ValueError, OverflowError):
        raise FrameError(f"a line of counts is damaged: {line[:60]!r}") from None
    if len(counts) != detectors or min(counts, default=0) < 0 or not math.isfinite(when):
        raise FrameError(f"a line of {len(counts)} counts, not {detectors}")
    return when, counts


def split_objects(text: str) -> tuple[list[Any], str]:
    """Cut glued JSON objects `}{` apart (the server's side): (objects, rest that is not complete)."""
    decoder, found = json.JSONDecoder(), []
    text = text.lstrip()
    while text:
        try:
            tree, end = decoder.raw_decode(text)
        except ValueError:
            break
        found.append(tree)
        text = text[end:].lstrip()
    return found, text
