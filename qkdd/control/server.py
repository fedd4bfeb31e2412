"""The control socket of a node: `qkdd.core.local_api` with the node's routes and its stream of events."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from qkdd.control import status_page
from qkdd.control.config import ControlConfig
from qkdd.control.events import Event
from qkdd.control.routes import ROUTES
from qkdd.control.views import NodeControl
from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.local_access import AccessPolicy
from qkdd.core.local_api import Call, LocalApi

KEEPALIVE_S = 15.0  # an empty line on a quiet event stream: both ends notice a dead one
_log = log.get("control")
_encoder = msgspec.json.Encoder()


class ControlServer(LocalApi):
    """Serves `ROUTES` for one node."""

    def __init__(
        self,
        config: ControlConfig,
        node: NodeControl,
        audit: AuditLog,
        clock: Clock,
        policy: AccessPolicy | None = None,
    ) -> None:
        super().__init__(config, ROUTES, node, audit, clock, policy)
        self._node = node

    async def _stream(self, request: web.Request, call: Call) -> web.StreamResponse:
        if request.path == "/":
            return status_page.page()
        if request.path == "/events":
            return await status_page.stream(request, self._node, self._clock)
        return await self._event_lines(request, call)

    async def _event_lines(self, request: web.Request, call: Call) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with self._node.events.watch(call.query["since"]) as watcher:
            alive = asyncio.create_task(self._keep_alive(response))
            try:
                async for event in watcher:
                    if watcher.lost:
                        lost, watcher.lost = watcher.lost, 0
                        gap = Event(seq=0, time=event.time, kind="events.lost", fields={"count": lost})
                        await response.write(_encoder.encode(gap) + b"\n")
                    await response.write(_encoder.encode(event) + b"\n")
            except ConnectionError:
                _log.debug("a watcher went away")
            finally:
                alive.cancel()
        return response

    async def _keep_alive(self, response: web.StreamResponse) -> None:
        while True:
            await self._clock.sleep(KEEPALIVE_S)
            try:
                await response.write(b"\n")
            except ConnectionError:
                return
