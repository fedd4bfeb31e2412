"""The supervisor: the only reconnect loop of the program.

A part (a device, the connection to the peer, the link, the hand-over to the KMS) is a coroutine function that lives once:
connect, say `up()`, run until something fails, raise. The supervisor starts it, and starts it again after a pause that doubles
up to a limit, with jitter so that two nodes do not knock at the same moment for ever. It logs once per cause when the part goes
down and once when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.config import Section
from qkdd.core.counters import Meter
from qkdd.core.errors import InternalError, Kind, QkddError
from qkdd.core.units import Seconds
from qkdd.node.errors import PartEnded
from qkdd.node.health import HEARTBEAT_S, Health

_log = log.get("node")


class BackoffConfig(Section, frozen=True):
    """[node.backoff]: pauses between attempts. A part that was up for `settle` starts again with the first pause."""

    first: Seconds = Seconds(0.5)
    longest: Seconds = Seconds(30.0)
    factor: float = 2.0
    jitter: float = 0.3  # the pause is shortened by up to this share, at random
    settle: Seconds = Seconds(10.0)


class State(StrEnum):
    CONNECTING = "connecting"
    UP = "up"
    WAITING = "waiting"  # until the next attempt
    TRIPPED = "tripped"  # an interlock: waits for the operator
    STOPPED = "stopped"


class Publish(Protocol):
    """Where events go (`qkdd.control.events.EventHub.publish`)."""

    def __call__(self, kind: str, **fields: str | float | bool | None) -> None: ...


Life = Callable[[Callable[[], None]], Awaitable[None]]


@dataclass(slots=True)
class Part:
    """One supervised part, as it is now. Written by the supervisor only."""

    name: str
    kind: str  # first word of its events: "device", "peer", "link", "kms"
    life: Life
    patience: float
    state: State = State.CONNECTING
    since: float = 0.0
    attempts: int = 0
    failures_in_a_row: int = 0
    next_attempt: float | None = None
    error: QkddError | None = None
    causes: set[str] = field(default_factory=set)
    kick: asyncio.Event = field(default_factory=asyncio.Event)
    was_up: bool = False


@dataclass(slots=True)
class ErrorTally:
    """How often a code came up, and the last time in full."""

    count: int
    time: float
    part: str
    error: QkddError


class Supervisor:
    """Runs parts until stopped. `random` gives numbers in [0, 1): the jitter is no secret."""

    def __init__(
        self,
        clock: Clock,
        meter: Meter,
        health: Health,
        publish: Publish,
        random: Callable[[], float],
        backoff: BackoffConfig | None = None,
    ) -> None:
        self._clock, self._meter, self._health, self._publish = clock, meter, health, publish
        self._random = random
        self._backoff = backoff or BackoffConfig()
        self.parts: dict[str, Part] = {}
        self.tally: dict[str, ErrorTally] = {}
        self.on_interlock: Callable[[QkddError], None] = lambda _error: None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, name: str, kind: str, life: Life, *, patience: float = 60.0) -> Part:
        """Start to supervise `life` under `name`. While it connects or runs it must beat every `patience` seconds."""
        if name in self.parts:
            raise InternalError(f"two parts are called {name}")
        part = Part(name, kind, life, patience, since=self._clock.monotonic())
        self.parts[name] = part
        self._health.expect(name, patience)
        self._meter.set("qkdd_part_up", 0, part=name)
        self._tasks[name] = asyncio.create_task(self._keep(part), name=f"part {name}")
        return part

    def note(self, part: str, error: QkddError) -> None:
        """Count an error that is not the end of a part (a refused block, a failed calibration)."""
        code = error.code or InternalError.code
        entry = self.tally.get(code)
        self.tally[code] = ErrorTally((entry.count if entry else 0) + 1, self._clock.wall(), part, error)
        self._meter.add("qkdd_errors_total", code=code)

    def kick(self, *names: str) -> None:
        """Try now instead of waiting: after a reload or an operator's `resume`. Clears tripped interlocks."""
        for name in names or tuple(self.parts):
            self.parts[name].kick.set()

    async def stop(self, *names: str) -> None:
        """Cancel the named parts (default: all, last added first) one by one and wait until each has cleaned up."""
        for name in names or tuple(reversed(self.parts)):
            task = self._tasks.pop(name, None)
            if task is None:
                continue
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            if isinstance(results[0], Exception):
                _log.error("part failed while stopping", part=name, **log.error_fields(results[0]))
            self._health.dismiss(name)
            self._enter(self.parts[name], State.STOPPED)

    def forget(self, name: str) -> None:
        """Drop a stopped part, so that its name is free again."""
        if name not in self._tasks:
            self.parts.pop(name, None)

    # --- one part's loop -----------------------------------------------------------------------------------------------

    async def _keep(self, part: Part) -> None:
        while True:
            error = await self._live_once(part)
            self._note_down(part, error)
            if error.kind is Kind.INTERLOCK:
                self._enter(part, State.TRIPPED)
                self.on_interlock(error)
                await self._wait(part, None)
            else:
                pause = self._pause(part, error)
                part.next_attempt = self._clock.monotonic() + pause
                self._enter(part, State.WAITING)
                await self._wait(part, pause)
            part.next_attempt = None

    async def _live_once(self, part: Part) -> QkddError:
        """One life; returns how it ended. Cancellation passes through."""
        part.attempts += 1
        part.was_up = False
        part.kick.clear()
        self._health.beat(part.name)
        self._enter(part, State.CONNECTING)
        try:
            await part.life(lambda: self._note_up(part))
        except QkddError as error:
            return error
        except (OSError, EOFError, TimeoutError) as error:  # a room let an operating-system error through
            return PartEnded(f"{part.name}: {type(error).__name__}: {error}")
        except Exception as error:
            _log.exception("defect in a part", part=part.name)
            return InternalError(f"{part.name}: {type(error).__name__}: {error}")
        return PartEnded(f"{part.name} ended")

    def _pause(self, part: Part, error: QkddError) -> float:
        b = self._backoff
        if part.was_up and self._clock.monotonic() - part.since >= b.settle:
            part.failures_in_a_row = 0
        pause = min(float(b.longest), b.first * b.factor ** min(part.failures_in_a_row, 64))
        if error.kind is Kind.PERMANENT:
            pause = float(b.longest)  # a person must act first; look now and then, so that it heals by itself
        part.failures_in_a_row += 1
        return pause * (1.0 - b.jitter * self._random())

    async def _wait(self, part: Part, pause: float | None) -> None:
        """Sleep until the pause is over or the part is kicked, beating meanwhile."""
        end = None if pause is None else self._clock.monotonic() + pause
        while not part.kick.is_set():
            left = HEARTBEAT_S if end is None else min(HEARTBEAT_S, end - self._clock.monotonic())
            if left < 1e-6:  # what rounding leaves over
                return
            self._health.beat(part.name)
            try:
                async with self._clock.deadline(left):
                    await part.kick.wait()
            except TimeoutError:
                continue

    # --- once down, once up --------------------------------------------------------------------------------------------

    def _note_up(self, part: Part) -> None:
        self._health.beat(part.name)
        if part.state is State.UP:
            return
        part.was_up = True
        part.error = None
        part.causes.clear()
        self._enter(part, State.UP)
        self._meter.set("qkdd_part_up", 1, part=part.name)
        if part.attempts > 1:
            self._meter.add("qkdd_part_reconnects_total", part=part.name)
        _log.info(f"{part.kind} up", part=part.name, attempts=part.attempts)
        self._publish(f"{part.kind}.up", part=part.name, attempts=part.attempts)

    def _note_down(self, part: Part, error: QkddError) -> None:
        part.error = error
        self.note(part.name, error)
        self._meter.set("qkdd_part_up", 0, part=part.name)
        self._meter.add("qkdd_part_failures_total", part=part.name, code=error.code)
        if error.code in part.causes:
            return
        part.causes.add(error.code)
        _log.warning(f"{part.kind} down", part=part.name, **log.error_fields(error))
        self._publish(f"{part.kind}.down", part=part.name, code=error.code, message=error.message)

    def _enter(self, part: Part, state: State) -> None:
        if part.state is not state:
            part.state = state
            part.since = self._clock.monotonic()
