"""OpenAPI 3.1 description of key streams: docs/openapi/etsi004.json, made by `python -m qkdd.kms.openapi004`."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from qkdd.kms.etsi004 import BASE
from qkdd.kms.stream_messages import Chunk, Close, Closed, GetKey, OpenConnect, Opened, Status

_STATUSES = "; ".join(f"{status.value} {status.name.lower().replace('_', ' ')}" for status in Status)


def _body(kind: type[Any]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _answers(kind: type[Any], media: str = "application/json") -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {
            "description": f"`status` says what came of it: {_STATUSES}.",
            "content": {media: _body(kind)["application/json"]},
        },
        "400": {"description": "The request is malformed.", "content": error},
        "401": {"description": "The certificate's SAE is not known here.", "content": error},
        "503": {
            "description": "Too many requests or streams, or the KMS failed: try again.",
            "content": error,
            "headers": {"Retry-After": {"schema": {"type": "integer"}}},
        },
    }


def _call(identifier: str, summary: str, asked: type[Any], answered: type[Any]) -> dict[str, Any]:
    body = {"required": True, "content": _body(asked)}
    return {
        "post": {
            "operationId": identifier,
            "summary": summary,
            "requestBody": body,
            "responses": _answers(answered),
        }
    }


def document() -> dict[str, Any]:
    """The whole document."""
    kinds = (OpenConnect, Opened, GetKey, Chunk, Close, Closed)
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schemas["Error"] = {
        "type": "object",
        "required": ["message"],
        "properties": {"message": {"type": "string"}, "details": {"type": "array", "items": {"type": "object"}}},
    }
    path = {"name": "ksid", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    push = {
        "operationId": "push",
        "summary": "Chunk after chunk, a line of JSON each, until one end closes",
        "parameters": [path],
        "responses": _answers(Chunk, "application/x-ndjson"),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qkdd-kms: ETSI GS QKD 004 V2.1.1 over JSON",
            "version": "1",
            "description": "Mutual TLS only; the caller is who its certificate says. The standard fixes no wire: this is ours.",
        },
        "paths": {
            f"{BASE}/open_connect": _call("openConnect", "OPEN_CONNECT", OpenConnect, Opened),
            f"{BASE}/get_key": _call("getKey", "GET_KEY", GetKey, Chunk),
            f"{BASE}/close": _call("close", "CLOSE", Close, Closed),
            f"{BASE}/push/{{ksid}}": {"get": push},
        },
        "components": {"schemas": schemas, "securitySchemes": {"mtls": {"type": "mutualTLS"}}},
        "security": [{"mtls": []}],
    }


def text() -> str:
    """docs/openapi/etsi004.json."""
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
