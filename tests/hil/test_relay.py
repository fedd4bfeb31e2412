"""The classical line that can be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from qkdd_hil.rig.relay import Relay

from qkdd.core.ports import free_ports
from qkdd.testing.patience import PATIENCE_S


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says everything back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def talk(line: socket.socket) -> None:
            with line:
                while data := line.recv(1000):
                    line.sendall(data)

        def serve() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(line,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(30)


def said_back(line: socket.socket, words: bytes) -> bool:
    line.sendall(words)
    try:
        return line.recv(1000) == words
    except TimeoutError:
        return False


def test_what_is_cut_is_silent_and_not_closed_until_it_is_mended(echo: int) -> None:
    (port,) = free_ports(1)
    relay = Relay(port, echo)
    relay.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line:
            assert said_back(line, b"hello")
            relay.cut()
            line.settimeout(0.2)
            assert not said_back(line, b"anybody?")
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as late:  # a new one hangs too
                late.settimeout(0.2)
                assert not said_back(late, b"anybody?")
                relay.mend()
                for one in (line, late):
                    one.settimeout(30)
                    with pytest.raises(ConnectionError):
                        raise ConnectionResetError if one.recv(1000) == b"" else AssertionError
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line:
            assert said_back(line, b"hello again")
    finally:
        relay.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def test_a_port_in_use_is_an_error(echo: int) -> None:
    with pytest.raises(OSError, match="in use"):
        Relay(echo, echo).start()


def test_nobody_behind_it_closes_the_connection() -> None:
    port, dead = free_ports(2)
    relay = Relay(port, dead)
    relay.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line:
            line.settimeout(30)
            with suppress(ConnectionResetError):
                assert line.recv(10) == b""
    finally:
        relay.stop()
