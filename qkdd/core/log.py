"""Structured logs: JSON lines, or journald-native fields when stderr is the journal.

One event is one line: `log.info("block accepted", link="a", block=7)`. Errors carry their code. Key material cannot be
logged: a `Secret` renders as its length, and bytes are refused by the renderer.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import uuid
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog

from qkdd.core.errors import QkddError

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_JOURNAL_SOCKET = "/run/systemd/journal/socket"
_RECENT: deque[str] = deque(maxlen=2000)
_listeners: list[Callable[[Mapping[str, Any]], None]] = []
_NAMESPACE = uuid.UUID("5f0b8a1e-6c1d-5b57-9d55-7a1f6d2c4e90")  # of qkdd; never changes
_NO_FIELD = re.compile(r"[^A-Z0-9_]")
_NAME_LIMIT = 56  # journald takes names of 64 characters
_DATAGRAM_LIMIT = 180_000  # longer datagrams would need a memfd


def recent() -> list[str]:
    """The last lines that this process logged, as JSON, oldest first."""
    return list(_RECENT)


def get(room: str) -> structlog.stdlib.BoundLogger:
    """Logger of a room, for example `log.get("link")`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(room=room)
    return logger


def error_fields(error: BaseException) -> dict[str, Any]:
    """Fields for a log line about `error`: stable code, message, remedy."""
    if isinstance(error, QkddError):
        return {"code": error.code, "error": error.message, "remedy": error.remedy, **error.details}
    return {"code": "QKD-CORE-INTERNAL", "error": f"{type(error).__name__}: {error}"}


def _refuse_bytes(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            event[key] = f"<{len(value)} bytes>"
    return event


def listen(listener: Callable[[Mapping[str, Any]], None]) -> None:
    """Call `listener` with every line from now on, in whatever thread logs; it must return at once and must not log."""
    _listeners.append(listener)


def unlisten(listener: Callable[[Mapping[str, Any]], None]) -> None:
    _listeners.remove(listener)


def tell(record: Mapping[str, Any]) -> None:
    """Give the listeners something that is no log line: a line of the audit log."""
    for listener in tuple(_listeners):
        listener(record)


def _remember(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    _RECENT.append(json.dumps(dict(event), default=str, ensure_ascii=False))
    tell(event)
    return event


class _Journal:
    """Renderer that sends journald-native datagrams and prints nothing itself."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(_JOURNAL_SOCKET)

    def close(self) -> None:
        self._socket.close()

    def __call__(self, _logger: object, _name: str, event: MutableMapping[str, Any]) -> str:
        self._socket.send(journal_datagram(event))
        raise structlog.DropEvent


_journals: list[_Journal] = []


def journal_datagram(event: MutableMapping[str, Any]) -> bytes:
    """One entry in journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): MESSAGE, PRIORITY, MESSAGE_ID, QKD_*.

    A value that is longer than its share of the largest datagram is cut off.
    """
    kind = str(event.pop("event", ""))
    fields = {
        "MESSAGE": kind,
        "MESSAGE_ID": message_id(kind, str(event.get("room", ""))),
        "PRIORITY": str(_PRIORITY.get(event.pop("level", "info"), 6)),
        "SYSLOG_IDENTIFIER": "qkdd",
    }
    for key, value in event.items():
        fields["QKD_" + _NO_FIELD.sub("_", key.upper())[:_NAME_LIMIT]] = str(value)
    share = _DATAGRAM_LIMIT // len(fields) - _NAME_LIMIT - 20
    payload = bytearray()
    for key, text in fields.items():
        data = text.encode()[:share]
        if b"\n" in data:
            payload += key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        else:
            payload += key.encode() + b"=" + data + b"\n"
    return bytes(payload)


def message_id(kind: str, room: str) -> str:
    """MESSAGE_ID of a kind of log line, the same in every version: `journalctl MESSAGE_ID=…` finds all of them."""
    return uuid.uuid5(_NAMESPACE, f"{room}/{kind}").hex


def _stderr_is_journal() -> bool:
    """systemd names the journal's stream by device:inode in JOURNAL_STREAM."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{status.st_dev}:{status.st_ino}" and os.path.exists(_JOURNAL_SOCKET)


def configure(level: str = "info", *, human: bool = False) -> None:
    """Set up logging for a process; called once by each entry point."""
    while _journals:  # of an earlier call: the level was changed, or the configuration read again
        _journals.pop().close()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _refuse_bytes,
        _remember,
    ]
    if _stderr_is_journal():
        _journals.append(_Journal())
        processors.append(_journals[-1])
    elif human:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        processors.append(structlog.processors.JSONRenderer(default=str))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
