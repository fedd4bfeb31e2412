"""Heartbeats of the node's parts, and the watchdog that is fed only while all of them beat."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.notify import sd_notify, watchdog_interval
from qkdd.node.errors import PartStalled

T = TypeVar("T")
_log = log.get("node")
HEARTBEAT_S = 1.0  # how often a part beats that has nothing else to do
CHECK_S = 5.0  # how often stalled parts are looked for when no watchdog is set


async def beating(waiting: Coroutine[object, object, T], beat: Callable[[], None], clock: Clock) -> T:
    """Await what may rightly take long (the other node, the operator), beating all the while."""
    task = asyncio.create_task(waiting)
    beats = asyncio.create_task(_beat(beat, clock))
    try:
        await asyncio.wait({task, beats}, return_when=asyncio.FIRST_COMPLETED)
        return task.result()
    finally:
        for one in (task, beats):
            one.cancel()
        await asyncio.gather(task, beats, return_exceptions=True)


async def _beat(beat: Callable[[], None], clock: Clock) -> None:
    while True:
        beat()
        await clock.sleep(HEARTBEAT_S)


@dataclass(slots=True)
class _Pulse:
    patience: float
    last: float
    stalled: bool = False


class Health:
    """Last sign of life of each part. A part that is silent for longer than its patience has stalled."""

    def __init__(self, clock: Clock, meter: Meter) -> None:
        self._clock = clock
        self._meter = meter
        self._parts: dict[str, _Pulse] = {}

    def expect(self, part: str, patience: float) -> None:
        """From now on `part` must beat at least every `patience` seconds."""
        self._parts[part] = _Pulse(patience, self._clock.monotonic())

    def dismiss(self, part: str) -> None:
        """The part ended in order."""
        self._parts.pop(part, None)

    def beat(self, part: str) -> None:
        pulse = self._parts.get(part)
        if pulse is not None:
            pulse.last = self._clock.monotonic()

    def beater(self, part: str) -> Callable[[], None]:
        """`beat` for one part, to hand to those who know no names."""
        return lambda: self.beat(part)

    def age(self, part: str) -> float:
        pulse = self._parts.get(part)
        return self._clock.monotonic() - pulse.last if pulse is not None else 0.0

    def check(self) -> list[str]:
        """Names of the stalled parts. Logs each once when it stalls and once when it beats again; sets the metric."""
        stalled = []
        for name, pulse in self._parts.items():
            age = self._clock.monotonic() - pulse.last
            self._meter.set("qkdd_part_heartbeat_age_seconds", age, part=name)
            late = age > pulse.patience
            if late and not pulse.stalled:
                error = PartStalled(f"{name} has not reported for {age:.0f} s", part=name)
                self._meter.add("qkdd_errors_total", code=error.code)
                _log.error("part stalled", **log.error_fields(error))
            elif pulse.stalled and not late:
                _log.info("part reports again", part=name)
            pulse.stalled = late
            if late:
                stalled.append(name)
        return stalled

    def is_stalled(self, part: str) -> bool:
        pulse = self._parts.get(part)
        return pulse is not None and self._clock.monotonic() - pulse.last > pulse.patience


class ServiceManager:
    """READY, STATUS, STOPPING and the watchdog towards systemd (sd_notify(3)). Silent when nobody listens."""

    def __init__(self, clock: Clock, health: Health) -> None:
        self._clock = clock
        self._health = health
        self._status = ""

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        # RELOADING=1 asks for MONOTONIC_USEC since systemd 253 (Type=notify-reload); 252 ignores it
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic() * 1e6)}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent only when it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, *fields: str) -> None:
        try:
            sd_notify(*fields)
        except OSError as error:
            _log.warning("service manager cannot be reached", socket=os.environ.get("NOTIFY_SOCKET"), error=str(error))

    async def watch(self) -> None:
        """Feed the watchdog for ever, but only while every part beats."""
        interval = watchdog_interval()
        while True:
            if not self._health.check() and interval is not None:
                self._send("WATCHDOG=1")
            await self._clock.sleep(interval if interval is not None else CHECK_S)
