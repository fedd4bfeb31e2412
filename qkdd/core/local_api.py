"""HTTP and JSON over a UNIX socket, made from a table of routes, with one role check for every request."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.errors import InternalError, QkddError
from qkdd.core.local_access import AccessPolicy, PeerUser, Role, peer_of
from qkdd.core.local_config import LocalSocket
from qkdd.core.local_errors import BadRequest, Denied, LocalApiError, NotFound
from qkdd.core.local_socket import activated, bind

MAX_BODY = 64 * 1024
_USER = web.RequestKey("user", PeerUser)
_ROLE = web.RequestKey("role", Role)
_log = log.get("control")
_encoder = msgspec.json.Encoder()


class ErrorView(msgspec.Struct, frozen=True, kw_only=True):
    """An error as the socket reports it."""

    code: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Query:
    """A whole number in the query string."""

    name: str
    low: int
    high: int
    default: int | None
    doc: str

    def read(self, text: str | None) -> int | None:
        if text is None:
            return self.default
        if not text.isdecimal() or len(text) > 18 or not self.low <= int(text) <= self.high:
            raise BadRequest(f"{self.name} must be a whole number of {self.low} to {self.high}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, decoded: path values, query values, body."""

    path: dict[str, str]
    query: dict[str, int | None]
    body: Any


Handler = Callable[[Any, Call], Awaitable[Any]]  # the first is what the socket serves


@dataclass(frozen=True, slots=True)
class Route:
    """`answer` is the type of the JSON body; `stream` means one JSON document a line until the client goes away."""

    method: str
    path: str
    role: Role
    summary: str
    answer: Any
    handler: Handler | None
    query: tuple[Query, ...] = ()
    body: type[msgspec.Struct] | None = None
    stream: bool = False

    @property
    def mutating(self) -> bool:
        """Calls that change something are written to the audit log."""
        return self.method != "GET"


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=_encoder.encode(body), status=status, content_type="application/json")


def _refusal(error: QkddError) -> web.Response:
    status = error.status if isinstance(error, LocalApiError) else 409
    return _json(ErrorView(code=error.code, message=error.message, remedy=error.remedy), status)


class LocalApi:
    """Serves `routes` for `target`. Every mutating call is in the audit log before it is carried out."""

    def __init__(
        self,
        config: LocalSocket,
        routes: tuple[Route, ...],
        target: Any,
        audit: AuditLog,
        clock: Clock,
        policy: AccessPolicy | None = None,
        *,
        may_be_activated: bool = True,
    ) -> None:
        """may_be_activated: a socket that the service manager passed is taken instead of `config.socket`."""
        self._may_be_activated = may_be_activated
        self._config = config
        self._routes, self._target = routes, target
        self._audit = audit
        self._clock = clock
        self._policy = policy or AccessPolicy(config.admin_group, config.view_group)
        self._runner: web.AppRunner | None = None
        self._made_path: Path | None = None

    async def start(self) -> None:
        """Listen. Raises SocketInUse or SocketFailed and leaves nothing behind."""
        listener = activated(os.environ) if self._may_be_activated else None
        if listener is None:
            listener = bind(self._config)
            self._made_path = Path(self._config.socket)
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        for route in self._routes:
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
                raise Denied(f"user {user.uid} has no role here")
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
                return await self._stream(request, call)
            await self._note(route, user, "allowed")
            if route.handler is None:
                raise NotFound(route.path)
            return _json(await route.handler(self._target, call))

        return handle

    async def _note(self, route: Route, user: PeerUser, verdict: str) -> None:
        if route.mutating:
            self._audit.write("control", route=route.path, verdict=verdict, uid=user.uid, gid=user.gid, pid=user.pid)
            await self._audit.settled()

    async def _stream(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Answer a route with `stream`; for subclasses that have one."""
        raise NotFound(request.path)


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
