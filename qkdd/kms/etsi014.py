"""The application interface: ETSI GS QKD 014 V1.1.1, complete. The caller's own ID comes only from its certificate."""

from __future__ import annotations

from aiohttp import web

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.kms import etsi014_codec as codec
from qkdd.kms.access import SaeAccess
from qkdd.kms.http import read_body, respond
from qkdd.kms.service import KeyService

BASE = "/api/v1/keys"
_QUERIES = 256  # different ones that are remembered
_UNKNOWN = "the SAE ID in the path is unknown to this KME or not paired with the caller"


class Etsi014:
    """Adds its routes to a listener's application."""

    def __init__(self, service: KeyService, access: SaeAccess, clock: Clock, meter: Meter) -> None:
        self._service, self._access, self._clock, self._meter = service, access, clock, meter
        self._queries: dict[str, codec.KeyRequest] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get(BASE + "/{slave}/enc_keys", self._enc_keys, allow_head=False)
        app.router.add_post(BASE + "/{slave}/enc_keys", self._enc_keys)
        app.router.add_get(BASE + "/{master}/dec_keys", self._dec_keys, allow_head=False)
        app.router.add_post(BASE + "/{master}/dec_keys", self._dec_keys)
        app.router.add_get(BASE + "/{slave}/status", self._status, allow_head=False)

    async def _status(self, request: web.Request) -> web.Response:
        sae, other = self._access.caller(request), request.match_info["slave"]
        with self._access.place(sae):
            peer = self._access.pair(sae, other, _UNKNOWN)
            only = self._service.site.origin(sae, (other,))
            stored = await self._service.stored_keys(peer, only) if only is not None else 0
        config = self._service.config
        target = config.kms.id if other in config.saes else peer
        return respond(codec.status(config.kms.id, target, sae, other, stored, config.limits))

    async def _enc_keys(self, request: web.Request) -> web.Response:
        master, slave, limits = self._access.caller(request), request.match_info["slave"], self._service.config.limits
        with self._access.place(master):
            if request.method == "GET":
                wanted = self._query(request)
            else:
                body = await read_body(request, limits.body_bytes, self._clock)
                wanted = codec.key_request(codec.parse_json(body, limits.json_depth), slave, limits)
            slaves = (slave, *wanted.additional)
            for other in slaves:
                self._access.pair(master, other, _UNKNOWN)
            keys = await self._service.draw(master, slaves, wanted.number, wanted.size // 8, wanted.key_class)
        self._meter.add("qkdd_kms_interface_keys_total", len(keys), interface="etsi014")
        return respond(codec.container(keys))

    def _query(self, request: web.Request) -> codec.KeyRequest:
        """With GET nothing depends on who asks, so what was read once is known."""
        text = request.rel_url.raw_query_string
        wanted = self._queries.get(text)
        if wanted is None:
            wanted = codec.key_request_query(list(request.query.items()), self._service.config.limits)
            if len(self._queries) < _QUERIES:
                self._queries[text] = wanted
        return wanted

    async def _dec_keys(self, request: web.Request) -> web.Response:
        slave, master, limits = self._access.caller(request), request.match_info["master"], self._service.config.limits
        with self._access.place(slave):
            if request.method == "GET":
                runs = codec.key_ids_query(list(request.query.items()))
            else:
                body = await read_body(request, limits.body_bytes, self._clock)
                runs = codec.key_ids_body(body, limits)
            keys = await self._service.fetch_runs(slave, master, runs)
        self._meter.add("qkdd_kms_interface_keys_total", len(keys), interface="etsi014")
        return respond(codec.container(keys))
