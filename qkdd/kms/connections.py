"""Closes connections on which no request comes: neither a silent client nor one that sends a byte a minute keeps a place."""

from __future__ import annotations

import asyncio
import weakref

from aiohttp import web
from aiohttp.typedefs import Handler

from qkdd.core.clock import Clock

_LOOKS = 4  # per idle time


class IdleConnections:
    """`watch` the servers, put `middleware` first, `run` for ever. `seconds`: longest time between two requests."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self._servers: list[web.Server] = []
        self._busy: weakref.WeakKeyDictionary[asyncio.BaseTransport, int] = weakref.WeakKeyDictionary()
        self._since: weakref.WeakKeyDictionary[asyncio.BaseTransport, float] = weakref.WeakKeyDictionary()

    def watch(self, server: web.Server) -> None:
        self._servers.append(server)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            return await handler(request)
        self._busy[transport] = self._busy.get(transport, 0) + 1
        try:
            return await handler(request)
        finally:
            self._busy[transport] -= 1
            self._since[transport] = self._clock.monotonic()

    def close_idle(self) -> int:
        """Close what has been idle for too long; returns how many. A new connection counts from the first look at it."""
        now, closed = self._clock.monotonic(), 0
        for server in self._servers:
            for connection in list(server.connections):
                transport = connection.transport
                if transport is None or self._busy.get(transport, 0):
                    continue
                if now - self._since.setdefault(transport, now) > self._seconds:
                    transport.abort()
                    closed += 1
        return closed

    def close_longest(self, server: web.Server, least: float) -> bool:
        """Close the connection of `server` that is idle for longest, at least `least` seconds; False: there is none."""
        now = self._clock.monotonic()
        waiting = [
            (self._since.setdefault(transport, now), number, transport)
            for number, connection in enumerate(server.connections)
            if (transport := connection.transport) is not None
            and not self._busy.get(transport, 0)
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
