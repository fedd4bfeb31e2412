"""What drivers share whose instrument speaks SCPI (SCPI-99, IEEE 488.2): queries, commands that are checked, numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import serial_port
from qkdd.device.fields import Value
from qkdd.device.lines import any_line
from qkdd.device.roles import Identity
from qkdd.device.transport import ByteLink, ByteReader, FrameError, Refused, Stranger
from qkdd.device.visa_link import LIBRARY
from qkdd_drivers.dialogue import DialogueDriver, text_line
from qkdd_drivers.options import read_options

T = TypeVar("T")

_LINE_FEED = b"\n"
_LONGEST = 4096  # bytes of an answer
_NOT_A_NUMBER = 9.9e37  # SCPI-99 volume 1, 7.2.1.4 and 7.2.1.5: infinity is 9.9E37, not-a-number 9.91E37
_ERROR = re.compile(r"^([+-]?\d+)\s*,?\s*(.*)$")


class ScpiDriver(DialogueDriver):
    """Base of such drivers. A set has no answer in SCPI, so the error queue is asked after each; drivers read back beside."""

    error_query: ClassVar[str] = "SYST:ERR?"
    """Empty for an instrument without an error queue."""
    end: ClassVar[bytes] = _LINE_FEED
    """What ends a command. Answers end with a line feed, after a carriage return or not."""
    options: ClassVar[dict[str, str]] = {"visa_library": LIBRARY}
    """The keys of the device's `options` with their usual values."""

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        read_options(name, config.options, self.options)

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        """`port`: a VISA resource, or whatever else `qkdd.device.lines` knows; option `visa_library`: pyvisa's name of it."""
        library = str(config.options.get("visa_library", LIBRARY))
        return (any_line(serial_port(config), visa_library=library),)

    async def query(
        self,
        operation: str,
        question: str,
        parse: Callable[[str], T],
        timeout: float | None = None,
        *,
        urgent: bool = False,
    ) -> T:
        """Ask one question; `parse` makes a value of the answer or raises FrameError, Refused, Stranger."""

        def answer(reader: ByteReader, seconds: float) -> T:
            text = self._line(reader, seconds)
            reader.settled()
            return parse(text)

        return await self.exchange(operation, question.encode() + self.end, answer, timeout, urgent=urgent)

    async def command(self, operation: str, *commands: str) -> None:
        """Send commands one after another. Raises CommandRefused with the instrument's own words."""

        def answer(reader: ByteReader, seconds: float) -> None:
            if self.error_query:
                complaint(self._line(reader, seconds))
            reader.settled()

        for command in commands:
            lines = [command, self.error_query] if self.error_query else [command]
            await self.exchange(operation, b"".join(line.encode() + self.end for line in lines), answer)

    def must_match(self, operation: str, wanted: float, found: float, tolerance: float) -> float:
        """The read-back, if it is what was asked for. Raises CommandRefused."""
        if not abs(wanted - found) <= tolerance:
            raise self.error(errors.CommandRefused, operation, f"it stands at {found:g} instead of {wanted:g}")
        return found

    @staticmethod
    def _line(reader: ByteReader, seconds: float) -> str:
        return text_line(reader.until(_LINE_FEED, seconds, _LONGEST).rstrip(b"\r")).strip()


def complaint(text: str) -> None:
    """The answer to SYST:ERR?. Raises Refused unless it is 0, FrameError when it does not begin with a number."""
    found = _ERROR.match(text)
    if found is None:
        raise FrameError(f"{text[:60]!r} is no answer to SYST:ERR?")
    if int(found[1]) != 0:
        raise Refused(f"it reports error {text[:120]}")


def number(text: str) -> float:
    """A finite number. Raises Refused for SCPI's infinity and not-a-number, FrameError for anything else."""
    try:
        value = float(text)
    except ValueError:
        raise FrameError(f"{text[:60]!r} is no number") from None
    if not math.isfinite(value) or abs(value) >= _NOT_A_NUMBER:
        raise Refused(f"it has no value to give ({text[:20]}: out of its range)")
    return value


def switch(text: str) -> bool:
    """Boolean as SCPI gives it (1, 0) or as some do (ON, OFF, TRUE, FALSE). Raises FrameError."""
    word = text.strip().upper()
    if word in ("1", "ON", "TRUE"):
        return True
    if word in ("0", "OFF", "FALSE"):
        return False
    raise FrameError(f"{text[:40]!r} is neither on nor off")


def on_off(value: Value) -> str:
    return "ON" if value else "OFF"


def identity(text: str, models: str, what: str) -> Identity:
    """The answer to *IDN? (IEEE 488.2, 10.14: four fields). `models`: regular expression of the model field.

    Raises Stranger when another instrument answers, FrameError when there are no four fields.
    """
    fields = [field.strip().strip('"') for field in text.split(",")]
    if len(fields) < 4:
        raise FrameError(f"{text[:80]!r} is no answer to *IDN?")
    if re.fullmatch(models, fields[1], re.IGNORECASE) is None:
        raise Stranger(f"{fields[0]} {fields[1]} answers, which is no {what}")
    return Identity(fields[0], fields[1], fields[2], fields[3])
