"""Declarations: what an instrument can be told and asked, with unit and limits, as data beside the code.

A driver writes `bias = Field("Bias current …", unit=Amperes, range=(0.0, 50e-6), settable=True)`; the limits that apply are
hardware ∩ instrument ∩ site. Out of range is refused, never clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from qkdd.core.units import Quantity

Value = float | int | bool | str
Values = tuple[Value, ...]


class Category(StrEnum):
    """Why a field is there."""

    CONTROL = "control"  # what the program turns while it runs
    SETTING = "setting"  # what is set once for a measurement
    READING = "reading"  # what is measured
    DIAGNOSTIC = "diagnostic"  # what helps to find a fault


@dataclass(frozen=True, slots=True)
class Limits:
    """A closed interval in SI base units."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and self.low <= value <= self.high

    def intersect(self, other: Limits) -> Limits:
        """The part that both allow; may be empty (low > high)."""
        return Limits(max(self.low, other.low), min(self.high, other.high))

    @property
    def empty(self) -> bool:
        return self.low > self.high

    def text(self, unit: type[Quantity] | None) -> str:
        low, high = (str(unit(v)) if unit else f"{v:g}" for v in (self.low, self.high))
        return f"{low} to {high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One thing that an instrument can be told or asked.

    doc: begins with Control, Measure, Set or Get. unit: a class of `qkdd.core.units`, None for a bare number, word or
    switch. kind: Python type of one element. range: hardware limits in SI base units (numbers only). choices: the words
    that a text field knows. size: elements; None = as many as the instrument says it has. settable, readable: whether the
    driver has `_set_NAME(values)` and `_get_NAME()`.
    """

    doc: str
    unit: type[Quantity] | None = None
    kind: type[float] | type[int] | type[bool] | type[str] = float
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    size: int | None = 1
    settable: bool = False
    readable: bool = True
    category: Category = Category.READING

    def __post_init__(self) -> None:
        if self.settable and self.kind in (float, int) and self.range is None:
            raise TypeError(f"a settable number needs its hardware range ({self.doc})")
        if self.range is not None and self.range[0] > self.range[1]:
            raise TypeError(f"the range {self.range} is empty ({self.doc})")

    @property
    def unit_name(self) -> str:
        """Name of the SI base unit; empty for a bare number, word or switch."""
        return self.unit.base if self.unit else ""

    @property
    def hardware(self) -> Limits:
        return Limits(*self.range) if self.range is not None else Limits(-math.inf, math.inf)

    def parse(self, text: Any) -> Value:
        """One element as written in configuration. Raises ValueError saying what would be right."""
        if self.unit is not None:
            return float(self.unit.parse(text))
        if self.kind is bool:
            if not isinstance(text, bool):
                raise ValueError(f"{text!r} is neither true nor false")
            return text
        if self.kind is str:
            if not isinstance(text, str) or (self.choices and text not in self.choices):
                raise ValueError(f"{text!r} is none of {', '.join(self.choices) or 'text'}")
            return text
        if isinstance(text, bool) or not isinstance(text, (int, float)) or (self.kind is int and text != int(text)):
            raise ValueError(f"{text!r} is not a {'whole ' if self.kind is int else ''}number")
        return self.kind(text)

    def parse_limits(self, pair: Any) -> Limits:
        """Site limits `["20 deg", "150 deg"]`. Raises ValueError."""
        if self.range is None:
            raise ValueError("this field has no limits")
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError('limits are written as two values, for example ["20 deg", "150 deg"]')
        site = Limits(float(self.parse(pair[0])), float(self.parse(pair[1])))
        joint = self.hardware.intersect(site)
        if site.empty or joint.empty:
            raise ValueError(
                f"{site.text(self.unit)} has nothing in common with the hardware's {self.hardware.text(self.unit)}"
            )
        return joint


def describe(fields: Mapping[str, Field]) -> list[dict[str, Any]]:
    """Plain form of declarations for JSON and tables."""
    return [
        {
            "field": name,
            "unit": f.unit_name,
            "kind": f.kind.__name__,
            "range": list(f.range) if f.range else None,
            "choices": list(f.choices),
            "size": f.size,
            "settable": f.settable,
            "readable": f.readable,
            "category": f.category.value,
            "doc": f.doc,
        }
        for name, f in fields.items()
    ]
