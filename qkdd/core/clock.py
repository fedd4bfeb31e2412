"""Time as an injected dependency: nothing in qkdd calls time.* or asyncio.sleep directly.

Durations and deadlines come from the monotonic clock, so a step of the wall clock (NTP) changes only time stamps.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
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
