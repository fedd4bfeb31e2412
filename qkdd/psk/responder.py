"""The end that listens: it fetches the offered key, proves that it has it, and changes first.

    idle ──Offer: fetch──► prepared (memory only) ──Switch in time, with proof──► (current := key, written) ──► Switched ──► idle

Only the newest connection counts: one that begins closes the one before, whatever still comes from that.
"""

from __future__ import annotations

from typing import Any

from qkdd.core import log
from qkdd.core.errors import QkddError, StorageFailed
from qkdd.psk.agent import Agent
from qkdd.psk.errors import KeysDiffer, LineMalformed, PartnerAway
from qkdd.psk.keys import AgreedKey
from qkdd.psk.line import Ask, Current, Hello, Line, LineMessage, Offer, Ready, Refused, Switch, Switched, expect

_LOG = log.get("psk")
_LATE = "QKD-PSK-LATE-SWITCH"


class Responder(Agent):
    """`ends`: identities of both agents, the other one first. `serve` is called for each connection."""

    role = "listens"

    def __init__(self, *arguments: Any, ends: tuple[str, str], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._ends = ends
        self._line: Line | None = None
        self._offered: tuple[AgreedKey, float] | None = None

    def _current_id(self) -> str | None:
        return self.state.current.key_id if self.state.current is not None else None

    async def serve(self, line: Line) -> None:
        """One connection of the other end, until it is over."""
        async with self._lock:  # a switch that is being written is finished first, and then named
            earlier, self._line = self._line, line
            self._offered = None
            hello = Hello(self._target.purpose, self._current_id())
            self._partner_up = True
        try:
            if earlier is not None:
                await earlier.close()
            await line.send(hello)
            while True:
                # a line without a heartbeat is dead even if nobody says so
                silence = 2 * (self._config.heartbeat + self._config.answer_deadline)
                message = await expect(line, (Ask, Offer, Switch), silence)
                await line.send(await self._answer(line, message))
        except (PartnerAway, LineMalformed) as error:
            if self._line is line:
                self._failed(error)
                _LOG.warning("the line to the other end is over", **log.error_fields(error))
        finally:
            if self._line is line:
                self._line, self._offered = None, None
                self._partner_up = self._agreed = False
            await line.close()

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()
        await super().close()

    async def _answer(self, line: Line, message: LineMessage) -> LineMessage:
        if isinstance(message, Offer):
            try:
                return await self._prepare(line, message)
            except QkddError as error:
                self._failed(error)
                _LOG.warning("offered key not taken", key_id=message.key_id, **log.error_fields(error))
                return Refused(message.key_id, error.code)
        if isinstance(message, Switch):
            return await self._take(line, message)
        if isinstance(message, Ask):
            self._agreed = message.current is not None and message.current == self._current_id()
        return Current(self._current_id())

    async def _prepare(self, line: Line, offer: Offer) -> Ready:
        self._offered = None
        fetched = await self._kms.fetch(offer.key_id)
        key = AgreedKey.derive(fetched, offer.key_id, self._target.purpose, self._ends, self._clock.wall())
        fetched.wipe()
        await self._target.prepare(key)
        self._offered = (key, self._clock.monotonic() + self._config.answer_deadline)
        return Ready(offer.key_id, key.confirmation("ready", line.binding))

    async def _take(self, line: Line, message: Switch) -> LineMessage:
        async with self._lock:
            offered, self._offered = self._offered, None
            if self._line is not line:
                raise PartnerAway("a newer connection has taken the place of this one")
            if offered is None or offered[0].key_id != message.key_id or self._clock.monotonic() > offered[1]:
                return Refused(message.key_id, _LATE)
            key = offered[0]
            if not key.confirms("switch", line.binding, message.proof):
                error = KeysDiffer(f"key {message.key_id}: the other end has other bytes")
                self._failed(error)
                return Refused(message.key_id, error.code)
            try:
                await self._switch(key)
            except StorageFailed as error:
                self._failed(error)
                return Refused(message.key_id, error.code)
            self._agreed = True
        return Switched(message.key_id)
