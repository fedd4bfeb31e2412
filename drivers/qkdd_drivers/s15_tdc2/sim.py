"""A TDC2 that behaves: a program like `readevents7` (fake_readevents.py) and, here, the instrument that it reads."""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from qkdd_drivers.s15_tdc2 import protocol
from qkdd_drivers.simkit import Address, ClickSource, Simulator

_TICK = 0.01  # seconds between two questions to the source
_MARK_PS = 140 * 10**9  # without a click for so long, a mark is sent
_REFUSED = 247  # some exit code of the program's table that does not mean "cannot open"


class Tdc2Sim(Simulator):
    """One instrument; its counter runs freely from `start`. The program may be started again and again, also twice at once."""

    model = "tdc2"

    def __init__(self, source: ClickSource, *, seed: int = 1) -> None:
        super().__init__(seed)
        self._source = source
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._server: socket.socket | None = None
        self._lines: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._plugged = True
        self._origin = 0.0
        self._asked_until = 0
        self._levels = ""

    async def start(self) -> Address:
        self._folder = tempfile.TemporaryDirectory(prefix="qkdd-sim-")
        path = str(Path(self._folder.name) / "events")
        self._ending.clear()
        self._origin, self._asked_until, self._plugged = time.monotonic(), 0, True
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(path)
        self._server.listen(4)
        thread = threading.Thread(target=self._accept, args=(self._server,), name="tdc2-sim", daemon=True)
        self._threads = [thread]
        thread.start()
        fake = Path(__file__).with_name("fake_readevents.py")
        return Address(self.model, program=(sys.executable, str(fake), "--socket", path))

    async def stop(self) -> None:
        self._ending.set()
        if self._server is not None:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
        self._hang_up()
        for thread in self._threads:
            thread.join()
        self._threads = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def unplug(self) -> None:
        self._plugged = False
        self._hang_up()

    def plug(self) -> None:
        self._plugged = True

    def send(self, data: bytes) -> None:
        with self._lock:
            for line in self._lines:
                with suppress(OSError):  # the program was ended just now
                    line.sendall(data)

    def _hang_up(self) -> None:
        with self._lock:
            for line in self._lines:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)

    # In threads

    def _accept(self, server: socket.socket) -> None:
        while not self._ending.is_set():
            try:
                line, _ = server.accept()
            except OSError:  # shut down
                return
            thread = threading.Thread(target=self._serve, args=(line,), name="tdc2-sim program", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, line: socket.socket) -> None:
        with line:
            with self._lock:
                self._lines.add(line)
            try:
                self._talk(line)
            except OSError:  # the program was ended
                return
            finally:
                with self._lock:
                    self._lines.discard(line)

    def _talk(self, line: socket.socket) -> None:
        swapped, _, levels = line.recv(256).decode().strip().partition(" ")
        self._ending.wait(self.late)
        if not self._plugged:
            line.sendall(bytes([protocol.CANNOT_OPEN]))
            return
        if self.refuse and levels != self._levels:
            line.sendall(bytes([_REFUSED]))
            return
        self._levels = levels
        line.sendall(b"\0")
        if self.wrong_identity:
            line.sendall(b"0.000012 1 0 0 0 another instrument's text\n" * 64)
        self._stream(line, swapped == "1")

    def _stream(self, line: socket.socket, swapped: bool) -> None:
        asked = marked = self._now()
        while not self._ending.wait(_TICK):
            now = self._now()
            if self.hang:
                if not _there(line):
                    return
                continue
            with self._lock:  # the source is asked in order, whatever runs
                start = max(asked, self._asked_until)
                times, channels = self._source.clicks(start, now) if now > start else (np.empty(0, np.int64), None)
                self._asked_until = max(self._asked_until, now)
            asked = now
            if channels is not None and len(times):
                data = protocol.encode(times, np.uint8(1) << channels, swapped)
                marked = int(times[-1])
            elif now - marked > _MARK_PS:
                marked = now
                data = protocol.encode(np.array([now]), np.zeros(1, np.uint8), swapped, np.ones(1, np.bool_))
            else:
                data = b""
            if data and not self.wrong_identity:
                line.sendall(data)
            elif not _there(line):
                return

    def _now(self) -> int:
        return int((time.monotonic() - self._origin) * 1e12)


def _there(line: socket.socket) -> bool:
    """Whether the program still holds its end."""
    try:
        return line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
