"""ETSI GS QKD 004 V2.1.1 over JSON and HTTP: OPEN_CONNECT, GET_KEY, CLOSE by POST, and a stream that is pushed by GET.

The push is one line of JSON for each chunk (application/x-ndjson, chunked), each as GET_KEY would have answered; it ends
with a line whose status is not 0 when one of the two ends has closed.
"""

from __future__ import annotations

import base64
from typing import TypeVar

import msgspec
from aiohttp import web

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.kms import etsi014_codec
from qkdd.kms.access import SaeAccess
from qkdd.kms.batch import Key
from qkdd.kms.errors import RequestRefused
from qkdd.kms.http import read_body, respond
from qkdd.kms.service import KeyService
from qkdd.kms.stream_messages import Chunk, Close, Closed, GetKey, Metadata, OpenConnect, Status, ksid
from qkdd.kms.streams import Streams

BASE = "/etsi004/v2"
_IDLE = 0.2  # seconds between looks for a pushed stream that has no key
_M = TypeVar("_M", OpenConnect, GetKey, Close)


class Etsi004:
    """Adds its routes to a listener's application."""

    def __init__(self, service: KeyService, streams: Streams, access: SaeAccess, clock: Clock, meter: Meter) -> None:
        self._service, self._streams, self._access, self._clock, self._meter = service, streams, access, clock, meter

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post(BASE + "/open_connect", self._open)
        app.router.add_post(BASE + "/get_key", self._get)
        app.router.add_post(BASE + "/close", self._close)
        app.router.add_get(BASE + "/push/{ksid}", self._push, allow_head=False)

    async def _read(self, request: web.Request, kind: type[_M]) -> _M:
        limits = self._service.config.limits
        body = await read_body(request, limits.body_bytes, self._clock)
        tree = etsi014_codec.parse_json(body, limits.json_depth)
        try:
            return msgspec.convert(tree, kind)
        except msgspec.ValidationError as error:
            raise RequestRefused(f"not a call of ETSI GS QKD 004: {error}") from None

    def _count(self, call: str, status: int) -> None:
        self._meter.add("qkdd_kms_stream_calls_total", call=call, status=str(int(status)))

    async def _open(self, request: web.Request) -> web.Response:
        sae = self._access.caller(request)
        with self._access.place(sae):
            opened = await self._streams.open(sae, await self._read(request, OpenConnect))
        self._count("OPEN_CONNECT", opened.status)
        return respond(msgspec.json.encode(opened))

    async def _get(self, request: web.Request) -> web.Response:
        sae = self._access.caller(request)
        with self._access.place(sae):
            wanted = await self._read(request, GetKey)
            if wanted.Metadata_size is not None and wanted.Metadata_size < METADATA_BYTES:
                chunk = Chunk(Status.METADATA_TOO_SMALL, wanted.index, None, Metadata(METADATA_BYTES))
            else:
                chunk = _chunk(*await self._streams.get(sae, wanted.Key_stream_ID, wanted.index))
        return respond(msgspec.json.encode(self._counted(chunk)))

    def _counted(self, chunk: Chunk) -> Chunk:
        self._count("GET_KEY", chunk.status)
        if chunk.status == Status.OK:
            self._meter.add("qkdd_kms_interface_keys_total", interface="etsi004")
        return chunk

    async def _close(self, request: web.Request) -> web.Response:
        sae = self._access.caller(request)
        with self._access.place(sae):
            status = await self._streams.close(sae, (await self._read(request, Close)).Key_stream_ID)
        self._count("CLOSE", status)
        return respond(msgspec.json.encode(Closed(status)))

    async def _push(self, request: web.Request) -> web.StreamResponse:
        sae = self._access.caller(request)
        try:
            name = ksid(request.match_info["ksid"])
        except ValueError:
            raise RequestRefused("the path names no Key_stream_ID") from None
        with self._access.place(sae):
            headers = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            try:
                await self._lines(response, sae, name)
            except QkddError:  # the answer has begun: its end without a last line says that something failed
                self._count("PUSH", Status.TIMEOUT)
            except ConnectionError:
                return response  # the application went; what it did not get it asks for by index
            await response.write_eof()
            return response

    async def _lines(self, response: web.StreamResponse, sae: str, name: str) -> None:
        while True:
            chunk = _chunk(*await self._streams.get(sae, name, None))
            if chunk.status == Status.OK:
                await response.write(msgspec.json.encode(self._counted(chunk)) + b"\n")
                await self._clock.sleep(await self._streams.pause(sae, name))
            elif await self._streams.over(sae, name):
                self._count("PUSH", chunk.status)
                await response.write(msgspec.json.encode(chunk) + b"\n")
                return
            else:
                await self._clock.sleep(_IDLE)


def _metadata(key_id: str) -> bytes:
    return msgspec.json.encode({"qkdd_key_ID": key_id})


METADATA_BYTES = len(_metadata("0" * 36))


def _chunk(status: Status, index: int | None, key: Key | None) -> Chunk:
    if key is None:
        return Chunk(status, index)
    text = base64.b64encode(key.key).decode("ascii")
    about = etsi014_codec.about(key)
    about.pop(etsi014_codec.MULTICAST_EXTENSION, None)  # two may fetch it: the two ends
    return Chunk(status, index, text, Metadata(METADATA_BYTES, _metadata(key.key_id).decode()), about)
