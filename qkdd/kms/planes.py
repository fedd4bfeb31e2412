"""The two inner listeners: the node plane (ETSI GS QKD 020 shape) and the KMS plane (the other sites)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.secret import Secret
from qkdd.kms.errors import KmsError, NotEntitled, RequestRefused
from qkdd.kms.grouping import AllNoted, Announcements
from qkdd.kms.http import caller, errors_as, read_body, respond
from qkdd.kms.key_ids import canonical
from qkdd.kms.plane import Announce, Borrow, Exchange, Holds, Rest, Revoke, Void
from qkdd.kms.service import KeyService

EXTENSION = "E0_qkdd_chunk"  # see qkdd.keys.handover
_NODE_BODY = 8 << 20
_KMS_BODY = 8 << 20
Answer = tuple[type[Any], Callable[[str, Any], Awaitable[msgspec.Struct]]]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class ChunkFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node says of a chunk."""

    link: _Name
    index: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
    class_: str = msgspec.field(name="class")
    auth: str | None = None
    proof: str | None = None
    epsilon: float | None = None


class ExtKey(msgspec.Struct, frozen=True):
    key_id: str
    value: str
    extension: dict[str, msgspec.Raw] = {}


class ExtKeys(msgspec.Struct, frozen=True):
    """Body of POST ext_keys (GS QKD 020)."""

    keys: Annotated[list[ExtKey], msgspec.Meta(min_length=1, max_length=1024)]
    initiator_sae_id: _Name
    target_sae_ids: Annotated[list[_Name], msgspec.Meta(min_length=1, max_length=64)]
    ack_callback_url: str | None = None
    extension_mandatory: dict[str, Any] = {}
    extension_optional: dict[str, Any] = {}


class UnknownExtension(KmsError):
    code = "QKD-KMS-EXTENSION"
    meaning = "A hand-over demands an extension that this KMS does not know; nothing was stored."
    default_remedy = "Compare the versions of the node and of the KMS."


def problem(error: KmsError) -> bytes:
    """RFC 9457 problem details."""
    details: dict[str, Any] = {"code": error.code, **error.details}
    if isinstance(error, UnknownExtension):
        details = {"code": error.code, "unsupported_mandatory_extension": [error.details["extension"]]}
    return json.dumps(
        {
            "type": "about:blank",
            "status": error.status,
            "title": error.meaning,
            "detail": error.message,
            "details": details,
        }
    ).encode()


class NodePlane:
    """`POST /kmapi/v1/ext_keys` in synchronous mode, `GET /kmapi/versions`, `GET /healthz`."""

    def __init__(self, service: KeyService, clock: Clock, meter: Meter) -> None:
        self._service, self._clock, self._meter = service, clock, meter
        self._nodes = frozenset(service.config.node_plane.nodes)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[errors_as(problem, "node", self._meter, "application/problem+json")])
        app.router.add_get("/healthz", self._health, allow_head=False)
        app.router.add_get("/kmapi/versions", self._versions, allow_head=False)
        app.router.add_post("/kmapi/v1/ext_keys", self._ext_keys)
        return app

    def _node(self, request: web.Request) -> str:
        name = caller(request).peer
        if name not in self._nodes:
            raise NotEntitled(f"{name!r} is no node of this KMS")
        return name

    async def _health(self, request: web.Request) -> web.Response:
        self._node(request)
        pools = {peer: await self._service.pool(peer) for peer in self._service.config.peers}  # the store answers
        return respond(json.dumps({"status": "ok", "kms": self._service.own, "pool_bytes": pools}).encode())

    async def _versions(self, request: web.Request) -> web.Response:
        self._node(request)
        return respond(b'{"versions": ["v1"], "capabilities": ["synchronous_mode"]}')

    async def _ext_keys(self, request: web.Request) -> web.Response:
        node = self._node(request)
        try:
            push = msgspec.json.decode(await read_body(request, _NODE_BODY, self._clock), type=ExtKeys)
        except msgspec.DecodeError as error:
            raise RequestRefused(f"the body is no ext_keys request: {error}") from None
        for name in push.extension_mandatory:
            if name != EXTENSION:
                raise UnknownExtension(f"mandatory extension {name[:64]} is unknown", extension=name[:64])
        if push.ack_callback_url is not None:
            raise RequestRefused("this KMS acknowledges synchronously: leave ack_callback_url out")
        if push.initiator_sae_id != node:
            raise NotEntitled("initiator_sae_id is not the caller's own id")
        # everything is checked before anything is stored: 400 and 401 prove that nothing was
        parsed = [(key.key_id, *_chunk(key)) for key in push.keys]
        for _, _, facts, _ in parsed:
            self._service.peer_of_link(facts.link)
        answer: list[dict[str, Any]] = []
        stored = 0
        for said, chunk_id, facts, material in parsed:
            about: dict[str, object] = {
                "class": facts.class_,
                "auth": facts.auth,
                "proof": facts.proof,
                "epsilon": facts.epsilon,
            }
            status, message = "relayed", None
            try:
                await self._service.ingest(node, chunk_id, facts.link, facts.index, material, about)
                stored += 1
            except KmsError as error:
                if len(parsed) == 1:
                    raise
                status, message = "failed", f"{error.code} {error.message}"
            finally:
                material.wipe()
            container = {
                "key_id_container": [{"key_id": said}],
                "ack_status": status,
                "initiator_sae_id": node,
                "target_sae_ids": push.target_sae_ids,
            }
            answer.append(container if message is None else {**container, "message": message})
        return respond(json.dumps(answer).encode())


def _chunk(key: ExtKey) -> tuple[str, ChunkFacts, Secret]:
    try:
        chunk_id = canonical(key.key_id)
        facts = msgspec.json.decode(key.extension[EXTENSION], type=ChunkFacts)
        material = Secret(base64.b64decode(key.value, validate=True))
    except KeyError:
        raise RequestRefused(f"a key has no extension {EXTENSION}") from None
    except msgspec.DecodeError as error:
        raise RequestRefused(f"extension {EXTENSION}: {error}") from None
    except (ValueError, binascii.Error):
        raise RequestRefused("a key_id is no UUID or a value is no base64") from None
    if not len(material):
        raise RequestRefused("a value is empty")
    return chunk_id, facts, material


class KmsPlane:
    """`POST /kms/v1/{chunks,allocations,announcements,ownership,void,exchange,revoke,…}` for the KMSs in `peers`."""

    def __init__(self, service: KeyService, more: dict[str, Answer], clock: Clock, meter: Meter) -> None:
        """more: further calls by name, each with its message's type."""
        self._service, self._more, self._clock, self._meter = service, more, clock, meter

    def application(self) -> web.Application:
        app = web.Application(middlewares=[errors_as(problem, "kms", self._meter, "application/problem+json")])
        app.router.add_post("/kms/v1/chunks", self._route(Holds, self._service.on_holds))
        app.router.add_post("/kms/v1/allocations", self._route(Announce, self._service.on_announce))
        app.router.add_post("/kms/v1/announcements", self._route(Announcements, self._announcements))
        app.router.add_post("/kms/v1/ownership", self._route(Borrow, self._service.on_borrow))
        app.router.add_post("/kms/v1/void", self._route(Void, self._service.on_void))
        app.router.add_post("/kms/v1/rest", self._route(Rest, self._service.on_rest))
        app.router.add_post("/kms/v1/exchange", self._route(Exchange, self._service.on_exchange))
        app.router.add_post("/kms/v1/revoke", self._route(Revoke, self._service.on_revoke))
        for name, (kind, serve) in self._more.items():
            app.router.add_post(f"/kms/v1/{name}", self._route(kind, serve))
        return app

    async def _announcements(self, peer: str, message: Announcements) -> AllNoted:
        """All are written down together, each with its own answer."""
        on_announce = self._service.on_announce
        return AllNoted(list(await asyncio.gather(*(on_announce(peer, one) for one in message.announcements))))

    def _route(
        self, kind: type[Any], serve: Callable[[str, Any], Awaitable[msgspec.Struct]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            name = caller(request).peer
            if name not in self._service.config.peers:
                raise NotEntitled(f"{name!r} is no KMS of this network")
            try:
                message = msgspec.json.decode(await read_body(request, _KMS_BODY, self._clock), type=kind)
            except msgspec.DecodeError as error:
                raise RequestRefused(str(error)) from None
            return respond(msgspec.json.encode(await serve(name, message)))

        return handler
