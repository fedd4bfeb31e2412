"""A vendor's program that we start and supervise: its standard output is the line.

`open` only looks whether the program is there; `launch` starts it with arguments of its own, as often as needed. It is killed
when it does not end in time, and by the kernel when the daemon dies first.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from qkdd.device.supervised import Child
from qkdd.device.transport import ByteLink, Crashed, Denied, Gone, TimedOut, Unusable

_PIPE_BYTES = 1 << 20  # what the kernel allows everybody
_LAUNCH = Path(__file__).with_name("launch.py")


class ProgramLink(ByteLink, Protocol):
    """What a program needs beside its bytes."""

    def launch(self, arguments: Sequence[str]) -> None:
        """Start it; one that still runs is ended first."""

    def ended(self) -> int | None:
        """Exit code (negative: a signal's number) once it has ended, else None."""

    def finish(self, patience: float) -> int | None:
        """Ask it to end, kill it after `patience` seconds; its exit code when it ended by itself before it was asked."""

    def obituary(self) -> str:
        """How it ended, with its last words."""


class ChildLink:
    """One program. `program`: path or name, and arguments that always come first. The constructor does no I/O."""

    def __init__(self, key: str, program: Sequence[str]) -> None:
        self._key, self._program = key, tuple(program)
        self._open = False
        self._child: Child | None = None
        self._in = self._out = -1
        self._last = "the program does not run"

    @property
    def key(self) -> str:
        return self._key

    def open(self, timeout: float) -> None:
        name = self._program[0]
        if shutil.which(name) is None:
            if os.path.exists(name) and not os.access(name, os.X_OK):
                raise Denied(f"{name} may not be run")
            raise Unusable(f"there is no program {name}")
        self._open = True

    def close(self) -> None:
        if self._child is not None:
            self.finish(1.0)
        self._open = False

    def launch(self, arguments: Sequence[str]) -> None:
        if not self._open:
            raise Gone("the program's line is not open")
        if self._child is not None:
            self.finish(1.0)
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        command = [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *self._program, *arguments]
        try:
            fcntl.fcntl(ours_out, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            self._child = Child(command, stdin=theirs_in, stdout=theirs_out)
        except BaseException:
            os.close(ours_in)
            os.close(ours_out)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(ours_in, False)
        self._in, self._out = ours_in, ours_out
        self._last = ""

    def write(self, data: bytes, timeout: float) -> None:
        child = self._running()
        left = memoryview(data)
        while left:
            _, ready, _ = select.select([], [self._in], [], timeout)
            if not ready:
                raise TimedOut("the program takes no bytes")
            try:
                left = left[os.write(self._in, left) :]
            except BrokenPipeError:
                raise Crashed(child.obituary("the program")) from None

    def read(self, limit: int, timeout: float) -> bytes:
        child = self._running()
        if not child.await_any([self._out], timeout):
            if child.ended() is not None:  # something that it started may still hold its output
                raise Crashed(self.obituary())
            return b""
        data = os.read(self._out, limit)
        if not data:
            raise Crashed(self.obituary())
        return data

    def discard(self) -> None:
        while self._child is not None and self.read(1 << 20, 0.0):
            pass

    def ended(self) -> int | None:
        return self._child.ended() if self._child is not None else None

    def finish(self, patience: float) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        code = child.ended()
        self._last = child.obituary("the program") if code is not None else "the program was ended"
        if code is None:
            child.signal(signal.SIGTERM)
        # a program that writes to a full pipe does not hear: close it, and it gets SIGPIPE
        os.close(self._in)
        os.close(self._out)
        self._in = self._out = -1
        child.finish(patience if code is None else 0.0)
        return code

    def obituary(self) -> str:
        return self._child.obituary("the program") if self._child is not None else self._last

    def _running(self) -> Child:
        if self._child is None:
            raise Gone(self._last)
        return self._child
