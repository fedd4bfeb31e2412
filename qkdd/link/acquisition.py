"""Takes the clicks of one node from its tagger, all the time, into a bounded memory with an account of what is missing.

The memory is bounded in time. When the link falls behind, the oldest clicks are dropped and counted, and their stretch is
marked, so a block that needs them is refused; the acquisition itself never stops.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device.roles import TimeTagger
from qkdd.device.tags import StreamStart, TagBlock
from qkdd.link.config import DETECTORS
from qkdd.link.errors import RegisterTimeout, TagsLost
from qkdd.link.events import Clicks

_NO_DETECTOR = 255
_CLICKS_LIMIT = 200_000_000  # about 2 GB: a memory bound that no real detector array reaches first


@dataclass(frozen=True, slots=True)
class Trouble:
    """A stretch (ps) whose clicks are not to be trusted, with the clicks known to be lost and the reasons."""

    start: int
    stop: int
    lost: int
    reasons: tuple[str, ...]


class Acquisition:
    """One tagger's stream, cut into stretches on demand. `start`, `take` and `wait_until` belong to one event loop."""

    def __init__(
        self,
        tagger: TimeTagger,
        channels: dict[str, int],
        clock: Clock,
        meter: Meter,
        link: str,
        keep_ps: int,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        """keep_ps: how much of the stream is remembered. heartbeat: called after every read of the tagger."""
        self._tagger, self._clock, self._meter, self._link = tagger, clock, meter, link
        self._keep_ps, self._heartbeat = keep_ps, heartbeat
        self._detector_of = np.full(256, _NO_DETECTOR, np.uint8)
        for detector, name in enumerate(DETECTORS):
            self._detector_of[channels[name]] = detector
        self._chunks: deque[tuple[int, int, Clicks]] = deque()  # (start, stop, clicks in [start, stop))
        self._count = 0
        self._troubles: deque[Trouble] = deque()
        self._until = self._kept_from = 0
        self._read_at = 0.0
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self.stream: StreamStart | None = None
        self.dropped = 0  # clicks dropped because nobody took them in time

    @property
    def failure(self) -> BaseException | None:
        """What ended the reading; None while it goes on."""
        return self._failure

    async def failed(self) -> BaseException:
        """Wait until the reading has ended by an error, and return it."""
        while self._failure is None:
            await self._moved.wait()
        return self._failure

    @property
    def until(self) -> int:
        """The stream is complete up to here, ps."""
        return self._until

    @property
    def kept_from(self) -> int:
        """The oldest moment that is still remembered, ps."""
        return self._kept_from

    def position(self) -> int:
        """Where the stream is about now, ps: the last read's end plus the time since. Good to some 100 ms.

        It rests on the stream itself, not on the time of its start, so a rollover that the tagger missed is in it.
        """
        return self._until + round((self._clock.monotonic() - self._read_at) * 1e12)

    async def start(self) -> None:
        """Start the tagger and the reading task."""
        self.stream = await self._tagger.start()
        self._read_at = self._clock.monotonic()
        self._task = asyncio.create_task(self._run(), name=f"acquisition {self._link}")

    async def stop(self) -> None:
        """Stop reading and the tagger; idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        await self._tagger.stop()

    async def _run(self) -> None:
        try:
            while True:
                self._admit(await self._tagger.read())
                self._heartbeat()
        except BaseException as error:  # handed to whoever waits for clicks; a cancelled task has no waiters
            self._failure = error
            self._moved.set()
            if isinstance(error, asyncio.CancelledError):
                raise

    def _admit(self, block: TagBlock) -> None:
        start, stop = self._until, max(block.until, self._until)
        faults = list(block.faults)
        times = block.times
        in_order = len(times) == 0 or (
            int(times[0]) >= start and int(times[-1]) <= stop and bool(np.all(times[1:] >= times[:-1]))
        )
        if block.until < start or not in_order:
            faults.append("QKD-LNK-STREAM-SLIPPED")  # a reason inside QKD-BLK-TAGS-LOST
        if block.lost or faults:
            # never empty: a stream that went backwards spoils at least the block that begins here
            self._troubles.append(Trouble(start, max(stop, start + 1), block.lost, tuple(faults)))
            self._meter.add("qkdd_link_tags_lost_total", max(block.lost, 1), link=self._link)
        if in_order:
            detectors = self._detector_of[block.channels]
            wanted = detectors != _NO_DETECTOR
            clicks = Clicks(times, detectors) if wanted.all() else Clicks(times[wanted], detectors[wanted])
            self._chunks.append((start, stop, clicks))
            self._count += len(clicks)
            self._meter.add("qkdd_link_clicks_total", len(clicks), link=self._link)
        self._until, self._read_at = stop, self._clock.monotonic()
        self._forget_before(stop - self._keep_ps, dropping=True)
        while self._count > _CLICKS_LIMIT:
            self._forget_before(self._chunks[0][1], dropping=True)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _forget_before(self, moment: int, *, dropping: bool) -> None:
        while self._chunks and self._chunks[0][1] <= moment:
            _, stop, clicks = self._chunks.popleft()
            self._count -= len(clicks)
            self._kept_from = stop
            if dropping and len(clicks):
                self.dropped += len(clicks)
        self._kept_from = max(self._kept_from, min(moment, self._chunks[0][0] if self._chunks else moment))
        while self._troubles and self._troubles[0].stop <= self._kept_from:
            self._troubles.popleft()

    def release(self, moment: int) -> None:
        """Clicks before `moment` (ps) are no longer needed."""
        self._forget_before(min(moment, self._until), dropping=False)

    async def wait_until(self, moment: int, timeout: float) -> None:
        """Return when the stream is complete up to `moment` (ps).

        Raises what the tagger raised, or RegisterTimeout after `timeout` seconds.
        """
        try:
            async with self._clock.deadline(timeout):
                while self._until < moment:
                    if self._failure is not None:
                        raise self._failure
                    await self._moved.wait()
        except TimeoutError:
            raise RegisterTimeout(
                f"link {self._link}: the tag stream is {(moment - self._until) * 1e-12:.3f} s behind after {timeout:.1f} s"
            ) from None

    def take(self, start: int, stop: int) -> Clicks:
        """Clicks in [start, stop), ps. Raises TagsLost when any of them is missing or doubtful."""
        if start < self._kept_from:
            raise TagsLost(
                f"link {self._link}: clicks {(self._kept_from - start) * 1e-12:.3f} s too old were dropped (buffer full)",
                cause="buffer",
            )
        for trouble in self._troubles:
            if trouble.start < stop and trouble.stop > start:
                raise TagsLost(
                    f"link {self._link}: {trouble.lost} clicks known lost, {', '.join(trouble.reasons) or 'no code'}",
                    lost=trouble.lost,
                    cause=",".join(trouble.reasons),
                )
        parts = [clicks for first, last, clicks in self._chunks if first <= stop and last >= start]
        if not parts:
            return Clicks(np.empty(0, np.int64), np.empty(0, np.uint8))
        times = np.concatenate([part.times for part in parts])
        inside = slice(*np.searchsorted(times, (start, stop)))
        return Clicks(times[inside], np.concatenate([part.detectors for part in parts])[inside])
