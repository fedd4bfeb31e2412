"""Closes connections on which no request comes: neither a silent client nor one that sends a byte a minute keeps a place."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from qkdd.core.clock import Clock

_LOOKS = 4  # per idle time


@dataclass(slots=True)
class _Use:
    """Of a connection: since when it is idle, and requests under way."""

    since: float
    requests: int = 0


class IdleConnections:
    """`watch` the servers, put `middleware` first, `run` for ever. `seconds`: longest time between two requests."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self._servers: list[web.Server] = []
        self._use: weakref.WeakKeyDictionary[asyncio.BaseTransport, _Use] = weakref.WeakKeyDictionary()

    def watch(self, server: web.Server) -> None:
        self._servers.append(server)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            return await handler(request)
        use = self._use.get(transport)
        if use is None:
            use = self._use[transport] = _Use(self._clock.monotonic())
        use.requests += 1
        try:
            return await handler(request)
        finally:
            use.requests -= 1
            use.since = self._clock.monotonic()

    def _look(self, transport: asyncio.BaseTransport, now: float) -> _Use:
        return self._use.setdefault(transport, _Use(now))

    def close_idle(self) -> int:
        """Close what has been idle for too long; returns how many. A new connection counts from the first look at it."""
        now, closed = self._clock.monotonic(), 0
        for server in self._servers:
            for connection in list(server.connections):
                transport = connection.transport
                if transport is None or (use := self._look(transport, now)).requests:
                    continue
                if now - use.since > self._seconds:
                    transport.abort()
                    closed += 1
        return closed

    def close_longest(self, server: web.Server, least: float) -> bool:
        """Close the connection of `server` that is idle for longest, at least `least` seconds; False: there is none."""
        now = self._clock.monotonic()
        waiting = [
            (use.since, number, transport)
            for number, connection in enumerate(server.connections)
            if (transport := connection.transport) is not None
            and not (use := self._look(transport, now)).requests
            and not transport.is_closing()
        ]
        if not waiting or now - (longest := min(waiting)[0]) < least:
            return False
        for since, _, transport in waiting:
            if since == longest:
                transport.abort()
                return True
        return False

    async def run(self) -> None:
        while True:
            await self._clock.sleep(self._seconds / _LOOKS)
            self.close_idle()
