"""The OpenAPI document says what the server does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from qkdd.control import openapi
from qkdd.control.routes import ROUTES

DOCUMENT = Path(__file__).parents[2] / "docs/openapi/control.json"


def test_the_committed_document_is_fresh() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == openapi.to_json(), "run `python -m qkdd.node.docs`"


def test_every_route_is_described_once() -> None:
    document = openapi.document()
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(r.method, r.path) for r in ROUTES}
    ids = [op["operationId"] for item in document["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))


def test_all_references_resolve_and_path_parameters_are_declared() -> None:
    document = openapi.document()
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    for path, item in document["paths"].items():
        for operation in item.values():
            declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path))


def test_no_key_material_has_a_place() -> None:
    schemas: dict[str, Any] = openapi.document()["components"]["schemas"]
    fields = {name for schema in schemas.values() for name in schema.get("properties", {})}
    assert not fields & {"key", "secret", "bytes", "material", "value_hex"}
    assert "contentEncoding" not in json.dumps(schemas)  # msgspec's mark of a binary field
