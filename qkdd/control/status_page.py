"""The status page: one document without external resources, live by server-sent events, read-only.

It is served on the control socket (role *view*) and, when `[control] page` says so, on a loopback address. There the Host
header must name that address: a page of another site that had its name resolved to 127.0.0.1 (DNS rebinding) is refused.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

import msgspec
from aiohttp import web

from qkdd.control.errors import PageListenFailed
from qkdd.control.views import NodeControl
from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.endpoint import Endpoint

PERIOD_S = 1.0
MAX_READERS = 16  # on the loopback address: each costs a picture of the node a second
_FOLDER = Path(__file__).with_name("page")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = log.get("control")
_encoder = msgspec.json.Encoder()


@cache
def document() -> tuple[bytes, dict[str, str]]:
    """The page and its headers. Script and style are inline, and the policy admits these two texts alone by their hashes."""
    style, script = (_FOLDER / "page.css").read_text("utf-8"), (_FOLDER / "page.js").read_text("utf-8")
    html = (_FOLDER / "page.html").read_text("utf-8")
    body = html.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script).encode()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return body, {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy, **_HEADERS}


_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page() -> web.Response:
    """`GET /`."""
    body, headers = document()
    return web.Response(body=body, headers=headers)


async def stream(request: web.Request, node: NodeControl, clock: Clock) -> web.StreamResponse:
    """`GET /events`: event `state` with an `OverviewView` at once and every second. Ends when the reader goes away or the
    node stops."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **_HEADERS})
    await response.prepare(request)
    with node.events.watch() as watcher:
        try:
            await response.write(b"retry: 2000\n\n")
            while not watcher.closed:
                await response.write(b"event: state\ndata: " + _encoder.encode(node.overview()) + b"\n\n")
                await clock.sleep(PERIOD_S)
        except ConnectionError:
            _log.debug("a reader of the status page went away")
    return response


class PageServer:
    """The page on a loopback address: any user of this machine may read it, nobody can change anything."""

    def __init__(self, listen: str, node: NodeControl, clock: Clock) -> None:
        self._endpoint = Endpoint.parse(listen)
        self._node, self._clock = node, clock
        self._hosts: set[str] = set()
        self._runner: web.AppRunner | None = None
        self._readers = 0

    async def start(self) -> Endpoint:
        """Listen; returns the address that was really taken. Raises PageListenFailed and leaves nothing behind."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page)
        app.router.add_get("/events", self._events)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._endpoint.host, self._endpoint.port).start()
        except OSError as error:
            await runner.cleanup()
            raise PageListenFailed(f"the status page cannot listen on {self._endpoint}: {error.strerror}") from None
        self._runner = runner
        host, port = runner.addresses[0][:2]
        taken = Endpoint(str(host), int(port))
        self._hosts = {str(taken), f"localhost:{port}", str(Endpoint(self._endpoint.host, int(port)))}
        return taken

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Host", "").lower() not in self._hosts:
            raise web.HTTPMisdirectedRequest(text="The Host header is not this node's.\n", headers=_HEADERS)
        return await handler(request)

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        return page()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._readers >= MAX_READERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_READERS} readers are connected.\n", headers=_HEADERS)
        self._readers += 1
        try:
            return await stream(request, self._node, self._clock)
        finally:
            self._readers -= 1
