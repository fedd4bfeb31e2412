"""What every simulator is made of: a wire (pty or TCP) to serve, faults to inject, and the sides it is fed from.

A simulator *behaves*: it paces in real time, remembers what it was told, and loses what its host does not fetch. It speaks
the documented protocol of the instrument, so a program that is not ours can use it too. The physics comes in from outside
through the three interfaces of this file (`ClickSource`, `DetectorBench`, `OnMove`); the virtual bench implements them, and
each `sim.py` has a plain stand-in so that `qkdd-sim` works alone.
"""

from __future__ import annotations

import abc
import asyncio
import json
import os
import socket
import tempfile
import tty
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

OnMove = Callable[[tuple[float, float, float]], None]
"""Called in the event loop with the three paddle angles in radian, about fifty times a second while a paddle moves."""


class ClickSource(Protocol):
    """Where a simulated time tagger's clicks come from."""

    def clicks(self, start_ps: int, stop_ps: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Clicks with start_ps <= time < stop_ps.

        Returns times int64[n] in picoseconds of the tagger's own clock, non-decreasing, and channels uint8[n] (0-based
        input). Intervals are asked in order; they follow each other without gap while a stream runs, and time that passed
        without a stream is jumped over. Called in the simulator's own thread: two taggers that share a source call it
        from two threads, so a shared source needs a lock.
        """


class DetectorBench(Protocol):
    """The detectors behind a simulated detector controller. Called in the event loop; must return at once."""

    @property
    def detectors(self) -> int:
        """How many detectors there are."""

    def counts(self, period_s: float) -> tuple[int, ...]:
        """Counts per detector over the `period_s` seconds that just ended."""

    def set_bias(self, bias_ua: tuple[float, ...]) -> None:
        """Bias current of every detector in microampere."""

    def set_enabled(self, enabled: bool) -> None:
        """Switch all detectors on or off."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a simulator is reached, in the words of a device's configuration."""

    model: str
    port: str = ""
    host: str = ""
    tcp_ports: tuple[int, ...] = ()
    library: str = ""
    program: tuple[str, ...] = ()
    python: str = ""
    recording: str = ""
    options: tuple[tuple[str, str | int | float | list[int]], ...] = ()

    def to_json(self) -> str:
        """One line of JSON, as `qkdd-sim` prints it."""
        fields: dict[str, object] = {"model": self.model}
        if self.port:
            fields["port"] = self.port
        if self.host:
            fields |= {"host": self.host, "tcp_ports": list(self.tcp_ports)}
        fields |= {way: value for way in ("library", "program", "python", "recording") if (value := getattr(self, way))}
        if self.options:
            fields["options"] = dict(self.options)
        return json.dumps(fields)


class Simulator(abc.ABC):
    """One simulated instrument. `start` and `stop` may be called again and again; so may `inject`.

    Faults that every simulator knows: `unplug` (the line goes away), `plug` (it comes back at the same address), `late`
    (seconds=0.5: every answer comes so much later), `garbage` (bytes=64: so many random bytes on the line),
    `wrong-identity`, `refuse` (commands are answered with the protocol's error, or not carried out where it has none),
    `hang` (nothing is answered any more) and `clear` (no fault any more). A simulator may know more: `faults`.
    """

    model: ClassVar[str]
    faults: ClassVar[frozenset[str]] = frozenset(
        {"unplug", "plug", "late", "garbage", "wrong-identity", "refuse", "hang", "clear"}
    )

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.late = 0.0
        self.wrong_identity = False
        self.refuse = False
        self.hang = False

    @abc.abstractmethod
    async def start(self) -> Address:
        """Listen; returns where."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """Stop listening and leave nothing behind. Idempotent."""

    @abc.abstractmethod
    def unplug(self) -> None:
        """The line goes away for the host."""

    @abc.abstractmethod
    def plug(self) -> None:
        """The line comes back at the same address; the instrument kept its power."""

    @abc.abstractmethod
    def send(self, data: bytes) -> None:
        """Put bytes on the line to the host, outside of any dialogue."""

    def inject(self, fault: str, **args: float) -> None:
        """Start a fault. Must be called in the event loop. Raises ValueError naming the faults that this one knows."""
        if fault not in self.faults:
            raise ValueError(f"{self.model} knows no fault {fault!r}; it knows {', '.join(sorted(self.faults))}")
        match fault:
            case "unplug":
                self.unplug()
            case "plug":
                self.plug()
            case "late":
                self.late = args.get("seconds", 0.5)
            case "garbage":
                self.send(self.random.bytes(int(args.get("bytes", 64))))
            case "wrong-identity":
                self.wrong_identity = True
            case "refuse":
                self.refuse = True
            case "hang":
                self.hang = True
            case "clear":
                self.late = 0.0
                self.wrong_identity = self.refuse = self.hang = False
            case _:
                self.inject_own(fault, args)

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        """Faults that only this simulator knows."""
        raise NotImplementedError(fault)


class Wire(abc.ABC):
    """A byte line that is served: what the host writes goes to `on_data`, `write` is buffered without limit."""

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        self._on_data = on_data
        self._fd = -1
        self._out = bytearray()

    @property
    def connected(self) -> bool:
        """Whether there is a line to write to."""
        return self._fd >= 0

    def dup(self) -> int:
        """A descriptor of the line's own for a thread that streams; -1 when there is no line. The caller closes it."""
        return os.dup(self._fd) if self._fd >= 0 else -1

    def write(self, data: bytes) -> None:
        """Send to the host; dropped when there is no line."""
        if self._fd < 0:
            return
        self._out += data
        self._flush()

    def _attach(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._readable)

    def _detach(self) -> int:
        """Stop watching; returns the descriptor (or -1), which the caller closes."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(fd)
            loop.remove_writer(fd)
        self._out.clear()
        return fd

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        except OSError:  # the host hung up in the middle
            data = b""
        if data:
            self._on_data(data)
        else:
            self._hung_up()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            sent = os.write(self._fd, self._out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._hung_up()
            return
        del self._out[:sent]
        if self._out:
            loop.add_writer(self._fd, self._flush)
        else:
            loop.remove_writer(self._fd)

    @abc.abstractmethod
    async def listen(self) -> Address:
        """Serve the line; returns its address with an empty model."""

    @abc.abstractmethod
    def _hung_up(self) -> None:
        """The host closed its end."""

    @abc.abstractmethod
    def cut(self) -> None:
        """Take the line away from the host. Idempotent."""

    @abc.abstractmethod
    def mend(self) -> None:
        """Bring the line back at the same address. Idempotent."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Stop serving. Idempotent."""


class PtyWire(Wire):
    """A pseudo terminal in raw mode, reached by a symbolic link that survives unplug and plug (as a by-id name does)."""

    def __init__(self, on_data: Callable[[bytes], None], path: str | None = None) -> None:
        super().__init__(on_data)
        self._given = path
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._link = Path()
        self._slave = -1

    async def listen(self) -> Address:
        if self._given is None:
            self._folder = tempfile.TemporaryDirectory(prefix="qkdd-sim-")
            self._link = Path(self._folder.name) / "port"
        else:
            self._link = Path(self._given)
            if self._link.is_symlink():  # left by a simulator that was killed
                self._link.unlink()
        self.mend()
        return Address("", port=str(self._link))

    def mend(self) -> None:
        if self._fd >= 0:
            return
        master, self._slave = os.openpty()
        # raw before anybody can open it, else the line discipline echoes and translates binary bytes
        tty.setraw(self._slave)
        self._attach(master)
        self._link.symlink_to(os.ttyname(self._slave))

    def cut(self) -> None:
        fd = self._detach()
        if fd >= 0:
            self._link.unlink(missing_ok=True)
            os.close(self._slave)
            os.close(fd)

    def _hung_up(self) -> None:
        """Never: the slave end is held open here, so that a host may come and go as with a real port."""

    async def close(self) -> None:
        self.cut()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class TcpWire(Wire):
    """A TCP port for one host at a time; another one that connects waits until the first has gone."""

    def __init__(
        self,
        on_data: Callable[[bytes], None],
        host: str = "127.0.0.1",
        port: int = 0,
        on_connect: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(on_data)
        self._host, self._port = host, port
        self._on_connect = on_connect
        self._server: socket.socket | None = None
        self._client: socket.socket | None = None

    async def listen(self) -> Address:
        self.mend()
        return Address("", host=self._host, tcp_ports=(self._port,))

    def mend(self) -> None:
        if self._server is not None:
            return
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((self._host, self._port))
        except OSError:
            server.close()
            raise
        server.listen(4)
        server.setblocking(False)
        self._port = server.getsockname()[1]
        self._server = server
        asyncio.get_running_loop().add_reader(server.fileno(), self._accept)

    def _accept(self) -> None:
        if self._server is None or self._client is not None:
            return
        try:
            client, _ = self._server.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        asyncio.get_running_loop().remove_reader(self._server.fileno())
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self._attach(client.fileno())
        if self._on_connect is not None:
            self._on_connect()

    def _hung_up(self) -> None:
        self._detach()
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._server is not None:
            asyncio.get_running_loop().add_reader(self._server.fileno(), self._accept)

    def cut(self) -> None:
        self._detach()
        if self._client is not None:
            with suppress(OSError):  # already reset by the host
                # a reset instead of an orderly end: this is what a pulled cable looks like after its time-out
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._client.close()
            self._client = None
        if self._server is not None:
            asyncio.get_running_loop().remove_reader(self._server.fileno())
            self._server.close()
            self._server = None

    async def close(self) -> None:
        self.cut()


def make_wire(on_data: Callable[[bytes], None], pty: str | None = None, listen: tuple[str, int] | None = None) -> Wire:
    """The wire of an instrument with one line: TCP when `listen` is given, else a pty at `pty` (a fresh name if None)."""
    return TcpWire(on_data, *listen) if listen is not None else PtyWire(on_data, pty)
