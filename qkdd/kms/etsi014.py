"""The application interface: ETSI GS QKD 014 V1.1.1, complete. The caller's own ID comes only from its certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.kms import etsi014_codec as codec
from qkdd.kms.errors import NotEntitled, RequestRefused, TooBusy
from qkdd.kms.http import caller, errors_as, read_body, respond
from qkdd.kms.service import KeyService

BASE = "/api/v1/keys"


class Etsi014:
    """One SAE listener. `listener` is its name in the configuration ("post-quantum", "classical")."""

    def __init__(self, service: KeyService, listener: str, in_flight: Counter[str], clock: Clock, meter: Meter) -> None:
        self._service, self._listener, self._clock, self._meter = service, listener, clock, meter
        self._in_flight = in_flight  # shared by all listeners: the limit is the SAE's, wherever it comes from
        self._saes = {
            identity: sae
            for sae, entry in service.config.saes.items()
            if not entry.listeners or listener in entry.listeners
            for identity in entry.identities or (sae,)
        }

    def application(self) -> web.Application:
        """The aiohttp application with the three methods."""
        app = web.Application(middlewares=[errors_as(codec.error_body, f"sae.{self._listener}", self._meter)])
        app.router.add_get(BASE + "/{slave}/status", self._status, allow_head=False)
        app.router.add_get(BASE + "/{slave}/enc_keys", self._enc_keys, allow_head=False)
        app.router.add_post(BASE + "/{slave}/enc_keys", self._enc_keys)
        app.router.add_get(BASE + "/{master}/dec_keys", self._dec_keys, allow_head=False)
        app.router.add_post(BASE + "/{master}/dec_keys", self._dec_keys)
        return app

    def _caller(self, request: web.Request) -> str:
        who = caller(request)
        if who.peer_role in ("node", "kms") or who.peer not in self._saes:
            self._meter.add("qkdd_kms_refused_total", reason="identity")
            raise NotEntitled(f"{who.peer!r} is no application of this KMS")
        return self._saes[who.peer]

    @contextmanager
    def _place(self, sae: str) -> Iterator[None]:
        limit = self._service.config.limits.in_flight_per_sae
        if self._in_flight[sae] >= limit:
            raise TooBusy("too many requests under way", in_flight_per_sae=limit)
        self._in_flight[sae] += 1
        try:
            yield
        finally:
            self._in_flight[sae] -= 1

    def _pair(self, master: str, slave: str) -> str:
        try:
            return self._service.pair(master, slave)
        except NotEntitled:
            # the same answer for an unknown SAE and for one that the caller may not reach
            raise RequestRefused(
                "the SAE ID in the path is unknown to this KME or not paired with the caller"
            ) from None

    async def _status(self, request: web.Request) -> web.Response:
        sae, other = self._caller(request), request.match_info["slave"]
        with self._place(sae):
            peer = self._pair(sae, other)
            stored = await self._service.stored_keys(peer)
        config = self._service.config
        target = config.kms.id if other in config.saes else peer
        return respond(codec.status(config.kms.id, target, sae, other, stored, config.limits))

    async def _enc_keys(self, request: web.Request) -> web.Response:
        master, slave, limits = self._caller(request), request.match_info["slave"], self._service.config.limits
        with self._place(master):
            if request.method == "GET":
                wanted = codec.key_request_query(list(request.query.items()), slave, limits)
            else:
                body = await read_body(request, limits.body_bytes, self._clock)
                wanted = codec.key_request(codec.parse_json(body, limits.json_depth), slave, limits)
            slaves = (slave, *wanted.additional)
            for other in slaves:
                self._pair(master, other)
            keys = await self._service.draw(master, slaves, wanted.number, wanted.size // 8)
        return respond(codec.container(keys))

    async def _dec_keys(self, request: web.Request) -> web.Response:
        slave, master, limits = self._caller(request), request.match_info["master"], self._service.config.limits
        with self._place(slave):
            if request.method == "GET":
                ids = codec.key_ids_query(list(request.query.items()))
            else:
                body = await read_body(request, limits.body_bytes, self._clock)
                ids = codec.key_ids(codec.parse_json(body, limits.json_depth), limits)
            keys = await self._service.fetch(slave, master, ids)
        return respond(codec.container(keys))
