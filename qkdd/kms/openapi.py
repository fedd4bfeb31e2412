"""OpenAPI 3.1 description of the ETSI GS QKD 014 interface: docs/openapi/etsi014.json, made by `python -m qkdd.kms.openapi`."""

from __future__ import annotations

import json
from typing import Any

from qkdd.kms.etsi014 import BASE

_STRING = {"type": "string"}
_BITS = {"type": "integer", "minimum": 1, "description": "bits"}
_COUNT = {"type": "integer", "minimum": 0}
_UUID = {"type": "string", "format": "uuid"}
_EXTENSIONS = {"type": "array", "items": {"type": "object"}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_STATUS_NUMBERS = (
    "key_size",
    "stored_key_count",
    "max_key_count",
    "max_key_per_request",
    "max_key_size",
    "min_key_size",
    "max_SAE_ID_count",
)
_STATUS_NAMES = ("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID")

_SCHEMAS: dict[str, Any] = {
    "Status": _object(
        [*_STATUS_NAMES, *_STATUS_NUMBERS],
        **dict.fromkeys(_STATUS_NAMES, _STRING),
        **dict.fromkeys(_STATUS_NUMBERS, _COUNT),
        status_extension={"type": "object"},
    ),
    "KeyRequest": _object(
        [],
        number={"type": "integer", "minimum": 1, "default": 1},
        size=_BITS,
        additional_slave_SAE_IDs={"type": "array", "items": _STRING},
        extension_mandatory=_EXTENSIONS,
        extension_optional=_EXTENSIONS,
    ),
    "KeyContainer": _object(
        ["keys"],
        keys={
            "type": "array",
            "items": _object(
                ["key_ID", "key"],
                key_ID=_UUID,
                key={"type": "string", "contentEncoding": "base64"},
                key_extension={"type": "object"},
            ),
        },
    ),
    "KeyIDs": _object(
        ["key_IDs"],
        key_IDs={
            "type": "array",
            "minItems": 1,
            "items": _object(["key_ID"], key_ID=_UUID, key_ID_extension={"type": "object"}),
        },
        key_IDs_extension={"type": "object"},
    ),
    "Error": _object(["message"], message=_STRING, details={"type": "array", "items": {"type": "object"}}),
}


def _answers(schema: str) -> dict[str, Any]:
    def answer(text: str, name: str) -> dict[str, Any]:
        return {"description": text, "content": {"application/json": {"schema": _reference(name)}}}

    return {
        "200": answer("Done.", schema),
        "400": answer("The request breaks a rule, or a key is not here.", "Error"),
        "401": answer("The certificate's SAE is not entitled.", "Error"),
        "503": {
            **answer("No key now, the other site does not answer, or too many requests: try again.", "Error"),
            "headers": {"Retry-After": {"schema": {"type": "integer"}}},
        },
    }


def _operation(identifier: str, summary: str, schema: str, **more: Any) -> dict[str, Any]:
    return {"operationId": identifier, "summary": summary, "responses": _answers(schema), **more}


def _body(name: str, *, required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": _reference(name)}}}


def _parameter(name: str, place: str, schema: dict[str, Any], text: str, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema, "description": text}


def document() -> dict[str, Any]:
    """The whole document."""
    slave = _parameter("slave", "path", _STRING, "SAE ID of the slave", required=True)
    master = _parameter("master", "path", _STRING, "SAE ID of the master", required=True)
    query = [
        _parameter("number", "query", {"type": "integer", "minimum": 1}, "keys", required=False),
        _parameter("size", "query", _BITS, "bits of each key", required=False),
    ]
    key_id = _parameter("key_ID", "query", _UUID, "one key", required=True)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qkdd-kms: ETSI GS QKD 014 V1.1.1",
            "version": "1",
            "description": "Mutual TLS only; the caller is who its certificate says. Sizes are bits.",
        },
        "paths": {
            f"{BASE}/{{slave}}/status": {
                "parameters": [slave],
                "get": _operation("getStatus", "Get status", "Status"),
            },
            f"{BASE}/{{slave}}/enc_keys": {
                "parameters": [slave],
                "get": _operation("getKey", "Get key, simple form", "KeyContainer", parameters=query),
                "post": _operation(
                    "postKey", "Get key", "KeyContainer", requestBody=_body("KeyRequest", required=False)
                ),
            },
            f"{BASE}/{{master}}/dec_keys": {
                "parameters": [master],
                "get": _operation("getKeyWithId", "Get key with one key ID", "KeyContainer", parameters=[key_id]),
                "post": _operation(
                    "postKeyWithIds", "Get key with key IDs", "KeyContainer", requestBody=_body("KeyIDs", required=True)
                ),
            },
        },
        "components": {"schemas": _SCHEMAS, "securitySchemes": {"mtls": {"type": "mutualTLS"}}},
        "security": [{"mtls": []}],
    }


def text() -> str:
    """docs/openapi/etsi014.json."""
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
