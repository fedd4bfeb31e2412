"""A blocking client of the control socket, for command lines and tests."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import msgspec

from qkdd.control.errors import NoDaemon
from qkdd.control.events import Event
from qkdd.core.errors import QkddError

DEFAULT_SOCKET = "/run/qkdd/control.sock"
QUICK_S = 10.0
PATIENT_S = 900.0  # a calibration turns paddles and waits for blocks


class Refused(QkddError):
    """The daemon said no; carries the daemon's own code, message and remedy."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.refusal_code = code

    def __str__(self) -> str:
        return f"[{self.refusal_code}] {self.message}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("qkdd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _refusal(status: int, body: bytes) -> Refused:
    try:
        told = json.loads(body)
        return Refused(told["code"], told["message"], told["remedy"])
    except (ValueError, KeyError, TypeError):
        return Refused("QKD-CTL-BAD-REQUEST", f"the daemon answered {status}", "")


class ControlClient:
    """One daemon's socket. Raises NoDaemon when nobody answers and Refused when the daemon says no."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextmanager
    def _send(
        self, method: str, route: str, body: bytes | None, timeout: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self.path, timeout)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, route, body, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response.status, response.read())
            yield response
            response.close()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoDaemon(f"{self.path}: {reason}") from None
        finally:
            connection.close()

    def get(self, route: str, **query: int) -> Any:
        """The decoded JSON body."""
        target = f"{route}?{urlencode(query)}" if query else route
        with self._send("GET", target, None, QUICK_S) as response:
            return json.load(response)

    def post(self, route: str, body: Any = None, timeout: float = PATIENT_S) -> Any:
        with self._send("POST", route, json.dumps(body).encode() if body is not None else b"", timeout) as response:
            return json.load(response)

    def events(self, since: int | None = None, timeout: float | None = None) -> Iterator[Event]:
        """Events until the daemon stops. `timeout`: seconds of complete silence after which NoDaemon is raised."""
        target = "/v1/events" if since is None else f"/v1/events?since={since}"
        with self._send("GET", target, None, timeout) as response:
            while True:
                line = response.readline()
                if not line:
                    return
                if line.strip():
                    yield msgspec.json.decode(line, type=Event)
