"""Physical quantities in configuration and driver fields: a float with a dimension, written with its unit.

In TOML a quantity is a string, `window = "6 ns"`; a bare number is refused, and so is a unit of another dimension. In the
program a quantity is a plain float in SI base units (angles in radian), of a class that names its dimension.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar, Self

_NUMBER = re.compile(r"^\s*([+-]?(?:\d[\d_]*)?(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([^\d\s].*?)?\s*$")


class Quantity(float):
    """A float in SI base units. Subclasses name the dimension and the units it is written in."""

    dimension: ClassVar[str] = ""
    base: ClassVar[str] = ""
    units: ClassVar[dict[str, float]] = {}

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `"6 ns"`. Raises ValueError naming the units that are understood."""
        known = ", ".join(cls.units)
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            raise ValueError(
                f'a {cls.dimension} is written as text with its unit, for example "5 {cls.base}" (units: {known})'
            )
        match = _NUMBER.match(text)
        if match is None or not match.group(1):
            raise ValueError(f"{text!r} is not a {cls.dimension}; write a number and one of {known}")
        number, unit = match.group(1), match.group(2) or ""
        if unit not in cls.units:
            problem = f"unit {unit!r} is no unit of {cls.dimension}" if unit else "the unit is missing"
            raise ValueError(f"{text!r}: {problem}; use one of {known}")
        value = float(number) * cls.units[unit]
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is not a finite {cls.dimension}")
        return cls(value)

    def __str__(self) -> str:
        value = float(self)
        best, factor = self.base, 1.0
        for unit, scale in sorted(self.units.items(), key=lambda item: item[1]):
            if value != 0 and 1.0 <= abs(value) / scale < 1000.0 * (1 + 1e-12):
                best, factor = unit, scale
        return f"{value / factor:.6g} {best}".rstrip()


class Seconds(Quantity):
    dimension, base = "duration", "s"
    units = {
        "ps": 1e-12,
        "ns": 1e-9,
        "us": 1e-6,
        "µs": 1e-6,
        "ms": 1e-3,
        "s": 1.0,
        "min": 60.0,
        "h": 3600.0,
        "d": 86400.0,
    }


class Hertz(Quantity):
    dimension, base = "frequency or rate", "Hz"
    units = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9, "1/s": 1.0, "cps": 1.0}


class Volts(Quantity):
    dimension, base = "voltage", "V"
    units = {"uV": 1e-6, "µV": 1e-6, "mV": 1e-3, "V": 1.0}


class Amperes(Quantity):
    dimension, base = "current", "A"
    units = {"nA": 1e-9, "uA": 1e-6, "µA": 1e-6, "mA": 1e-3, "A": 1.0}


class Radians(Quantity):
    dimension, base = "angle", "rad"
    units = {"rad": 1.0, "mrad": 1e-3, "deg": math.pi / 180.0, "°": math.pi / 180.0}


class Kelvins(Quantity):
    """Temperature; degrees Celsius are converted by offset, so it has a parser of its own."""

    dimension, base = "temperature", "K"
    units = {"K": 1.0, "mK": 1e-3}

    @classmethod
    def parse(cls, text: object) -> Self:
        if isinstance(text, str) and text.strip().endswith(("degC", "°C")):
            number = text.strip().removesuffix("degC").removesuffix("°C").strip()
            return cls(float(number) + 273.15)
        return super().parse(text)


class Decibels(Quantity):
    dimension, base = "attenuation", "dB"
    units = {"dB": 1.0}


class Watts(Quantity):
    dimension, base = "power", "W"
    units = {"pW": 1e-12, "nW": 1e-9, "uW": 1e-6, "µW": 1e-6, "mW": 1e-3, "W": 1.0}


class Metres(Quantity):
    dimension, base = "length", "m"
    units = {"nm": 1e-9, "um": 1e-6, "mm": 1e-3, "m": 1.0, "km": 1e3}


class Fraction(float):
    """A number in [0, 1], written bare (`0.05`) or in percent (`"5 %"`)."""

    @classmethod
    def parse(cls, text: object) -> Self:
        if isinstance(text, str) and text.strip().endswith("%"):
            value = float(text.strip()[:-1]) / 100.0
        elif isinstance(text, (int, float)) and not isinstance(text, bool):
            value = float(text)
        else:
            raise ValueError(f'{text!r} is not a fraction; write 0.05 or "5 %"')
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{text!r} lies outside 0 to 1")
        return cls(value)


def dec_hook(kind: type, value: Any) -> Any:
    """msgspec hook: turn TOML text into a quantity."""
    if isinstance(kind, type) and issubclass(kind, (Quantity, Fraction)):
        return kind.parse(value)
    raise NotImplementedError(f"no decoder for {kind}")


def enc_hook(value: Any) -> Any:
    """msgspec hook: write a quantity with its unit."""
    if isinstance(value, Quantity):
        return str(value)
    if isinstance(value, Fraction):
        return float(value)
    raise NotImplementedError(f"no encoder for {type(value)}")
