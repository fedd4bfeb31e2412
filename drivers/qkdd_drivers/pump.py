"""Reads a line without pause while a stream runs, for drivers whose instrument pushes its tags."""

from __future__ import annotations

import asyncio
import math
import threading

from qkdd.core.clock import Clock
from qkdd.device import errors
from qkdd.device.driver import Driver
from qkdd.device.transport import ByteLink

_SLICE = 0.05  # seconds one blocking read takes at the longest: how soon a stream ends when told to
_LISTENED = 0.25  # seconds; the most that one empty read counts as listening, so that a process that was stopped hears no silence
_BACKLOG = 1 << 26  # bytes that wait for a program that does not call read(); then the line is left to fill up


class Pump:
    """Reads the line in the bus's thread for as long as a stream runs, so that a busy event loop loses no tags."""

    def __init__(self, driver: Driver, clock: Clock, chunk: int = 1 << 16) -> None:
        """chunk: bytes that one read asks for at the most."""
        self._clock, self._chunk = clock, chunk
        self._chunks: list[bytes] = []
        self._size = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self.silence = 0.0  # seconds of listening in vain; while this process did not run it did not listen
        # no time-out of its own: every read in it has one
        self._task = asyncio.ensure_future(driver.run("read tags", self._work, math.inf))

    def _work(self, link: ByteLink) -> None:
        while not self._ending.is_set():
            if self._size > _BACKLOG:
                self._ending.wait(_SLICE)
                continue
            began = self._clock.monotonic()
            data = link.read(self._chunk, _SLICE)
            if data:
                with self._lock:
                    self._chunks.append(data)
                    self._size += len(data)
                self.silence = 0.0
            else:
                self.silence += min(self._clock.monotonic() - began, _LISTENED)

    def take(self, limit: int | None = None) -> bytes:
        """What has come since the last call; no piece after `limit` bytes."""
        with self._lock:
            chunks, self._chunks, self._size = self._chunks, [], 0
            if limit is not None:
                count = 1
                while count < len(chunks) and (limit := limit - len(chunks[count - 1])) > 0:
                    count += 1
                self._chunks = chunks[count:]
                chunks = chunks[:count]
                self._size = sum(map(len, self._chunks))
        return b"".join(chunks)

    @property
    def waiting(self) -> int:
        """Bytes that wait to be taken."""
        return self._size

    def failure(self) -> BaseException | None:
        """Why reading ended, None while it goes on."""
        return self._task.exception() if self._task.done() else None

    async def end(self) -> bool:
        """Stop reading; True when the line was sound until now."""
        self._ending.set()
        try:
            await asyncio.shield(self._task)
        except errors.DeviceError:  # it stands in failure(), which read() raises
            return False
        return True
