"""The door of a listener: a bounded number of connections, counted before TLS begins.

At the limit the connection that has been idle for longest makes room for a new one; when all are at work the new one is closed.
Handshakes under way have a share of the places and little time, so that clients that never finish one cannot fill them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from asyncio import sslproto

from aiohttp import web
from aiohttp.web_runner import BaseSite

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.kms.connections import IdleConnections

_LOG = log.get("kms")
_TLS_BUFFER = 32 * 1024
_HANDSHAKE = 15.0  # s, TLS
_HANDSHAKES = 4  # one in so many places may be taken by handshakes
_YOUNG = 2.0  # s that a handshake or an idle connection has before it has to make room
_ACCEPT_AGAIN = 0.5  # s after the system had no resources for another connection


def small_tls_buffers() -> None:
    """For a process that serves many connections with little on each: asyncio's TLS reads into 256 KiB of memory a connection,
    which it clears and so really takes. 32 KiB hold two TLS records."""
    sslproto.SSLProtocol.max_size = _TLS_BUFFER


class Gate:
    """Accepts on `sockets` until `close`; to aiohttp what an asyncio server is."""

    def __init__(
        self,
        name: str,
        sockets: list[socket.socket],
        server: web.Server,
        context: ssl.SSLContext | None,
        idle: IdleConnections,
        limit: int,
        clock: Clock,
        meter: Meter,
    ) -> None:
        """name: of the listener, for the metric. limit: connections, handshakes included."""
        self._name, self.sockets, self._server, self._context = name, sockets, server, context
        self._idle, self._limit, self._clock, self._meter = idle, limit, clock, meter
        self._handshakes: dict[asyncio.Task[None], float] = {}
        self._accepting = [asyncio.create_task(self._accept(one)) for one in sockets]

    def close(self) -> None:
        """No new connections; those that stand are the runner's to end."""
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        for one in self.sockets:
            one.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop, exhausted = asyncio.get_running_loop(), False
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                if not exhausted:  # said once, not twice a second
                    _LOG.error("no further connection can be accepted", listener=self._name, error=error.strerror)
                exhausted = True
                self._meter.add("qkdd_kms_connections_refused_total", listener=self._name, reason="system")
                await self._clock.sleep(_ACCEPT_AGAIN)
                continue
            exhausted = False
            if not self._room():
                connection.close()
                continue
            connection.setblocking(False)
            task = asyncio.create_task(self._shake_hands(connection))
            self._handshakes[task] = self._clock.monotonic()
            task.add_done_callback(self._shaken)

    def _room(self) -> bool:
        """Make room for one more; False when there is none to be made."""
        if len(self._handshakes) >= max(1, self._limit // _HANDSHAKES):
            oldest = next(iter(self._handshakes))
            if self._clock.monotonic() - self._handshakes[oldest] < _YOUNG:
                self._meter.add("qkdd_kms_connections_refused_total", listener=self._name, reason="handshakes")
                return False
            oldest.cancel()
            self._handshakes.pop(oldest)
            self._meter.add("qkdd_kms_connections_refused_total", listener=self._name, reason="unfinished")
        if len(self._handshakes) + len(self._server.connections) >= self._limit:
            if not self._idle.close_longest(self._server, _YOUNG):
                self._meter.add("qkdd_kms_connections_refused_total", listener=self._name, reason="limit")
                return False
            self._meter.add("qkdd_kms_connections_refused_total", listener=self._name, reason="made room")
        return True

    def _shaken(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a connection could not be taken", listener=self._name, exc_info=error)

    async def _shake_hands(self, connection: socket.socket) -> None:
        """From here on the connection belongs to asyncio's transport, which closes it."""
        timeout = _HANDSHAKE if self._context is not None else None
        # what a client does wrong in the handshake was told to the context's failure callback
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.get_running_loop().connect_accepted_socket(
                self._server, connection, ssl=self._context, ssl_handshake_timeout=timeout
            )


class GatedSite(BaseSite):
    """As aiohttp's TCPSite, behind a Gate. Raises OSError when the address cannot be had."""

    def __init__(
        self,
        runner: web.AppRunner,
        address: tuple[str, int],
        context: ssl.SSLContext | None,
        *,
        name: str,
        idle: IdleConnections,
        limit: int,
        clock: Clock,
        meter: Meter,
        backlog: int = 1024,
    ) -> None:
        super().__init__(runner, ssl_context=context, backlog=backlog)
        self._address, self._listener = address, name
        self._idle, self._limit, self._clock, self._meter = idle, limit, clock, meter

    @property
    def name(self) -> str:
        scheme = "https" if self._ssl_context else "http"
        return f"{scheme}://{self._address[0]}:{self._address[1]}"

    async def start(self) -> None:
        host, port = self._address
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        listening = socket.create_server(where[:2], family=family, backlog=self._backlog)
        listening.setblocking(False)
        await super().start()
        server = self._runner.server
        if not isinstance(server, web.Server):
            raise AssertionError("a runner that was set up has a server")
        self._server = Gate(  # type: ignore[assignment]  # aiohttp asks it for `sockets` and `close` only
            self._listener, [listening], server, self._ssl_context, self._idle, self._limit, self._clock, self._meter
        )
