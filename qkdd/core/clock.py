"""Time as an injected dependency: nothing in qkdd calls time.* or asyncio.sleep directly.

Durations and deadlines come from the monotonic clock, so a step of the wall clock (NTP) changes only time stamps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

DeadlineContext = AbstractAsyncContextManager[object, bool | None]


class Clock(Protocol):
    """What every room may ask of time. `qkdd.testing.clock.FakeClock` is the other implementation."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never steps."""

    def wall(self) -> float:
        """Seconds since the Unix epoch; may step."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time."""

    def deadline(self, seconds: float) -> DeadlineContext:
        """Async context manager that raises TimeoutError inside its body after `seconds`."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def deadline(self, seconds: float) -> DeadlineContext:
        return asyncio.timeout(seconds)


@asynccontextmanager
async def cancel_at(event: asyncio.Event) -> AsyncIterator[None]:
    """Raise TimeoutError in the body once `event` is set (the fake clock's deadline)."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a deadline needs a running task")
    fired = False

    async def watch() -> None:
        nonlocal fired
        await event.wait()
        fired = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if fired and task.uncancel() <= 0:
            raise TimeoutError from None
        raise
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
