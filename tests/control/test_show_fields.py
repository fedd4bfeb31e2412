"""`qkdctl devices NAME`: fields of several elements, whether numbers, words or switches."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from qkdd.control import show, views


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([0.5, -1.25], "0.5, -1.25"),
        (["positive", "negative"], "positive, negative"),
        ([True, False], "True, False"),
        ("dc", "dc"),
        (None, "None"),
    ],
)
def test_every_kind_of_field_is_shown(value: Any, shown: str) -> None:
    view = views.FieldView(name="f", value=value, unit="V", settable=True, low=None, high=None, doc="Set f")
    body = [{name: getattr(view, name) for name in view.__struct_fields__}]
    out = Console(file=io.StringIO(), width=120)
    out.print(show.fields(body))
    assert shown in out.file.getvalue()  # type: ignore[attr-defined]
