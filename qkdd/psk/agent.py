"""What both ends do alike: hold the state, keep the program on the right key, and act when the key is too old."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError, StorageFailed
from qkdd.psk.config import AgentConfig
from qkdd.psk.errors import TargetFailed
from qkdd.psk.keys import AgreedKey
from qkdd.psk.kms_client import KeySource
from qkdd.psk.state import State

_LOG = log.get("psk")
TICK = 1.0
_LOOK_EVERY = 5  # ticks between two looks at the program


class Target(Protocol):
    """The program that uses the keys. Every call may be repeated and raises TargetFailed."""

    @property
    def purpose(self) -> str:
        """Name of the sub-command; both ends must have the same."""

    @property
    def exclusive(self) -> bool:
        """Whether it holds one key only, so that both ends must change at one time."""

    async def prepare(self, key: AgreedKey) -> None:
        """From now on the other end may use this key; look whether it could be used here."""

    async def use(self, key: AgreedKey, previous: AgreedKey | None) -> None:
        """Use this key for what begins now; no others than these two are needed any more."""

    async def holds(self, key: AgreedKey) -> bool:
        """Whether it would still use this key (it may have been started anew)."""

    async def block(self) -> None:
        """Nothing may pass any more until the next `use`."""

    async def blocked(self) -> bool:
        """Whether `block` still holds."""

    async def last_handshake(self) -> int:
        """Changes with every handshake that both ends made under the same key; 0 before the first."""

    async def close(self) -> None: ...


class Store(Protocol):
    """Implemented by `qkdd.psk.state.StateFile`."""

    async def load(self) -> State:
        """Raises StateBroken, StorageFailed."""

    async def save(self, state: State) -> None:
        """Durable when it returns. Raises StorageFailed."""


class Status(msgspec.Struct, frozen=True):
    """What an operator sees; no secret. `key_id` None: there was none yet. Times in seconds."""

    purpose: str
    role: str
    key_id: str | None
    key_age: float
    agreed: bool
    in_doubt: bool
    partner_up: bool
    old_key: bool
    torn_down: bool
    rotations: int
    last_failure: str | None
    written: float


class Agent:
    """Base of `Initiator` and `Responder`. `await open()`, then `run()`; `rotated` is set at each change of the key."""

    role = ""
    asks = False  # whether this end asks for a new key each period

    def __init__(
        self, config: AgentConfig, *, kms: KeySource, store: Store, target: Target, clock: Clock, meter: Meter
    ) -> None:
        self._config, self._kms, self._store = config, kms, store
        self._target, self._clock, self._meter = target, clock, meter
        self._lock = asyncio.Lock()  # state and program change together
        self.state = State()
        self._wanted: AgreedKey | None = None
        self._since = clock.monotonic()
        self._agreed = self._partner_up = self._old = self._torn_down = False
        self._target_down = False
        self._failure: str | None = None
        self._ticks = 0
        self._rotations = 0
        self.rotated = asyncio.Event()

    async def open(self) -> None:
        """Read the state and bring the program to it. Raises StateBroken, StorageFailed."""
        self.state = await self._store.load()
        current = self.state.current
        if current is not None:
            self._since = self._clock.monotonic() - max(0.0, self._clock.wall() - current.made)
            async with self._lock:
                if self._config.on_old_key != "tear-down" or self.key_age <= self._config.max_age:
                    await self._use(current)
                for other in (self.state.previous, self.state.next):
                    if other is not None and not self._target.exclusive:
                        await self._guarded(self._target.prepare(other))
        await self._tick()

    @property
    def key_age(self) -> float:
        """Of the key in use; since the start when there is none."""
        return self._clock.monotonic() - self._since

    def status(self) -> Status:
        current = self.state.current
        return Status(
            purpose=self._target.purpose,
            role=self.role,
            key_id=current.key_id if current is not None else None,
            key_age=round(self.key_age, 3),
            agreed=self._agreed,
            in_doubt=self.state.next is not None,
            partner_up=self._partner_up,
            old_key=self._old,
            torn_down=self._torn_down,
            rotations=self._rotations,
            last_failure=self._failure,
            written=self._clock.wall(),
        )

    async def upkeep(self) -> None:
        """For ever: age, the program's key, and what an end does in doubt."""
        while True:
            await self._clock.sleep(TICK)
            await self._tick()

    async def close(self) -> None:
        await self._kms.close()
        await self._target.close()

    # Under the lock

    async def _save(self, state: State) -> None:
        """Durable before anything depends on it. Raises StorageFailed when the file says that nothing was written."""
        try:
            await self._store.save(state)
        except StorageFailed as error:
            # what the file says is what counts after a restart, and so it counts now
            if (await self._store.load()).ids() != state.ids():
                raise
            _LOG.error("state written, with an error", **log.error_fields(error))
        self.state = state

    async def _switch(self, key: AgreedKey) -> None:
        """`key` becomes the current one, durably, and then the program's. A program that is away gets it from `_tick`."""
        # a program that holds one key needs no earlier one, and what is not kept cannot be found
        previous = None if self._target.exclusive else self.state.current
        await self._save(State(current=key, previous=previous, next=None))
        self._since = self._clock.monotonic()
        self._rotations += 1
        self._meter.add("qkdd_psk_rotations_total")
        self._failure = None
        await self._use(key)
        _LOG.info("key changed", key_id=key.key_id, purpose=self._target.purpose)
        self.rotated.set()

    async def _use(self, key: AgreedKey) -> None:
        self._wanted = key
        if await self._guarded(self._target.use(key, self._other(key))):
            self._torn_down = False

    def _other(self, key: AgreedKey) -> AgreedKey | None:
        """The key that the other end may use instead of this one."""
        current, coming = self.state.current, self.state.next
        if coming is not None:
            return current if key is coming else coming
        return self.state.previous

    async def _guarded(self, work: object) -> bool:
        """Whether the program took it; says once that it is away and once that it is back."""
        try:
            await work  # type: ignore[misc]  # a coroutine of Target
        except TargetFailed as error:
            if not self._target_down:
                _LOG.error("the program does not take its key", **log.error_fields(error))
            self._target_down = True
            self._failed(error)
            return False
        if self._target_down:
            _LOG.info("the program is back", purpose=self._target.purpose)
        self._target_down = False
        return True

    def _failed(self, error: QkddError) -> None:
        self._failure = error.code
        self._meter.add("qkdd_psk_failures_total", code=error.code)

    async def _tick(self) -> None:
        async with self._lock:
            self._ticks += 1
            await self._check_age()
            if not self._torn_down:
                await self._in_doubt()
            if self._ticks % _LOOK_EVERY == 0 or self._target_down:
                await self._look()
        self._show()

    async def _in_doubt(self) -> None:
        """What the connecting end does while it does not know which key the other end uses."""

    async def _check_age(self) -> None:
        none = self.state.current is None
        over = self.key_age > self._config.max_age
        if self._config.on_old_key == "tear-down":
            if (over or none) and not self._torn_down:
                self._wanted = None
                if await self._guarded(self._target.block()):
                    self._torn_down = True
                    _LOG.error("tunnel torn down", key_age=round(self.key_age), reason="no key" if none else "old key")
            return
        if over and not self._old:
            _LOG.error("the key is too old and stays in use", key_age=round(self.key_age), purpose=self._target.purpose)
        self._old = over

    async def _look(self) -> None:
        try:
            if self._torn_down:
                if not await self._target.blocked():
                    await self._target.block()
                return
            if self._wanted is None or await self._target.holds(self._wanted):
                self._target_down = False
                return
        except TargetFailed as error:
            await self._guarded(_raise(error))
            return
        if await self._guarded(self._target.use(self._wanted, self._other(self._wanted))):
            self._meter.add("qkdd_psk_repairs_total")
            _LOG.warning("the program had lost its key", purpose=self._target.purpose)

    def _show(self) -> None:
        self._meter.set("qkdd_psk_key_age_seconds", self.key_age)
        self._meter.set("qkdd_psk_period_seconds", self._config.period if self.asks else 0.0)
        self._meter.set("qkdd_psk_agreed", float(self._agreed))
        self._meter.set("qkdd_psk_partner_up", float(self._partner_up))
        self._meter.set("qkdd_psk_old_key", float(self._old))
        self._meter.set("qkdd_psk_torn_down", float(self._torn_down))


async def _raise(error: TargetFailed) -> None:
    raise error
