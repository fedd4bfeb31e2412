"""Errors of a local socket: of requests on it, and of making it."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError


class LocalApiError(QkddError):
    """A request on a local socket was refused. `status` is the HTTP status."""

    status = 400


class BadRequest(LocalApiError):
    code = "QKD-CTL-BAD-REQUEST"
    meaning = "A request on the control socket has a wrong form; nothing was changed."
    default_remedy = "docs/openapi/control.json describes every request."


class Denied(LocalApiError):
    code = "QKD-CTL-DENIED"
    meaning = "The user who runs the command has no role, or a lower one than the request needs."
    default_remedy = "Join the group that [control] admin_group or view_group names, then log in again."
    status = 403


class NotFound(LocalApiError):
    code = "QKD-CTL-NOT-FOUND"
    meaning = "The control socket has no such route, device or object."
    default_remedy = "`qkdctl devices` lists the devices; docs/openapi/control.json lists the routes."
    status = 404


class NotNow(LocalApiError):
    code = "QKD-CTL-NOT-NOW"
    kind = Kind.TRANSIENT
    meaning = "The request is right but the node's state does not allow it at the moment."
    default_remedy = "`qkdctl status` shows the state; try again when it has changed."
    status = 409


class SocketInUse(QkddError):
    code = "QKD-CTL-SOCKET-IN-USE"
    meaning = "Another daemon answers on the control socket, or its path is something else than a socket."
    default_remedy = "Stop the other daemon, or give this node a path of its own in [control] socket."


class SocketFailed(QkddError):
    code = "QKD-CTL-SOCKET"
    meaning = "The control socket cannot be made."
    default_remedy = (
        "Check the folder of [control] socket: it must exist, be writable, and the path stay below 108 bytes."
    )
