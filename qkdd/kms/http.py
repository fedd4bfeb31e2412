"""What all listeners of the KMS share: who is calling, bounded bodies, errors as JSON, answers that no cache keeps."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError, StorageSilent
from qkdd.kms.errors import KmsError, NotEntitled, RequestRefused, StoreAway
from qkdd.peer.tls import Negotiated, negotiated

_LOG = log.get("kms")
_BODY_SECONDS = 15.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ErrorBody = Callable[[KmsError], bytes]
_callers: weakref.WeakKeyDictionary[asyncio.BaseTransport, Negotiated] = weakref.WeakKeyDictionary()


class InternalFailure(KmsError):
    code = "QKD-KMS-INTERNAL"
    meaning = "The KMS could not do what was asked for a reason of its own; nothing was given out."
    default_remedy = "Look at the KMS's log at this time: it names the cause."
    retry_after = 5


class BodyLate(RequestRefused):
    """A body did not come in time; an interface may have a status of its own for it."""


def caller(request: web.Request) -> Negotiated:
    """The other end's identity and role from its certificate; asked once per connection."""
    transport = request.transport
    if transport is None:
        raise NotEntitled("the connection is gone")
    known = _callers.get(transport)
    if known is None:
        known = _callers[transport] = negotiated(transport)
    return known


async def read_body(request: web.Request, limit: int, clock: Clock) -> bytes:
    """The whole body. Raises RequestRefused above `limit` bytes or when it does not come."""
    if request.content_length is not None and request.content_length > limit:
        raise RequestRefused("the body is too long", max_bytes=limit)
    if request.content.is_eof():  # it came with the head
        whole = request.content.read_nowait()
        if len(whole) > limit:
            raise RequestRefused("the body is too long", max_bytes=limit)
        return whole
    body = bytearray()
    try:
        async with clock.deadline(_BODY_SECONDS):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > limit:
                    raise RequestRefused("the body is too long", max_bytes=limit)
    except TimeoutError:
        raise BodyLate("the body did not come in time") from None
    return bytes(body)


def respond(
    body: bytes, status: int = 200, retry_after: int | None = None, kind: str = "application/json"
) -> web.Response:
    """JSON that no cache keeps."""
    headers = {"Cache-Control": "no-store", "Content-Type": kind}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return web.Response(body=body, status=status, headers=headers)


def errors_as(render: ErrorBody, plane: str, meter: Meter, kind: str = "application/json") -> Middleware:
    """aiohttp middleware: every failure becomes a body made by `render`, counted by status."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:  # wrong path or verb: outside the interface
            response = respond(render(RequestRefused(error.reason)), error.status, kind=kind)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except KmsError as error:
            response = respond(render(error), error.status, error.retry_after, kind)
        except StorageSilent as error:  # said in the log when it begins and when it is over, not with each request
            away = StoreAway("key data access error", cause=error.code)
            response = respond(render(away), away.status, away.retry_after, kind)
        except QkddError as error:
            _LOG.error("request failed", plane=plane, **log.error_fields(error))
            failure = InternalFailure("key data access error", cause=error.code)
            response = respond(render(failure), failure.status, failure.retry_after, kind)
        except Exception as error:
            _LOG.error("request failed", plane=plane, exc_info=error)
            failure = InternalFailure("key data access error")
            response = respond(render(failure), failure.status, failure.retry_after, kind)
        meter.add("qkdd_kms_requests_total", plane=plane, status=str(response.status))
        return response

    return middleware
