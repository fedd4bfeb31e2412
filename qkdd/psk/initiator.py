"""The end that connects: it draws the keys and decides when; after a cut it finds out which key the other end uses.

    agreed ──draw, Offer, Ready──► (next written) ──Switch, Switched──► (current := next) ──► agreed
                                        │ line lost, crash
                                        ▼
                                    in doubt ──line back: Hello or Current names the key──► agreed
                                        │ no line for as long as a trial
                                        ▼
                                    trials: next and current in turns until a handshake shows which one is right

`next` is on disk from before `Switch` leaves until the other end said what it uses; so no crash loses a key that the other
end may have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from qkdd.core import log
from qkdd.core.errors import QkddError
from qkdd.psk.agent import Agent
from qkdd.psk.errors import KeysDiffer, KmsAway, LineMalformed, PartnerAway, PartnerRefused
from qkdd.psk.keys import AgreedKey
from qkdd.psk.line import Ask, Current, Hello, Line, Offer, Ready, Refused, Switch, Switched, expect
from qkdd.psk.state import State

_LOG = log.get("psk")
_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)
# WireGuard makes a new handshake after 120 s when there is traffic, and uses no session for longer than 180 s
_SESSION = 180.0


class Initiator(Agent):
    """`connect()` gives a new line; raises PartnerAway. `ends`: identities of both agents, the own one first."""

    role = "connects"
    asks = True

    def __init__(
        self, *arguments: Any, connect: Callable[[], Awaitable[Line]], ends: tuple[str, str], **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._connect, self._ends = connect, ends
        self._failures = 0
        self._due = self._clock.monotonic()
        self._alone_since: float | None = self._clock.monotonic()
        self._trial_end = 0.0
        self._seen: int | None = None  # the handshake that was the last one a moment after the trial began

    async def run(self) -> None:
        """For ever: connect, settle, rotate."""
        while True:
            try:
                await self._session()
            except QkddError as error:
                self._lost(error)
                await self._clock.sleep(self._pause())

    def _lost(self, error: QkddError) -> None:
        if self._partner_up or self._failures == 0:
            _LOG.warning("the other end is away", **log.error_fields(error))
        self._failed(error)
        self._failures += 1

    def _pause(self) -> float:
        return _PAUSES[min(self._failures, len(_PAUSES)) - 1]

    async def _session(self) -> None:
        line = await self._connect()
        deadline = self._config.answer_deadline
        try:
            hello = await expect(line, (Hello,), deadline)
            if hello.purpose != self._target.purpose:
                raise LineMalformed(f"the other end sets keys of {hello.purpose}, this one of {self._target.purpose}")
            self._partner_up, self._alone_since = True, None
            await self._settle(hello.current)
            while True:
                if (wait := self._due - self._clock.monotonic()) > 0:
                    await self._clock.sleep(min(wait, self._config.heartbeat))
                # also before a rotation: `next` is written over only when the other end has said that it has something else
                await line.send(Ask(self.state.current.key_id if self.state.current is not None else None))
                await self._settle((await expect(line, (Current,), deadline)).current)
                if self._due > self._clock.monotonic():
                    continue
                try:
                    await self._rotate(line)
                except (PartnerAway, LineMalformed):
                    raise  # the line is over
                except QkddError as error:
                    self._not_rotated(error)
                else:
                    self._failures = 0
                    self._due = self._clock.monotonic() + self._config.period
        finally:
            self._partner_up = False
            self._agreed = False
            self._alone_since = self._clock.monotonic()
            self._trial_end = 0.0
            await line.close()

    def _not_rotated(self, error: QkddError) -> None:
        if self._failures == 0:
            _LOG.warning("no new key", key_age=round(self.key_age), **log.error_fields(error))
        self._failed(error)
        self._failures += 1
        pause = max(self._pause(), error.retry_after if isinstance(error, KmsAway) else 0.0)
        self._due = self._clock.monotonic() + min(pause, self._config.period)

    async def _settle(self, theirs: str | None) -> None:
        """The other end said which key it uses: the doubt is over, or there is none."""
        async with self._lock:
            state = self.state
            if state.next is not None and theirs == state.next.key_id:
                await self._switch(state.next)
                self._due = self._clock.monotonic() + self._config.period
            elif state.next is not None and state.current is not None and theirs == state.current.key_id:
                await self._save(State(state.current, state.previous, None))
                if not self._torn_down:
                    await self._use(state.current)  # a trial may have left the other one
            current = self.state.current
            self._agreed = current is not None and theirs == current.key_id
            if not self._agreed:
                self._due = min(self._due, self._clock.monotonic() + (self._pause() if self._failures else 0.0))
            self._show()

    async def _rotate(self, line: Line) -> None:
        """One round. Raises KmsAway, KmsRefused, PartnerRefused, KeysDiffer, TargetFailed with nothing changed."""
        deadline = self._config.answer_deadline
        key_id, drawn = await self._kms.draw()
        key = AgreedKey.derive(drawn, key_id, self._target.purpose, self._ends, self._clock.wall())
        drawn.wipe()
        await self._target.prepare(key)
        await line.send(Offer(key_id))
        # the other end asks its own KMS meanwhile
        answer: Ready | Refused = await expect(line, (Ready, Refused), 2 * deadline)
        _same(answer.key_id, key_id)
        if isinstance(answer, Refused):
            raise PartnerRefused(f"key {key_id}: {answer.code}")
        if not key.confirms("ready", line.binding, answer.proof):
            raise KeysDiffer(f"key {key_id}: the other end has other bytes")
        async with self._lock:
            await self._save(State(self.state.current, self.state.previous, key))
            await line.send(Switch(key_id, key.confirmation("switch", line.binding)))
            done: Switched | Refused = await expect(line, (Switched, Refused), deadline)
            _same(done.key_id, key_id)
            if isinstance(done, Refused):  # proven: it does not use it
                await self._save(State(self.state.current, self.state.previous, None))
                raise PartnerRefused(f"key {key_id}: {done.code}")
            await self._switch(key)
            self._agreed = True

    async def _in_doubt(self) -> None:
        state, now = self.state, self._clock.monotonic()
        if state.next is None or not self._target.exclusive or self._alone_since is None:
            return
        if now < self._alone_since + self._config.trial:
            return
        if now >= self._trial_end:
            # first the one that is not in use: the other one has had the time of a trial already
            candidate = state.current if self._wanted is state.next else state.next
            if candidate is None:
                candidate = state.next
            _LOG.warning("trying a key, the other end cannot be asked", key_id=candidate.key_id)
            self._meter.add("qkdd_psk_trials_total")
            self._seen, self._trial_end = None, now + self._config.trial
            await self._use(candidate)
            return
        shown: list[int] = []

        async def look() -> None:
            shown.append(await self._target.last_handshake())

        await self._guarded(look())
        if not shown:
            return
        if self._seen is None:
            self._seen = shown[0]  # a handshake that was under way when the key changed does not count
        elif shown[0] != self._seen:
            self._seen = shown[0]
            self._trial_end = now + _SESSION  # this is the one, for as long as handshakes go on


def _same(named: str, key_id: str) -> None:
    if named != key_id:
        raise LineMalformed(f"an answer about key {named}, asked was {key_id}")
