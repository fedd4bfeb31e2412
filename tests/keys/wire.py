"""Two joined peer sessions in memory for the commit's tests, which can be cut before any send, receive or seal."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, TypeVar

from qkdd.core.errors import QkddError
from qkdd.peer import Message, PeerAborted, PeerClosed, ProtocolError, Role, Seal

M = TypeVar("M", bound=Message)
_numbers = itertools.count(1)


class Wire:
    """Both directions and the one place where a test cuts: `cut_at` counts operations of `cut_role`."""

    def __init__(self, cut_role: Role | None = None, cut_at: int = 0) -> None:
        self.queues: dict[str, asyncio.Queue[Any]] = {"alice": asyncio.Queue(), "bob": asyncio.Queue()}
        self.session_id = next(_numbers).to_bytes(32, "big")
        self.cut_role, self.cut_at = cut_role, cut_at
        self.operations = {"alice": 0, "bob": 0}
        self.was_cut = False

    def step(self, role: Role) -> None:
        self.operations[role] += 1
        if self.was_cut or (role == self.cut_role and self.operations[role] == self.cut_at):
            self.was_cut = True
            for queue in self.queues.values():
                queue.put_nowait(None)
            raise PeerClosed("cut by the test")


class FakeSession:
    """Implements what the committer uses of PeerSession. Seals compare what both sides sent and received."""

    mode = "ml-dsa"

    def __init__(self, wire: Wire, role: Role) -> None:
        self.wire, self.role = wire, role
        self.other = "bob" if role == "alice" else "alice"
        self.sent: list[Message] = []
        self.received: list[Message] = []

    @property
    def session_id(self) -> bytes:
        return self.wire.session_id

    async def send(self, message: Message) -> None:
        self.wire.step(self.role)
        self.sent.append(message)
        self.wire.queues[self.other].put_nowait(message)

    async def _next(self) -> Any:
        item = await self.wire.queues[self.role].get()
        if item is None:
            raise PeerClosed("cut by the test")
        if isinstance(item, QkddError):
            raise PeerAborted(item.code)
        return item

    async def receive(self, kind: type[M], *, timeout: float | None = None) -> M:
        self.wire.step(self.role)
        message = await self._next()
        if not isinstance(message, kind):
            raise ProtocolError(f"{type(message).__name__} instead of {kind.__name__}")
        self.received.append(message)
        return message

    async def seal(self, phase: str, block: int) -> Seal:
        self.wire.step(self.role)
        self.wire.queues[self.other].put_nowait(("tag", phase, block, list(self.sent)))
        tag = await self._next()
        assert tag == ("tag", phase, block, self.received)
        self.sent.clear()
        self.received.clear()
        return Seal(phase, block, "ml-dsa", 0.0, 0, 0)

    async def abort(self, error: QkddError) -> None:
        if not isinstance(error, PeerAborted):
            self.wire.queues[self.other].put_nowait(error)
