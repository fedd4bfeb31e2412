"""The control socket: HTTP and JSON over a UNIX socket, one role check for every request."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from qkdd.control.access import AccessPolicy, PeerUser, Role, peer_of
from qkdd.control.config import ControlConfig
from qkdd.control.errors import BadRequest, ControlError, Denied, NotFound
from qkdd.control.events import Event
from qkdd.control.listener import activated, bind
from qkdd.control.routes import ROUTES, Call, Route
from qkdd.control.views import ErrorView, NodeControl
from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.errors import InternalError, QkddError

MAX_BODY = 64 * 1024
KEEPALIVE_S = 15.0  # an empty line on a quiet event stream: both ends notice a dead one
_USER = web.RequestKey("user", PeerUser)
_ROLE = web.RequestKey("role", Role)
_log = log.get("control")
_encoder = msgspec.json.Encoder()


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=_encoder.encode(body), status=status, content_type="application/json")


def _refusal(error: QkddError) -> web.Response:
    status = error.status if isinstance(error, ControlError) else 409
    return _json(ErrorView(code=error.code, message=error.message, remedy=error.remedy), status)


class ControlServer:
    """Serves `ROUTES` for one node. Every mutating call is in the audit log before it is carried out."""

    def __init__(
        self,
        config: ControlConfig,
        node: NodeControl,
        audit: AuditLog,
        clock: Clock,
        policy: AccessPolicy | None = None,
    ) -> None:
        self._config = config
        self._node = node
        self._audit = audit
        self._clock = clock
        self._policy = policy or AccessPolicy(config.admin_group, config.view_group)
        self._runner: web.AppRunner | None = None
        self._made_path: Path | None = None

    async def start(self) -> None:
        """Listen. Raises SocketInUse or SocketFailed and leaves nothing behind."""
        listener = activated(os.environ)
        if listener is None:
            listener = bind(self._config)
            self._made_path = Path(self._config.socket)
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        for route in ROUTES:
            app.router.add_route(route.method, route.path, self._handler(route))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Close all connections and remove the path when it was ours."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._made_path is not None:
            self._made_path.unlink(missing_ok=True)
            self._made_path = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Role before route: someone without a role does not learn which routes exist."""
        try:
            user = self._user(request)
            role = await asyncio.to_thread(self._policy.role_of, user)
            if role is Role.NONE:
                raise Denied(f"user {user.uid} has no role on this node")
            request[_USER], request[_ROLE] = user, role
            response: web.StreamResponse = await handler(request)
        except QkddError as error:
            return _refusal(error)
        except web.HTTPNotFound:
            return _refusal(NotFound(f"there is no route {request.path}"))
        except web.HTTPMethodNotAllowed as error:
            return _refusal_with(405, f"{request.path} takes {', '.join(sorted(error.allowed_methods))}")
        except web.HTTPRequestEntityTooLarge:
            return _refusal_with(413, f"the body has more than {MAX_BODY} bytes")
        except web.HTTPException as error:
            return _refusal_with(error.status, error.reason)
        except Exception as error:  # a defect: answer, log, go on serving
            _log.error("control request failed", route=request.path, **log.error_fields(error))
            return _json(
                ErrorView(code=InternalError.code, message=InternalError.meaning, remedy=InternalError.default_remedy),
                500,
            )
        return response

    @staticmethod
    def _user(request: web.Request) -> PeerUser:
        connection = request.transport.get_extra_info("socket") if request.transport is not None else None
        if connection is None:
            raise Denied("the connection closed before the user was known")
        # asyncio hands out a wrapper without getsockopt's buffer form guaranteed; the descriptor is the same
        with socket.socket(fileno=os.dup(connection.fileno())) as plain:
            return peer_of(plain)

    def _handler(self, route: Route) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            user = request[_USER]
            if request[_ROLE] < route.role:
                await self._note(route, user, "denied")
                raise Denied(
                    f"user {user.uid} may look but not change: {route.method} {route.path} needs the admin role"
                )
            call = await _decode(route, request)
            if route.stream:
                return await self._stream(request, call.query["since"])
            await self._note(route, user, "allowed")
            if route.handler is None:
                raise NotFound(route.path)
            return _json(await route.handler(self._node, call))

        return handle

    async def _note(self, route: Route, user: PeerUser, verdict: str) -> None:
        if route.mutating:
            self._audit.write("control", route=route.path, verdict=verdict, uid=user.uid, gid=user.gid, pid=user.pid)
            await self._audit.settled()

    async def _stream(self, request: web.Request, since: int | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with self._node.events.watch(since) as watcher:
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


def _refusal_with(status: int, message: str) -> web.Response:
    return _json(ErrorView(code=BadRequest.code, message=message, remedy=BadRequest.default_remedy), status)


async def _decode(route: Route, request: web.Request) -> Call:
    known = {q.name for q in route.query}
    for name in request.query:
        if name not in known:
            raise BadRequest(f"{route.path} has no query parameter {name!r}")
    query = {q.name: q.read(request.query.get(q.name)) for q in route.query}
    body: Any = None
    if route.body is not None:
        try:
            body = msgspec.json.decode(await request.read(), type=route.body)
        except msgspec.DecodeError as error:  # ValidationError is one
            raise BadRequest(f"the body: {error}") from None
    return Call(dict(request.match_info), query, body)
