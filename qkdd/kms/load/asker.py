"""Many connections that ask as fast as they are answered; as little of this end's time as can be: it must not be the limit."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"

Next = Callable[[], bytes | None]  # the next request, whole; None: no more


def request(path: str, body: bytes = b"") -> bytes:
    """An HTTP/1.1 request on a connection that stays open."""
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass(slots=True)
class Tally:
    """seconds: of each answer, in order of arrival; bodies are kept only when they are asked for."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    keep: bool = False


class Asker(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, following: Next, tally: Tally) -> None:
        self._following, self._tally = following, tally
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._need = -1  # bytes of the answer; unknown before its head is here
        self._body_at = 0
        self._sent = 0.0
        self.idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def start(self) -> None:
        """Send the first request."""
        self._ask()

    def _ask(self) -> None:
        data = self._following()
        if data is None or self._transport is None:
            if not self.idle.done():
                self.idle.set_result(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._need < 0:
            end = self._buffer.find(_END)
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            at = head.index(_LENGTH) + len(_LENGTH)
            self._body_at = end + len(_END)
            self._need = self._body_at + int(head[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) < self._need:
            return
        tally = self._tally
        tally.seconds.append(time.perf_counter() - self._sent)
        status = int(self._buffer[9:12])
        tally.statuses[status] = tally.statuses.get(status, 0) + 1
        if tally.keep:
            tally.bodies.append(bytes(self._buffer[self._body_at : self._need]))
        self._buffer.clear()
        self._need = -1
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.idle.done():
            self.idle.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def connect(address: tuple[str, int], context: ssl.SSLContext, following: Next, tally: Tally) -> Asker:
    """A connection that has not asked yet."""
    loop = asyncio.get_running_loop()
    _, asker = await loop.create_connection(
        lambda: Asker(following, tally), *address, ssl=context, server_hostname=address[0], ssl_handshake_timeout=120.0
    )
    return asker


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
