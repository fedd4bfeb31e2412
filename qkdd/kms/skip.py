"""SKIP (draft-cisco-skip-02), the interface of routers: GET /capabilities, /key, /key/{keyId}, /entropy; keys in hex.

A system ID is an SAE ID: `localSystemID` is the caller's own, and the two ends tell each other theirs. TLS is the listener's,
with certificates; the draft's pre-shared keys are not offered.
"""

from __future__ import annotations

import json
import re
import secrets
import uuid
from typing import Any

from aiohttp import web

from qkdd.core.counters import Meter
from qkdd.kms.access import SaeAccess
from qkdd.kms.classes import KeyClass
from qkdd.kms.errors import KmsError, RequestRefused
from qkdd.kms.etsi014_codec import CLASS_EXTENSION, INSECURE_EXTENSION
from qkdd.kms.http import respond
from qkdd.kms.service import Key, KeyService

ALGORITHM = "QKD"
_KEY_ID = re.compile(r"[0-9a-fA-F]{32}")
_DEFAULT_ENTROPY = 256
_MAX_ENTROPY = 4096
_UNKNOWN = "remoteSystemID is unknown to this key provider or not paired with the caller"


class SkipKeyNotFound(KmsError):
    code = "QKD-KMS-SKIP-NOT-FOUND"
    meaning = (
        "A key was asked for through SKIP that is not here: unknown, not the caller's, delivered already, or expired."
    )
    default_remedy = "Ask for a new key; a key is given once to each end."
    status = 404


class Skip:
    """Adds its routes to a listener's application."""

    def __init__(self, service: KeyService, access: SaeAccess, meter: Meter) -> None:
        self._service, self._access, self._meter = service, access, meter

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/capabilities", self._capabilities, allow_head=False)
        app.router.add_get("/key", self._new_key, allow_head=False)
        app.router.add_get("/key/{key_id}", self._known_key, allow_head=False)
        app.router.add_get("/entropy", self._entropy, allow_head=False)

    async def _capabilities(self, request: web.Request) -> web.Response:
        sae = self._access.caller(request)
        _query(request, ())
        body = {
            "entropy": True,
            "key": True,
            "algorithm": ALGORITHM,
            "localSystemID": sae,
            "remoteSystemID": self._service.partners(sae),
        }
        return respond(json.dumps(body).encode())

    async def _new_key(self, request: web.Request) -> web.Response:
        master, limits = self._access.caller(request), self._service.config.limits
        query = _query(request, ("remoteSystemID", "size"))
        size = _whole(query.get("size", str(limits.key_size)), "size")
        if size % 8 or not limits.min_key_size <= size <= limits.max_key_size:
            raise RequestRefused(
                f"size shall be a multiple of 8 from {limits.min_key_size} to {limits.max_key_size}", size=size
            )
        slave = _remote(query)
        with self._access.place(master):
            self._access.pair(master, slave, _UNKNOWN)
            keys = await self._service.draw(master, (slave,), 1, size // 8)
        return self._answer(keys[0])

    async def _known_key(self, request: web.Request) -> web.Response:
        slave = self._access.caller(request)
        query = _query(request, ("remoteSystemID", "size"))  # some clients repeat the size; the key has its own
        master, said = _remote(query), request.match_info["key_id"]
        if not _KEY_ID.fullmatch(said):
            raise RequestRefused("keyId shall be 32 hexadecimal digits")
        with self._access.place(slave):
            try:
                keys = await self._service.fetch(slave, master, [str(uuid.UUID(hex=said))])
            except KmsError as error:
                if error.status in (400, 401):  # the same answer for a key that is not there and for one of others
                    raise SkipKeyNotFound("no key with this keyId for remoteSystemID") from None
                raise
        return self._answer(keys[0])

    async def _entropy(self, request: web.Request) -> web.Response:
        """Randomness of this machine's generator (the operating system's), not of the quantum link."""
        self._access.caller(request)
        bits = _whole(_query(request, ("minentropy",)).get("minentropy", str(_DEFAULT_ENTROPY)), "minentropy")
        if not 1 <= bits <= _MAX_ENTROPY:
            raise RequestRefused(f"minentropy shall lie between 1 and {_MAX_ENTROPY}", minentropy=bits)
        return respond(json.dumps({"randomStr": secrets.token_hex(-(-bits // 8)), "minentropy": bits}).encode())

    def _answer(self, key: Key) -> web.Response:
        self._meter.add("qkdd_kms_interface_keys_total", interface="skip")
        body: dict[str, Any] = {"keyId": uuid.UUID(key.key_id).hex, "key": key.key.hex()}
        if key.key_class is not KeyClass.ITS:
            body[CLASS_EXTENSION] = key.key_class
        if key.synthetic:
            body[INSECURE_EXTENSION] = "synthetic key of qkdd-kms dev-pair"
        return respond(json.dumps(body).encode())


def _query(request: web.Request, known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            continue  # a later draft's parameter
        if name in found:
            raise RequestRefused(f"{name} is named twice")
        found[name] = value
    return found


def _remote(query: dict[str, str]) -> str:
    remote = query.get("remoteSystemID", "")
    if not 1 <= len(remote) <= 256:
        raise RequestRefused("remoteSystemID is missing")
    return remote


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise RequestRefused(f"{name} shall be a decimal number")
    return int(text)
