"""Figures as rows, as `qkdd bench kernels` prints them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `must`: what the project asks for, or None."""

    name: str
    value: float
    unit: str
    reference: float | None
    ratio: float | None
    must: float | None
    meets_must: bool | None


def row(
    name: str,
    value: float,
    unit: str,
    must: float | None = None,
    *,
    reference: float | None = None,
    below: bool = False,
) -> Row:
    """A figure that should reach `must` (or, with `below`, not exceed it)."""
    meets = None if must is None else value <= must if below else value >= must
    return Row(name, value, unit, reference, None if not reference else value / reference, must, meets)


def show(rows: Iterable[Row], *, as_json: bool) -> None:
    for figure in rows:
        if as_json:
            print(json.dumps(asdict(figure)), flush=True)
        else:
            must = "" if figure.must is None else f"  must {figure.must:g}: {'yes' if figure.meets_must else 'no'}"
            print(f"{figure.name:<112}{figure.value:>10.3f} {figure.unit}{must}", flush=True)
