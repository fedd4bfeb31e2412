"""A vendor's library or Python package in a process of its own (`worker_main`), as a link.

The link carries control frames as bytes, so bad wires can be put around it like around any other line; the tags come through a
ring in shared memory without being copied. A call that hangs costs the process, never the daemon: `kill`, and the next `open`
starts a new one.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from qkdd.core.clock import Clock
from qkdd.device.supervised import Child
from qkdd.device.transport import (
    Busy,
    ByteLink,
    ByteReader,
    Crashed,
    Denied,
    FrameError,
    Gone,
    Hung,
    Overrun,
    Refused,
    Stranger,
    TimedOut,
    Unusable,
)
from qkdd.device.worker_main import frame, give, take, unframe

RING_BYTES = 1 << 26
"""Shared memory for tags that wait: 64 MiB, 0.8 s of 20 million T2 records a second."""

_BURST_ROOM = 1 << 23  # the ring is followed by room for the largest burst of any adapter
_CLOSE = 3.0  # seconds in which a worker lets its instrument go
_MAIN = Path(__file__).with_name("worker_main.py")

_FAILURES: dict[str, type[Exception]] = {
    "gone": Gone,
    "busy": Busy,
    "denied": Denied,
    "late": TimedOut,
    "missing": Unusable,
    "stranger": Stranger,
    "refused": Refused,
    "overrun": Overrun,
    "failed": FrameError,
}


class TagLink(ByteLink, Protocol):
    """What a stream needs beside the control bytes."""

    def fresh(self) -> None:
        """Forget what is in the ring: a new stream begins."""

    def tags(self, timeout: float) -> NDArray[np.uint8]:
        """A view of tags that have come, in one piece; empty when there are none after `timeout`."""

    def free(self, count: int) -> None:
        """So many bytes of the last view are done with."""

    def lost(self) -> int:
        """Records that were lost since the last call."""

    def kill(self) -> None:
        """End the process at once."""

    def obituary(self) -> str:
        """Why the process is no longer there."""


class WorkerLink:
    """One worker process. `adapter` is a file; `python` the interpreter. The constructor does no I/O."""

    def __init__(self, key: str, adapter: Path, *, python: str = sys.executable, ring_bytes: int = RING_BYTES) -> None:
        self._key, self._adapter, self._python, self._size = key, adapter, python, ring_bytes
        self._child: Child | None = None
        self._control: socket.socket | None = None
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._filled = self._freed = self._lost = -1
        self._tail = self._waiting = 0
        self._end = ""

    @property
    def key(self) -> str:
        return self._key

    def open(self, timeout: float) -> None:
        ours, theirs = socket.socketpair()
        room = self._size + _BURST_ROOM
        ring = os.memfd_create("qkdd-tags")
        self._filled, self._freed, self._lost = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3))
        try:
            os.ftruncate(ring, room)
            passed = {"control": theirs.fileno(), "ring": ring, "filled": self._filled, "freed": self._freed}
            passed["lost"] = self._lost
            numbers = [f"--{name}={fd}" for name, fd in passed.items()]
            self._child = Child(
                [self._python, str(_MAIN), f"--adapter={self._adapter}", f"--size={self._size}", *numbers],
                keep=tuple(passed.values()),
            )
            # unmapped when the last view of it has gone
            self._bytes = np.frombuffer(mmap.mmap(ring, room), np.uint8)
        except BaseException as error:
            ours.close()
            self._release()
            if isinstance(error, Gone | Denied):
                raise Unusable(str(error)) from None
            raise
        finally:
            theirs.close()
            os.close(ring)
        self._control, self._end = ours, ""
        self._tail = self._waiting = 0

    def close(self) -> None:
        if self._control is not None:
            self._control.close()  # this is how the worker hears that it shall let the instrument go
            self._control = None
        if self._child is not None:
            self._child.finish(_CLOSE)
            self._end = self._end or self._child.obituary("the vendor's process")
            self._child = None
        self._release()

    def kill(self) -> None:
        if self._child is not None:
            self._child.finish(0.0)
            self._end = "the vendor's process was killed because a call did not come back"
        self.close()

    def obituary(self) -> str:
        if self._child is not None and not self._end:
            return self._child.obituary("the vendor's process")
        return self._end or "the vendor's process does not run"

    def _release(self) -> None:
        for fd in (self._filled, self._freed, self._lost):
            if fd >= 0:
                os.close(fd)
        self._filled = self._freed = self._lost = -1
        self._bytes = np.empty(0, np.uint8)

    # Control bytes

    def write(self, data: bytes, timeout: float) -> None:
        control, _ = self._opened()
        control.settimeout(timeout)
        try:
            control.sendall(data)
        except TimeoutError:
            raise TimedOut("the vendor's process takes no commands") from None
        except OSError:
            raise Crashed(self.obituary()) from None

    def read(self, limit: int, timeout: float) -> bytes:
        control, child = self._opened()
        if not child.await_any([control.fileno()], timeout):
            return b""
        try:
            data = control.recv(limit)
        except OSError:
            data = b""
        if not data:
            raise Crashed(self.obituary())
        return data

    def discard(self) -> None:
        while self.read(65536, 0.0):
            pass

    # Tags

    def fresh(self) -> None:
        self._opened()
        for fd in (self._filled, self._freed, self._lost):
            take(fd)
        self._tail = self._waiting = 0

    def tags(self, timeout: float) -> NDArray[np.uint8]:
        control, child = self._opened()
        self._waiting += take(self._filled)
        if not self._waiting:
            child.await_any([self._filled, control.fileno()], timeout)
            self._waiting += take(self._filled)
        at = self._tail % self._size
        return self._bytes[at : at + min(self._waiting, self._size - at)]

    def free(self, count: int) -> None:
        self._tail += count
        self._waiting -= count
        if count:
            give(self._freed, count)

    def lost(self) -> int:
        return take(self._lost)

    def _opened(self) -> tuple[socket.socket, Child]:
        if self._control is None or self._child is None:
            raise Gone(self._end or "the vendor's process does not run")
        return self._control, self._child


class WorkerClient:
    """Asks the worker behind a link, and hears what it says by itself. All of it runs in the bus's thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._number = 0
        self._reader: ByteReader | None = None
        self._stopped: dict[str, Any] | None = None

    def forget(self) -> None:
        """The process is a new one."""
        self._reader = None
        self._stopped = None

    def ask(self, link: ByteLink, verb: str, timeout: float, **arguments: Any) -> Any:
        """One call. A call that does not come back in time costs the process: raises Hung."""
        reader = self._reader or ByteReader(link, self._clock)
        self._reader = reader
        self._number += 1
        question = frame({"id": self._number, "do": verb, "with": arguments})
        end = self._clock.monotonic() + timeout
        try:
            link.write(question, timeout)
            while True:
                line = reader.until(b"\n", max(0.0, end - self._clock.monotonic()), limit=1 << 20)
                answer = _message(line)
                if answer.get("id") == self._number:
                    break
                self._heard(answer)
        except TimedOut:
            cast(TagLink, link).kill()
            raise Hung(f"{verb} did not come back in {timeout:g} s") from None
        if "ok" in answer:
            return answer["ok"]
        raise failure(answer)

    def listen(self, link: ByteLink) -> None:
        """Take what the worker says by itself; raises what ended its stream."""
        reader = self._reader
        while reader is not None and self._stopped is None:
            try:
                line = reader.until(b"\n", 0.001, limit=1 << 20)
            except TimedOut:
                break
            self._heard(_message(line))
        if self._stopped is not None:
            raise failure(self._stopped)

    def begin(self) -> None:
        """A new stream starts."""
        self._stopped = None

    def _heard(self, message: Mapping[str, Any]) -> None:
        if message.get("event") == "stopped":
            self._stopped = dict(message)
        elif "bad" in message:
            raise FrameError(f"the vendor's process got a damaged frame ({message['bad']})")
        # an answer to an earlier question came late: nobody waits for it any more


def failure(answer: Mapping[str, Any]) -> Exception:
    """The failure that a worker's message tells of."""
    return _FAILURES.get(str(answer.get("kind")), FrameError)(str(answer.get("text", "no reason was given")))


def _message(line: bytes) -> dict[str, Any]:
    try:
        return unframe(line)
    except (ValueError, json.JSONDecodeError) as error:
        raise FrameError(f"a damaged control frame ({error})") from None
