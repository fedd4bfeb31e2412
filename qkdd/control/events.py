"""Events of a running node for those who watch: `qkdctl watch`, the demonstration, a test.

Publishing never waits. A watcher that reads too slowly loses the oldest events and is told how many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec

from qkdd.core.clock import Clock

Plain = str | float | int | bool | None
BACKLOG = 512


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """`kind` is `room.what` ("device.up", "block.accepted"); `seq` counts from 1 without gaps."""

    seq: int
    time: float
    kind: str
    fields: dict[str, Plain]


class Watcher:
    """One reader's queue."""

    def __init__(self, backlog: int) -> None:
        self._queue: deque[Event] = deque(maxlen=backlog)
        self._wake = asyncio.Event()
        self._closed = False
        self.lost = 0

    def push(self, event: Event) -> None:
        if len(self._queue) == self._queue.maxlen:
            self.lost += 1
        self._queue.append(event)
        self._wake.set()

    def close(self) -> None:
        """End the reader's iteration after what is queued."""
        self._closed = True
        self._wake.set()

    @property
    def closed(self) -> bool:
        """Whether the daemon stops."""
        return self._closed

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._queue:
                yield self._queue.popleft()
            if self._closed:
                return
            self._wake.clear()
            await self._wake.wait()


class EventHub:
    """Publish to all watchers; keeps the last events for those who come later. Used on the event loop's thread only."""

    def __init__(self, clock: Clock, backlog: int = BACKLOG) -> None:
        self._clock = clock
        self._backlog = backlog
        self._seq = 0
        self._recent: deque[Event] = deque(maxlen=backlog)
        self._watchers: set[Watcher] = set()
        self._closed = False

    def publish(self, kind: str, **fields: Plain) -> None:
        self._seq += 1
        event = Event(seq=self._seq, time=round(self._clock.wall(), 3), kind=kind, fields=fields)
        self._recent.append(event)
        for watcher in self._watchers:
            watcher.push(event)

    @contextmanager
    def watch(self, since: int | None = None) -> Iterator[Watcher]:
        """A watcher; `since` replays kept events with a higher `seq` first (0 = all that are kept)."""
        watcher = Watcher(self._backlog)
        if since is not None:
            for event in self._recent:
                if event.seq > since:
                    watcher.push(event)
        self._watchers.add(watcher)
        if self._closed:
            watcher.close()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """End all watchers: the daemon stops."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()
