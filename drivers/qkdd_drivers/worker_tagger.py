"""What taggers share whose vendor's code lives in a worker process: role TimeTagger over `qkdd.device.worker_link`.

Tags wait in the ring in shared memory and are decoded where they lie, in the bus's thread, when `read` asks for them.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.device import errors, hints
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver
from qkdd.device.roles import Identity
from qkdd.device.tags import StreamStart, TagBlock, in_order
from qkdd.device.transport import ByteLink, FrameError, TimedOut
from qkdd.device.worker_link import TagLink, WorkerClient

Clicks = tuple[NDArray[np.int64], NDArray[np.uint8], int]
"""Times in ps, channels, and the time up to which the stream is complete."""

_CADENCE = 0.05  # seconds between two blocks given out
_WAIT = 0.05  # seconds that a look into the ring waits for the first tag
_MOST = (
    1 << 22
)  # bytes of records in one block: what fits into the caches is decoded faster; the rest comes with the next
_ASK_AFTER = 2.0  # seconds of silence after which an instrument that may be silent is asked whether it is alive
_LOOK = 10.0  # seconds in which the usual folders are looked through for a library
_GRACE = 0.5  # seconds that a call may take longer here than the worker's answer


class WorkerTagger(Driver):
    """Base of such drivers: gives start, read, stop; wants `_arguments`, `_decode`, `_identified`."""

    open_time: ClassVar[float] = 12.0
    """Seconds in which the vendor's code must have opened the instrument."""

    answer_time: ClassVar[float] = 2.0
    """Seconds for every other call; a call that takes longer costs the process."""

    silence: ClassVar[float | None] = 2.0
    """Seconds without any record after which the instrument counts as dead; None: it is silent when nothing clicks."""

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._client = WorkerClient(clock)
        self.begin_arguments: dict[str, Any] = {}
        self._at_work = False
        self._streaming = False
        self._ready: deque[TagBlock] = deque()
        self._until = 0
        self._silent_since = self._last_return = 0.0
        self._more = False

    # What a driver writes

    @abc.abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """What the adapter needs to open the instrument."""

    @abc.abstractmethod
    def _identified(self, told: dict[str, Any]) -> Identity:
        """Identity from the adapter's `do_identity`; remembers what else it tells. Raises WrongDevice."""

    @abc.abstractmethod
    def _began(self, told: Any) -> None:
        """A stream began: what `_decode` carries from one call to the next starts anew. Runs in the bus's thread."""

    @abc.abstractmethod
    def _decode(self, records: NDArray[np.uint8]) -> Clicks:
        """Records as bytes, a whole number of them, a view that is not valid afterwards. Runs in the bus's thread."""

    # Calls

    async def call(self, verb: str, *, operation: str = "", urgent: bool = False, **arguments: Any) -> Any:
        """One call of the adapter: `do_VERB(**arguments)`."""
        return await self.run(
            operation or verb,
            lambda link: self._client.ask(link, verb, self.answer_time, **arguments),
            self.answer_time + _GRACE,
            urgent=urgent,
        )

    async def _connect(self) -> Identity:
        self._client.forget()
        self._at_work = self._streaming = False
        return await super()._connect()

    async def _identify(self) -> Identity:
        if not self._at_work:
            arguments = self._arguments()
            try:
                await self.run(
                    "open",
                    lambda link: self._client.ask(link, "open", self.open_time, **arguments),
                    self.open_time + _GRACE,
                )
            except errors.VendorUnusable as error:
                path = self.config.library
                if not path or f"{path}: cannot open shared object file" not in error.problem:
                    raise  # also when one is missing that it needs: then the linker's words name that
                # in the bus's thread: it looks through folders
                where = await self.run("open", lambda _: hints.where_libraries_are(path), _LOOK)
                problem = f"there is no library {path} ({where})"
                raise self.error(errors.VendorUnusable, "open", problem) from None
            self._at_work = True
        return self._identified(await self.call("identity", operation="identify", urgent=True))

    async def _ping(self) -> None:
        await self.call("ping", urgent=True)

    async def _make_safe(self) -> None:
        await self.stop()

    # Role TimeTagger

    async def start(self) -> StreamStart:
        """Begin a stream; its tags count from the instrument's own start, a few milliseconds around the stamp."""
        self.require_open("start")
        await self.stop()

        def begin(link: ByteLink) -> None:
            cast(TagLink, link).fresh()
            self._client.begin()
            self._ready.clear()
            self._until = 0
            self._began(self._client.ask(link, "begin", self.answer_time, **self.begin_arguments))

        await self.run("start", begin, self.answer_time + _GRACE)
        stamp = StreamStart(self._clock.wall(), self._clock.monotonic())
        self._silent_since = self._last_return = stamp.monotonic
        self._streaming = True
        return stamp

    async def read(self) -> TagBlock:
        """What has come since the last call. Raises when the stream ended, or when the instrument is dead."""
        if not self._streaming:
            raise self.error(errors.NotOpen, "read tags", "no stream was started")
        pause = self._last_return + _CADENCE - self._clock.monotonic()
        if pause > 0 and not self._more:
            await self._clock.sleep(pause)
        # the thread leaves blocks in `_ready`, so that a call that is cancelled loses none
        await self.run("read tags", self._fetch, _WAIT + self.answer_time + _GRACE)
        self._last_return = self._clock.monotonic()
        block = _joined(self._ready)
        self._ready.clear()
        self._meter.add("qkdd_tagger_tags_total", len(block), device=self.name)
        if block.lost:
            self._meter.add("qkdd_tagger_tags_lost_total", block.lost, device=self.name)
        if block.reordered:
            self._meter.add("qkdd_tagger_reordered_total", block.reordered, device=self.name)
        for code in block.faults:
            self._meter.add("qkdd_tagger_faults_total", device=self.name, code=code)
        return block

    async def stop(self) -> None:
        """End the stream; the instrument stays open. Idempotent."""
        if self._streaming:
            self._streaming = False
            await self.call("end", operation="stop")

    def _fetch(self, link: ByteLink) -> None:
        tags = cast(TagLink, link)
        done = 0
        while done < _MOST:
            view = tags.tags(0.0 if done else _WAIT)[: _MOST - done]
            count = len(view)
            if not count:
                break
            try:
                times, channels, self._until = self._decode(view)
            except QkddError as error:  # a kernel refuses what no instrument makes
                raise FrameError(error.message) from None
            tags.free(count)
            done += count
            times, channels, reordered = in_order(times, channels)
            self._ready.append(TagBlock(times, channels, self._until, reordered=reordered))
        self._more = done >= _MOST
        lost = tags.lost()
        if lost or not self._ready:
            faults = (errors.TagsLost.code,) if lost else ()
            empty = TagBlock(np.empty(0, np.int64), np.empty(0, np.uint8), self._until, lost, faults)
            self._ready.append(empty)
        if done:
            self._silent_since = self._clock.monotonic()
        else:
            self._question(link)

    def _question(self, link: ByteLink) -> None:
        """Nothing came: has the stream ended, or the instrument died?"""
        self._client.listen(link)
        silent = self._clock.monotonic() - self._silent_since
        if silent > (_ASK_AFTER if self.silence is None else self.silence):
            # a call that hangs is told from an instrument that has nothing to say
            self._client.ask(link, "ping", self.answer_time)
            if self.silence is not None:
                raise TimedOut(f"neither tags nor marks for {silent:.1f} s")
            self._silent_since = self._clock.monotonic()


def _joined(blocks: Sequence[TagBlock]) -> TagBlock:
    if len(blocks) == 1:
        return blocks[0]
    return TagBlock(
        np.concatenate([block.times for block in blocks]),
        np.concatenate([block.channels for block in blocks]),
        blocks[-1].until,
        sum(block.lost for block in blocks),
        tuple(sorted({code for block in blocks for code in block.faults})),
        sum(block.reordered for block in blocks),
    )
