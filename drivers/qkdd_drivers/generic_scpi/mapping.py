"""The mapping file: which commands an instrument takes for what a role asks. TOML, checked before anything is sent."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from qkdd.core import config as core_config
from qkdd.core.config import ConfigRefused, Section
from qkdd.core.units import Seconds
from qkdd.device.config import DeviceConfig
from qkdd.device.errors import DeviceConfigError
from qkdd.device.transport import FrameError
from qkdd_drivers.scpi import number as scpi_number

_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_ENDS = {"lf": b"\n", "cr": b"\r", "crlf": b"\r\n"}

Finding = tuple[str, str, str]


class Quantity(Section, frozen=True, kw_only=True):
    """One number that the instrument is told and asked.

    set: command with {value} in it, for example "INP:ATT {value:.2f} DB". get: query of the same. answer: regular expression
    whose first group is the number in the answer. scale, offset: what the driver calls = instrument's number * scale + offset.
    range: in the driver's unit. tolerance: by which the read-back may differ.
    """

    set: str = ""
    get: str
    answer: str = _NUMBER
    scale: float = 1.0
    offset: float = 0.0
    range: tuple[float, float] = (0.0, 0.0)
    tolerance: float = 0.0

    def check(self) -> Iterator[Finding]:
        if self.set:
            yield from _template("set", self.set, {"value", "detector"}, {"value"})
        yield from _template("get", self.get, {"detector"}, set())
        if self.scale == 0.0:
            yield "scale", "is zero", "1.0 when the instrument uses the driver's own unit"
        if self.set and not self.range[0] < self.range[1]:
            yield "range", "is empty", "write the smallest and the largest value that the instrument takes"
        if self.tolerance < 0:
            yield "tolerance", "is negative", ""
        try:
            groups = re.compile(self.answer).groups
        except re.error as error:
            yield "answer", f"is no regular expression: {error}", ""
        else:
            if groups < 1:
                yield "answer", "has no group for the number", "put the number into parentheses"

    def command(self, value: float, detector: int = 0) -> str:
        return self.set.format(value=(value - self.offset) / self.scale, detector=detector)

    def question(self, detector: int = 0) -> str:
        return self.get.format(detector=detector)

    def parse(self, text: str) -> float:
        """The value in an answer. Raises FrameError, Refused."""
        found = re.search(self.answer, text)
        if found is None:
            raise FrameError(f"{text[:60]!r} does not match {self.answer!r}")
        return scpi_number(found[1]) * self.scale + self.offset


class Mapping(Section, frozen=True, kw_only=True):
    """What all mapping files have.

    title: for people. identity: regular expression that the answer to `identity_query` must contain. serial: the same with a
    group for the serial number. error_query: empty when the instrument has no error queue. open: commands after identifying.
    safe: commands before closing, and for a detector also to switch it off. answer_time: seconds for any answer.
    """

    title: str
    identity: str
    identity_query: str = "*IDN?"
    serial: str = r"^[^,]*,[^,]*,\s*([^,]*)"
    error_query: str = "SYST:ERR?"
    end: str = "lf"
    baudrate: int = 9600
    answer_time: Seconds = Seconds(1.0)
    open: tuple[str, ...] = ()
    safe: tuple[str, ...] = ()

    def check(self) -> Iterator[Finding]:
        for key in ("identity", "serial"):
            try:
                re.compile(getattr(self, key))
            except re.error as error:
                yield key, f"is no regular expression: {error}", ""
        if not self.identity:
            yield "identity", "is empty: any instrument would be taken for it", "write what *IDN? answers, or its model"
        if self.end not in _ENDS:
            yield "end", f"{self.end!r} is unknown", f"one of {', '.join(_ENDS)}"
        for key in ("identity_query", "error_query"):
            yield from _template(key, getattr(self, key), set(), set())
        for key in ("open", "safe"):
            for command in getattr(self, key):
                yield from _template(key, command, set(), set())
        if not 0.01 <= self.answer_time <= 60.0:
            yield "answer_time", f"{self.answer_time} lies outside 10 ms to 1 min", "1 s is the default"

    @property
    def end_bytes(self) -> bytes:
        return _ENDS[self.end]


class AttenuatorMapping(Mapping, frozen=True, kw_only=True):
    """attenuation in dB, insertion loss included."""

    attenuation: Quantity


class SwitchMapping(Mapping, frozen=True, kw_only=True):
    """position: whole numbers; the instrument's own number of the first output is `first`."""

    position: Quantity
    positions: int
    first: int = 1

    def check(self) -> Iterator[Finding]:
        yield from super().check()
        if not 2 <= self.positions <= 1024:
            yield "positions", f"{self.positions} outputs", "2 to 1024"


class DetectorMapping(Mapping, frozen=True, kw_only=True):
    """{detector} in commands counts from `first`. counts: of one detector over `period`. bias: in `bias_unit`."""

    counts: Quantity
    detectors: int = 1
    first: int = 1
    period: Seconds = Seconds(1.0)
    bias: Quantity | None = None
    bias_unit: str = "V"
    on: tuple[str, ...] = ()

    def check(self) -> Iterator[Finding]:
        yield from super().check()
        if not 1 <= self.detectors <= 256:
            yield "detectors", f"{self.detectors} detectors", "1 to 256"
        if self.bias_unit not in ("V", "A"):
            yield "bias_unit", f"{self.bias_unit!r} is no unit of a bias", "V or A"
        if self.bias is not None and not self.bias.set:
            yield "bias.set", "is missing", 'for example set = "BIAS{detector} {value:.3f}"'
        if self.period <= 0:
            yield "period", "is not positive", ""
        for command in self.on:
            yield from _template("on", command, set(), set())


M = TypeVar("M", bound=Mapping)


def load(config: DeviceConfig, kind: type[M]) -> M:
    """The mapping that `options.mapping` names. Raises DeviceConfigError with every finding, file and line."""
    path = config.options.get("mapping")
    if not isinstance(path, str) or not path:
        raise DeviceConfigError(
            f"driver {config.driver!r} needs options.mapping, the path of a mapping file",
            remedy="The README of the driver has an example.",
        )
    try:
        return core_config.load(Path(path), kind)
    except ConfigRefused as refusal:
        raise DeviceConfigError(f"options.mapping: {refusal.message}") from None


def _template(key: str, text: str, allowed: set[str], needed: set[str]) -> Iterator[Finding]:
    """A command: printable ASCII, with no other placeholders than allowed, and with those that are needed."""
    if not text.isascii() or not text.isprintable():
        yield key, f"{text!r} has characters that no command has", "leave out line ends: `end` gives them"
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        if unknown := found - allowed:
            yield key, f"{text!r} has the placeholder {_braced(unknown)}", f"known here: {_braced(allowed)}"
            return
        text.format(value=1.5, detector=1)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        yield key, f"{text!r}: {type(error).__name__}: {error}", f"placeholders: {_braced(allowed)}"
        return
    if needed - found:
        yield key, f"{text!r} lacks {_braced(needed)}", ""


def _braced(names: set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "none"
