"""One worker thread per bus: blocking calls happen there, one at a time, and never in the event loop.

A call that is cancelled while it waits is dropped; one that runs is finished by its own hard time-out, so an exchange
(question and answer in one call) is never torn. A call that breaks its promise and hangs makes the bus unusable: the thread
is abandoned, every later call fails, and `close` does not wait for it. What can really hang (a vendor's library) belongs
into a process of its own behind a link.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device import errors
from qkdd.device.transport import (
    Busy,
    Crashed,
    Denied,
    FrameError,
    Gone,
    Hung,
    Link,
    LinkFailure,
    Overrun,
    Refused,
    Stranger,
    TimedOut,
    Unusable,
)

L = TypeVar("L", bound=Link)
T = TypeVar("T")

_GRACE = 2.0  # seconds by which a call may miss its own time-out before the bus is given up
_URGENT, _NORMAL, _LAST = 0, 1, 2


@dataclass(order=True)
class _Job:
    priority: int
    number: int
    call: Callable[[], Any] | None = field(compare=False)  # None ends the thread
    future: Future[Any] = field(compare=False, default_factory=Future)
    started: Future[None] = field(compare=False, default_factory=Future)

    def begin(self) -> bool:
        """False when the caller has gone in the meantime."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if self.started.set_running_or_notify_cancel():
            self.started.set_result(None)
        return True


class Bus(Generic[L]):
    """The thread that owns one link. The constructor does no I/O and starts no thread."""

    def __init__(self, link: L, device: str, clock: Clock, meter: Meter) -> None:
        self._link, self._device, self._clock, self._meter = link, device, clock, meter
        self._queue: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._stuck = False

    @property
    def key(self) -> str:
        """Names the bus in errors."""
        return self._link.key

    @property
    def is_open(self) -> bool:
        return self._thread is not None

    async def open(self, timeout: float = 5.0) -> None:
        """Start the thread and open the link in it; a failure leaves neither behind."""
        if self._thread is not None:
            return
        self._queue = queue.PriorityQueue()
        self._stuck = False
        self._thread = threading.Thread(target=self._work, args=(self._queue,), name=f"bus {self.key}", daemon=True)
        self._thread.start()
        try:
            # a link with a process of its own starts it first, which is no silence of the instrument
            starting = float(getattr(self._link, "start_time", 0.0))
            await self.run("open", lambda link: link.open(timeout), timeout + starting)
        except BaseException:
            await self.close()
            raise

    async def run(self, operation: str, call: Callable[[L], T], timeout: float, *, urgent: bool = False) -> T:
        """Run `call(link)` in the thread. `timeout` is what the call promises to keep; `urgent` goes ahead of the queue.

        Raises the DeviceError that belongs to what the call raised.
        """
        if self._thread is None:
            raise errors.NotOpen(self._device, self.key, operation, "the bus is not open")
        if self._stuck:
            raise errors.DeviceOffline(self._device, self.key, operation, "an earlier call hangs; the bus was given up")
        job = _Job(_URGENT if urgent else _NORMAL, next(self._numbers), lambda: call(self._link))
        self._queue.put(job)
        try:
            return await self._result(job, timeout)  # type: ignore[no-any-return]  # the call's own type
        except (LinkFailure, FrameError, Refused, Stranger) as failure:
            error = self._translate(failure, operation)
            _let_go(failure)
        self._meter.add("qkdd_device_errors_total", device=self._device, code=error.code)
        if isinstance(error, errors.DeviceHung | errors.DeviceCrashed):
            self._meter.add("qkdd_device_process_ends_total", device=self._device, code=error.code)
        raise error

    async def close(self) -> None:
        """Close the link and end the thread. Idempotent. An abandoned thread closes the link when it comes back."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        last = _Job(_LAST, next(self._numbers), None)
        self._queue.put(last)
        if self._stuck:
            return
        ended = asyncio.wrap_future(last.future)
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:  # a cancelled caller must not leave the line open
            await ended
            raise
        finally:
            thread.join(_GRACE)  # the thread has only to return

    async def _result(self, job: _Job, timeout: float) -> Any:
        waiting = asyncio.wrap_future(job.future)
        try:
            await asyncio.wrap_future(job.started)
            async with self._clock.deadline(timeout + _GRACE):
                return await waiting
        except TimeoutError:
            if waiting.done() and not waiting.cancelled():
                raise  # the call itself raised it
            self._stuck = True
            self._fail_waiting()
            raise TimedOut(f"the call hangs; its thread was given up after {timeout + _GRACE:g} s") from None
        finally:
            if not waiting.done():
                waiting.cancel()  # drops the call if it has not begun
            elif not waiting.cancelled():
                waiting.exception()  # seen: a call that was given up must not complain later

    def _fail_waiting(self) -> None:
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return
            if job.call is not None and job.begin():
                job.future.set_exception(Gone("an earlier call hangs; the bus was given up"))

    def _work(self, jobs: queue.PriorityQueue[_Job]) -> None:
        while (job := jobs.get()).call is not None:
            if not job.begin():
                continue
            try:
                job.future.set_result(job.call())
            except BaseException as error:
                job.future.set_exception(error)
            del job  # holds the result, which may be large
        self._link.close()
        if job.future.set_running_or_notify_cancel():
            job.future.set_result(None)

    def _translate(self, failure: Exception, operation: str) -> errors.DeviceError:
        kind: type[errors.DeviceError]
        match failure:
            case Crashed():
                kind = errors.DeviceCrashed
            case Unusable():
                kind = errors.VendorUnusable
            case Overrun():
                kind = errors.TagsLost
            case Gone():
                kind = errors.DeviceOffline
            case Hung():
                kind = errors.DeviceHung
            case TimedOut():
                kind = errors.DeviceTimeout
            case Busy():
                kind = errors.BusBusy
            case Denied():
                kind = errors.AccessDenied
            case Stranger():
                kind = errors.WrongDevice
            case Refused():
                kind = errors.CommandRefused
            case _:
                kind = errors.ProtocolError
        text = str(failure)
        hint = getattr(self._link, "hint", "")
        if (
            hint
            and operation == "identify"
            and kind in (errors.DeviceTimeout, errors.ProtocolError, errors.WrongDevice)
        ):
            text += f" ({hint})"  # a rate that is set otherwise at the instrument looks like silence or noise
        return kind(self._device, self.key, operation, text)


def _let_go(failure: BaseException | None) -> None:
    """Drop the frames: they hold what the call worked on (a mapping, a buffer), and errors are kept, for status and counts."""
    while failure is not None:
        failure.__traceback__ = None
        failure = failure.__context__
