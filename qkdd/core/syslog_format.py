"""One log line as a syslog message (RFC 5424) in the frame of syslog over TLS (RFC 5425, 4.3: octet count, space, message)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

LEVELS = {"debug": 7, "info": 6, "notice": 5, "warning": 4, "error": 3, "critical": 2}  # RFC 5424, table 2
FACILITIES = {
    "user": 1, "daemon": 3, "auth": 4, "syslog": 5, "authpriv": 10, "local0": 16, "local1": 17, "local2": 18, "local3": 19,
    "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}  # fmt: skip
AUDIT = 13  # "log audit"
_MOST = 8192  # octets that a receiver should take (RFC 5425, 4.3.1)
_LONGEST = 1024  # characters of a value
_NO_NAME = re.compile(r'[^!-~]|[=\]"]')
_ESCAPED = re.compile(r'(["\\\]])')
_OWN = frozenset({"event", "level", "timestamp", "facility"})


@dataclass(frozen=True, slots=True)
class Header:
    """What every message of a process has: host name (FQDN or address), process id, SD-ID."""

    host: str
    process: int
    sd_id: str
    application: str = "qkdd"


def frame(record: Mapping[str, Any], header: Header, facility: int, message_id: str) -> bytes:
    """A message with its octet count. record: `event`, `level`, `timestamp` (RFC 3339); further fields become SD-PARAMs.

    Values are cut at 1024 characters; parameters that would make the message longer than 8192 octets are left out from the end.
    """
    priority = 8 * facility + LEVELS.get(str(record.get("level", "info")), LEVELS["info"])
    stamp = str(record.get("timestamp") or _now())
    host, application = (_token(text, most) for text, most in ((header.host, 255), (header.application, 48)))
    start = f"<{priority}>1 {stamp} {host} {application} {header.process} {_token(message_id, 32)} ".encode()
    text = b" \xef\xbb\xbf" + _plain(record.get("event", "")).encode()  # a BOM says that the text is UTF-8
    room = _MOST - len(start) - len(text) - len(header.sd_id) - 2
    parameters = bytearray()
    for name, value in record.items():
        if name in _OWN or value is None:
            continue
        shown = _ESCAPED.sub(r"\\\1", _plain(value))
        parameter = f' {_NO_NAME.sub("_", name)[:32] or "_"}="{shown}"'.encode()
        if len(parameters) + len(parameter) > room:
            break
        parameters += parameter
    message = start + (b"[" + header.sd_id.encode() + parameters + b"]" if parameters else b"-") + text
    return b"%d " % len(message) + message


def _plain(value: object) -> str:
    """One line without control characters (RFC 5424, 6.2.8 and 8.2)."""
    text = str(value)[:_LONGEST]
    return "".join(character if character.isprintable() else " " for character in text)


def _token(text: str, most: int) -> str:
    return re.sub(r"[^!-~]", "_", text)[:most] or "-"


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
