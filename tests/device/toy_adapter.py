"""An adapter for the worker that does what it is told, for tests; it imports nothing of ours."""

from __future__ import annotations

import os
import time
from typing import Any

KINDS = {
    "gone": ConnectionError,
    "busy": BlockingIOError,
    "denied": PermissionError,
    "late": TimeoutError,
    "missing": ImportError,
    "stranger": LookupError,
    "refused": ValueError,
    "overrun": BufferError,
    "failed": ZeroDivisionError,
}


class Adapter:
    """Counts upwards in records of four bytes, at most `burst` at a time."""

    record = 4
    burst = 4096

    def __init__(self, options: dict[str, Any]) -> None:
        if kind := options.get("fail"):
            raise KINDS[kind]("told so")
        self.options = options
        self.lost = 0
        self._next = 0

    def close(self) -> None:
        if path := self.options.get("closed"):
            with open(path, "w", encoding="ascii") as file:
                file.write("closed")

    def do_echo(self, value: Any) -> Any:
        return value

    def do_fail(self, kind: str) -> None:
        raise KINDS[kind]("told so")

    def do_hang(self) -> None:
        time.sleep(3600)

    def do_die(self) -> None:
        os.write(2, b"something broke\nlast words\n")
        os._exit(7)

    def do_chatter(self, count: int) -> None:
        os.write(1, b"x" * 99 * count + b"\n")

    def begin(self, limit: int, step: int) -> None:
        self._limit, self._step, self._next = limit, step, 0

    def end(self) -> int:
        return self._next

    def fetch(self, space: memoryview) -> int:
        if self._next >= self._limit:
            if self.options.get("stop_kind"):
                raise KINDS[self.options["stop_kind"]]("the stream is over")
            return 0
        count = min(self._step, self._limit - self._next, len(space) // 4)
        space.cast("I")[:count] = memoryview(
            b"".join((self._next + i).to_bytes(4, "little") for i in range(count))
        ).cast("I")
        self._next += count
        if self.options.get("lossy"):
            self.lost += 1
        return 4 * count
