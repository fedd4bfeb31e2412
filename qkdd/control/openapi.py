"""The OpenAPI 3.1 document of the control socket, made from the route table."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from qkdd import __version__
from qkdd.control.routes import ROUTES
from qkdd.core.local_access import Role
from qkdd.core.local_api import ErrorView, Route

_REFUSALS = {
    "400": "The request has a wrong form.",
    "403": "The user has no role, or too low a role.",
    "404": "There is no such route, device or object.",
    "409": "The node's state does not allow it now, or it failed.",
    "500": "A defect of the daemon.",
}

_MEDIA = {"/": "text/html", "/events": "text/event-stream"}


def document() -> dict[str, Any]:
    """The whole document as plain data."""
    types: list[Any] = [ErrorView]
    for route in ROUTES:
        types.append(route.answer)
        if route.body is not None:
            types.append(route.body)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = {repr(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qkdd control socket",
            "version": __version__,
            "description": "HTTP over the UNIX socket of [control] socket. The role comes from the kernel's record of "
            "who connected (SO_PEERCRED); there is no password. Durations in seconds, angles in radian.",
        },
        "servers": [{"url": "http://qkdd", "description": "Any host name: the address is the socket."}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    media = _MEDIA.get(route.path, "application/x-ndjson" if route.stream else "application/json")
    name = (
        "page"
        if route.path == "/"
        else route.path.removeprefix("/v1/")
        .replace("/events", "page_events")
        .replace("/{name}", "")
        .replace("/", "_")
        .replace("-", "_")
    )
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{name}",
        "summary": route.summary,
        "x-role": "admin" if route.role is Role.ADMIN else "view",
        "responses": {
            "200": {"description": "Done.", "content": {media: {"schema": schemas[repr(route.answer)]}}},
            **{
                status: {"description": text, "content": {"application/json": {"schema": schemas[repr(ErrorView)]}}}
                for status, text in _REFUSALS.items()
            },
        },
    }
    parameters: list[dict[str, Any]] = []
    if "{name}" in route.path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string"}})
    for query in route.query:
        schema: dict[str, Any] = {"type": "integer", "minimum": query.low, "maximum": query.high}
        if query.default is not None:
            schema["default"] = query.default
        parameters.append(
            {"name": query.name, "in": "query", "required": False, "description": query.doc, "schema": schema}
        )
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[repr(route.body)]}},
        }
    return operation


def to_json() -> str:
    """docs/openapi/control.json."""
    return json.dumps(document(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
