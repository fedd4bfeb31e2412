"""Raw TCP connections."""

from __future__ import annotations

import os
import socket

from qkdd.device.transport import Gone, TimedOut


class TcpLink:
    """One connection as a byte line."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._socket: socket.socket | None = None

    @property
    def key(self) -> str:
        return f"tcp:{self._host}:{self._port}"

    def open(self, timeout: float) -> None:
        try:
            connection = socket.create_connection((self._host, self._port), timeout)
        except TimeoutError:
            raise Gone(f"{self._host}:{self._port} does not answer") from None
        except OSError as error:
            raise Gone(f"{self._host}:{self._port}: {_reason(error)}") from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # a peer that was switched off is noticed after 10 s + 3 × 5 s of silence, not after hours
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        self._socket = connection

    def close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def write(self, data: bytes, timeout: float) -> None:
        connection = self._opened()
        connection.settimeout(timeout)
        try:
            connection.sendall(data)
        except TimeoutError:
            raise TimedOut("the instrument takes no bytes") from None
        except OSError as error:
            raise Gone(f"the connection broke ({_reason(error)})") from None

    def read(self, limit: int, timeout: float) -> bytes:
        connection = self._opened()
        connection.settimeout(timeout if timeout > 0 else 1e-6)  # zero would mean non-blocking, another error
        try:
            data = connection.recv(limit)
        except TimeoutError:
            return b""
        except OSError as error:
            raise Gone(f"the connection broke ({_reason(error)})") from None
        if not data:
            raise Gone("the instrument closed the connection")
        return data

    def discard(self) -> None:
        while self.read(65536, 0.0):
            pass

    def _opened(self) -> socket.socket:
        if self._socket is None:
            raise Gone("the connection is not open")
        return self._socket


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
