"""Errors of the control room; those of the socket itself stand in `qkdd.core.local_errors`."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError
from qkdd.core.local_errors import BadRequest, Denied, LocalApiError, NotFound, NotNow, SocketFailed, SocketInUse

__all__ = [
    "BadRequest",
    "Denied",
    "LocalApiError",
    "NoBench",
    "NoDaemon",
    "NotFound",
    "NotNow",
    "PageListenFailed",
    "SocketFailed",
    "SocketInUse",
]


class PageListenFailed(QkddError):
    code = "QKD-CTL-PAGE"
    meaning = "The status page could not take its address; the daemon was not started."
    default_remedy = "Choose a free loopback port for [control] page, or stop the process that has it."


class NoDaemon(QkddError):
    code = "QKD-CTL-NO-DAEMON"
    kind = Kind.TRANSIENT
    meaning = "No daemon answers on the control socket."
    default_remedy = "Start the daemon, or name its socket with --socket or QKDD_SOCKET."


class NoBench(QkddError):
    code = "QKD-CTL-NO-BENCH"
    meaning = "The virtual bench, on which drills are played, is not part of this installation."
    default_remedy = "Install the package with its bench (qkdd_hil), or play the drill from a copy of the source."
