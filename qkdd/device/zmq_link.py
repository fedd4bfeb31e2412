"""ZeroMQ: a REQ socket as a byte line, and streams of messages that are pushed.

A message on the wire is a frame on the line, ended by NUL: `write` sends one when its NUL has come, `read` gives replies with
theirs, so readers, bad wires and contract suite are those of any other line. Instruments' texts hold no NUL.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import zmq

from qkdd.device.transport import Gone, TimedOut

END = b"\0"
_WAITING = 4096  # messages of one stream that may wait; a service that is not read holds the rest back
_MOST = 1 << 24  # bytes of one message; more is no answer of an instrument


class ZmqRequestLink:
    """One REQ socket. A request that got no answer costs the socket, as REQ cannot ask twice: the next one has a new one."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._unsent, self._kept = bytearray(), bytearray()
        self._asked = False

    @property
    def key(self) -> str:
        return f"tcp:{self._host}:{self._port}"

    def open(self, timeout: float) -> None:
        # connecting never fails in ZeroMQ: a plain connection tells whether anybody listens
        try:
            socket.create_connection((self._host, self._port), timeout).close()
        except TimeoutError:
            raise Gone(f"{self._host}:{self._port} does not answer") from None
        except OSError as error:
            raise Gone(f"{self._host}:{self._port}: {error.strerror or error}") from None
        self._context = zmq.Context()
        self._renew()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def write(self, data: bytes, timeout: float) -> None:
        self._opened()
        self._unsent += data
        while (at := self._unsent.find(END)) >= 0:
            message = bytes(self._unsent[:at])
            del self._unsent[: at + 1]
            if self._asked:  # the last answer is still due, and nobody will read it
                self._renew()
            line = self._opened()
            if not line.poll(max(0, round(timeout * 1000)), zmq.POLLOUT):
                raise TimedOut("the instrument takes no message")
            line.send(message)
            self._asked = True

    def read(self, limit: int, timeout: float) -> bytes:
        line = self._opened()
        if not self._kept:
            if not self._asked or not line.poll(max(0, round(timeout * 1000)), zmq.POLLIN):
                if not self._asked and timeout > 0:
                    raise TimedOut("nothing was asked")
                return b""
            self._kept += line.recv() + END
            self._asked = False
        data = bytes(self._kept[:limit])
        del self._kept[:limit]
        return data

    def discard(self) -> None:
        self._kept.clear()
        self._unsent.clear()
        if self._asked:
            self._renew()

    def _renew(self) -> None:
        if self._context is None:
            raise Gone("the connection is not open")
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MOST)
        self._socket.connect(f"tcp://{self._host}:{self._port}")
        self._unsent.clear()
        self._kept.clear()
        self._asked = False

    def _opened(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            raise Gone("the connection is not open")
        return self._socket


class ZmqStreamsLink:
    """PAIR sockets on which messages are pushed, one for each stream, on ports that are agreed when the streams begin.

    bind: whether this side binds (which side does is not documented of every service).
    """

    def __init__(self, host: str, *, bind: bool = False) -> None:
        self._host, self._bind = host, bind
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._streams: list[zmq.Socket[bytes]] = []

    @property
    def key(self) -> str:
        return f"streams:{self._host}"

    def open(self, timeout: float) -> None:
        self._context = zmq.Context()

    def close(self) -> None:
        self.detach()
        if self._context is not None:
            self._context.term()
            self._context = None

    def attach(self, ports: Sequence[int]) -> None:
        """Connect to (or bind) these ports; earlier streams are left."""
        self.detach()
        if self._context is None:
            raise Gone("the streams are not open")
        for port in ports:
            line = self._context.socket(zmq.PAIR)
            self._streams.append(line)
            line.setsockopt(zmq.LINGER, 0)
            line.setsockopt(zmq.MAXMSGSIZE, _MOST)
            line.setsockopt(zmq.RCVHWM, _WAITING)
            place = f"tcp://{self._host}:{port}"
            try:
                if self._bind:
                    line.bind(place)
                else:
                    line.connect(place)
            except zmq.ZMQError as error:
                self.detach()
                raise Gone(f"{self._host}:{port}: {error}") from None

    def detach(self) -> None:
        """Leave the streams."""
        for line in self._streams:
            line.close(linger=0)
        self._streams = []

    def messages(self, timeout: float) -> list[tuple[int, bytes]]:
        """All messages that are there, with the number of their stream; waits up to `timeout` for the first."""
        poller = zmq.Poller()
        for line in self._streams:
            poller.register(line, zmq.POLLIN)
        found: list[tuple[int, bytes]] = []
        ready = dict(poller.poll(max(0, round(timeout * 1000))))
        for number, line in enumerate(self._streams):
            while line in ready and len(found) < _WAITING and line.poll(0):
                found.append((number, line.recv()))
        return found

    def write(self, data: bytes, timeout: float) -> None:
        raise Gone("streams take no bytes")

    def read(self, limit: int, timeout: float) -> bytes:
        raise Gone("streams are read by messages")

    def discard(self) -> None:
        while self.messages(0.0):
            pass
