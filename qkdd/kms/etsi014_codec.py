"""ETSI GS QKD 014 V1.1.1 requests and answers, sans-I/O. Table and clause numbers are the standard's; sizes are bits."""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgspec

from qkdd.kms.allocation import Origin
from qkdd.kms.classes import KeyClass
from qkdd.kms.config import Limits
from qkdd.kms.errors import KmsError, RequestRefused
from qkdd.kms.key_ids import Run, canonical, one_run, runs, stem
from qkdd.kms.service import Key, KeyBatch

MULTICAST_EXTENSION = "qkdd_shared_with"
CLASS_EXTENSION = "qkdd_class"
INSECURE_EXTENSION = "qkdd_insecure"
_MAX_ID = 256  # characters of an SAE ID


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """Table 10. `size` in bits."""

    number: int
    size: int
    additional: tuple[str, ...]
    key_class: KeyClass | None = None


def _refuse(message: str, **details: Any) -> RequestRefused:
    return RequestRefused(message, **details)


def parse_json(body: bytes, depth: int) -> dict[str, Any]:
    """An object; {} for an empty body. Refuses duplicate members, NaN, depth above `depth`, anything but UTF-8."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _refuse("the body has a member twice")
        return found

    def constant(name: str) -> Any:
        raise _refuse(f"{name} is no JSON")

    if not body.strip():
        return {}
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _refuse("the body is not UTF-8") from None
    level, inside, escaped = 0, False, False
    brackets = text.count("[") + text.count("{")
    for character in text if brackets > depth else "":  # with fewer it cannot be deeper
        if inside:
            inside = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            inside = True
        elif character in "[{":
            level += 1
            if level > depth:
                raise _refuse("the body is nested too deeply", max_depth=depth)
        elif character in "]}":
            level -= 1
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except ValueError:
        raise _refuse("the body is no JSON") from None
    if not isinstance(value, dict):
        raise _refuse("the body is no JSON object")
    return value


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse(f"{name} shall be an integer")
    return value


def _decimal(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise _refuse(f"{name} shall be a decimal number")
    return int(text)


def _objects(body: dict[str, Any], name: str) -> list[Any]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise _refuse(f"{name} shall be an array of objects")
    return value


def key_request(body: dict[str, Any], slave: str, limits: Limits) -> KeyRequest:
    """POST enc_keys (6.2, Table 10)."""
    number = _whole(body.get("number", 1), "number")
    size = _whole(body.get("size", limits.key_size), "size")
    additional = body.get("additional_slave_SAE_IDs", [])
    if not isinstance(additional, list) or not all(isinstance(entry, str) for entry in additional):
        raise _refuse("additional_slave_SAE_IDs shall be an array of strings")
    mandatory = _objects(body, "extension_mandatory")
    _objects(body, "extension_optional")  # may be ignored, but not malformed
    key_class = None
    for name, value in (item for entry in mandatory for item in entry.items()):
        if name != CLASS_EXTENSION or key_class is not None:
            raise _refuse("not all extension_mandatory parameters are supported")
        try:
            key_class = KeyClass(value)
        except ValueError:
            raise _refuse("not all extension_mandatory request options could be met") from None
    return replace(_limited(number, size, additional, slave, limits), key_class=key_class)


def key_request_query(query: list[tuple[str, str]], limits: Limits) -> KeyRequest:
    """GET enc_keys: `number` and `size` only, each at most once (6.2)."""
    values = dict(query)
    if len(values) != len(query) or set(values) - {"number", "size"}:
        raise _refuse("with GET only number and size may be given, once each; use POST for anything else")
    number = _decimal(values["number"], "number") if "number" in values else 1
    size = _decimal(values["size"], "size") if "size" in values else limits.key_size
    return _limited(number, size, [], "", limits)


def _limited(number: int, size: int, additional: list[str], slave: str, limits: Limits) -> KeyRequest:
    if number < 1:
        raise _refuse("number shall be positive")
    if number > limits.max_key_per_request:
        raise _refuse("number is above the limit", max_key_per_request=limits.max_key_per_request)
    if size < 1:
        raise _refuse("size shall be positive")
    if size % 8:
        raise _refuse("size shall be a multiple of 8")
    if size > limits.max_key_size:
        raise _refuse("size is above the limit", max_key_size=limits.max_key_size)
    if size < limits.min_key_size:
        raise _refuse("size is below the limit", min_key_size=limits.min_key_size)
    if len(additional) > limits.max_sae_id_count:
        raise _refuse("there are too many additional_slave_SAE_IDs", max_SAE_ID_count=limits.max_sae_id_count)
    if len(set(additional)) != len(additional) or slave in additional:
        raise _refuse("additional_slave_SAE_IDs shall name other SAEs, each once")
    if any(not 0 < len(entry) <= _MAX_ID for entry in additional):
        raise _refuse("an SAE ID is empty or too long")
    return KeyRequest(number, size, tuple(additional))


def key_ids(body: dict[str, Any], limits: Limits) -> list[Run]:
    """POST dec_keys (6.4, Table 12)."""
    entries = body.get("key_IDs")
    if not isinstance(entries, list) or not entries:
        raise _refuse("key_IDs shall be an array of objects that is not empty")
    if len(entries) > limits.max_key_per_request:
        raise _refuse("there are too many key_IDs", max_key_per_request=limits.max_key_per_request)
    if not all(isinstance(entry, dict) and isinstance(entry.get("key_ID"), str) for entry in entries):
        raise _refuse("each entry of key_IDs shall be an object with a string key_ID")
    return _ids([entry["key_ID"] for entry in entries])


def key_ids_query(query: list[tuple[str, str]]) -> list[Run]:
    """GET dec_keys: exactly one key_ID and nothing else (6.4)."""
    if [name for name, _ in query] != ["key_ID"]:
        raise _refuse("with GET exactly one key_ID shall be given; use POST for anything else")
    return _ids([query[0][1]])


class _Named(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key_ID: str


class _KeyIds(msgspec.Struct, forbid_unknown_fields=True):
    key_IDs: list[_Named]


def key_ids_body(body: bytes, limits: Limits) -> list[Run]:
    """POST dec_keys from its body. One as clients write it is read by the faster reader, which does not see members that are
    named twice: it counts only if each name stands there as often as there are values. All others are read with care."""
    try:
        plain = msgspec.json.decode(body, type=_KeyIds)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return key_ids(parse_json(body, limits.json_depth), limits)
    named = [entry.key_ID for entry in plain.key_IDs]
    if (
        not 0 < len(named) <= limits.max_key_per_request
        or body.count(b'"key_IDs"') != 1
        or body.count(b'"key_ID"') != len(named)
        or limits.json_depth < 3
    ):
        return key_ids(parse_json(body, limits.json_depth), limits)
    return _ids(named)


def _ids(texts: list[str]) -> list[Run]:
    run = one_run(texts)
    if run is not None:
        return [run]
    try:
        ids = [canonical(text) for text in texts]
    except ValueError:
        raise _refuse("a key_ID is no UUID") from None
    if len(set(ids)) != len(ids):
        raise _refuse("a key_ID is named twice")
    return runs(ids)


def about(key: Key) -> dict[str, Any]:
    """What is said of a key: class, where its bytes come from, what is claimed for them, and marks."""
    return _about(key.key_class, key.origin, len(key.slaves), key.synthetic)


def _about(key_class: KeyClass, origin: Origin, slaves: int, synthetic: bool) -> dict[str, Any]:
    extension: dict[str, Any] = {CLASS_EXTENSION: key_class}
    if origin.links:
        extension["qkdd_links"] = origin.links
    if origin.sources:
        extension["qkdd_sources"] = origin.sources
    if origin.epsilon is not None:
        extension["qkdd_epsilon"] = origin.epsilon
    if slaves > 1:
        extension[MULTICAST_EXTENSION] = slaves
    if synthetic:
        extension[INSECURE_EXTENSION] = "synthetic key of qkdd-kms dev-pair"
    return extension


@lru_cache(maxsize=256)
def _extension(key_class: KeyClass, origin: Origin, slaves: int, synthetic: bool) -> str:
    """The same text is said of many keys."""
    return msgspec.json.encode(_about(key_class, origin, slaves, synthetic)).decode()


def _base64(key: bytes) -> str:
    return binascii.b2a_base64(key, newline=False).decode("ascii")


def container(keys: Sequence[Key]) -> bytes:
    """Key container (Table 11); multicast keys are marked, since the standard does not tell a slave."""
    if isinstance(keys, KeyBatch):  # one draw: the same is said of all its keys; neither IDs nor base64 need escapes
        draw, text = keys.allocation, keys.text
        head, number = stem(draw.id, keys.first, len(keys))
        begin = f'{{"key_ID":"{head}'
        end = f'","key_extension":{_extension(draw.key_class, keys.origin, len(draw.slaves), keys.synthetic)}}}'
        size, base64 = draw.key_bytes, binascii.b2a_base64
        entries = [
            f'{begin}{n:012x}","key":"{base64(text[at : at + size], newline=False).decode()}{end}'
            for n, at in enumerate(range(0, len(text), size), number)
        ]
    else:
        entries = [
            f'{{"key_ID":"{key.key_id}","key":"{_base64(key.key)}","key_extension":'
            f"{_extension(key.key_class, key.origin, len(key.slaves), key.synthetic)}}}"
            for key in keys
        ]
    return f'{{"keys":[{",".join(entries)}]}}'.encode("ascii")


def status(own: str, peer: str, master: str, slave: str, stored: int, limits: Limits) -> bytes:
    """Status (Table 9)."""
    return json.dumps(
        {
            "source_KME_ID": own,
            "target_KME_ID": peer,
            "master_SAE_ID": master,
            "slave_SAE_ID": slave,
            "key_size": limits.key_size,
            "stored_key_count": stored,
            "max_key_count": limits.max_key_count,
            "max_key_per_request": limits.max_key_per_request,
            "max_key_size": limits.max_key_size,
            "min_key_size": limits.min_key_size,
            "max_SAE_ID_count": limits.max_sae_id_count,
        }
    ).encode()


def error_body(error: KmsError) -> bytes:
    """Error (Table 13), also with 401: a real client parses JSON on every answer that is not 200."""
    body: dict[str, Any] = {"message": error.message}
    if error.status != 401:
        body["details"] = [{"qkdd_code": error.code}, *({name: value} for name, value in error.details.items())]
    else:
        body["message"] = "not authorised"  # tells a caller who is not entitled nothing more
    return json.dumps(body).encode()
