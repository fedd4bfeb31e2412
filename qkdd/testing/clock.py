"""A clock that moves only when told to: tests never wait."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qkdd.core.clock import DeadlineContext


@asynccontextmanager
async def _cancel_at(event: asyncio.Event) -> AsyncIterator[None]:
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
        await asyncio.wait([watcher])  # a cancellation of the body's task at this moment is not swallowed


class FakeClock:
    """Implements `qkdd.core.clock.Clock`. `await advance(s)` wakes sleepers in order and lets their tasks run."""

    def __init__(self, wall: float = 1_790_000_000.0) -> None:
        self._now = 1000.0
        self._wall_offset = wall - self._now
        self._queue: list[tuple[float, int, asyncio.Event]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_offset

    def step_wall(self, seconds: float) -> None:
        """What NTP does when it steps: wall time jumps, monotonic time does not."""
        self._wall_offset += seconds

    def _event_at(self, when: float) -> asyncio.Event:
        event = asyncio.Event()
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, event))
        return event

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._event_at(self._now + seconds).wait()

    def deadline(self, seconds: float) -> DeadlineContext:
        return self._deadline(seconds)

    @asynccontextmanager
    async def _deadline(self, seconds: float) -> AsyncIterator[None]:
        async with _cancel_at(self._event_at(self._now + seconds)):
            yield

    async def settle(self, rounds: int = 50) -> None:
        """Let every task that can run, run."""
        for _ in range(rounds):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking every sleeper on the way at its own moment."""
        end = self._now + seconds
        await self.settle()
        while self._queue and self._queue[0][0] <= end:
            self._now, _, event = heapq.heappop(self._queue)
            event.set()
            await self.settle()
        self._now = end
        await self.settle()
