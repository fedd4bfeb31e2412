"""Announcements of draws to another KMS, several in one call: a draw costs both sites little more than its own work.

While calls are under way further announcements wait and go together with the next one, as transactions of a store do. The other
site answers each of them as if it had come alone.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from qkdd.core.clock import Clock
from qkdd.core.errors import QkddError
from qkdd.kms.errors import PeerKmsDown
from qkdd.kms.plane import Announce, Noted, PeerKms

_CALLS = 2  # under way at once
MOST = 64  # announcements in a call
_PIECES = 10_000  # in a call, so that a body stays far below its limit

A = TypeVar("A")


class Announcements(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`announcements`: several at once, each as if it had come alone."""

    announcements: Annotated[list[Announce], msgspec.Meta(min_length=1, max_length=MOST)]


class AllNoted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In the order of the announcements."""

    noted: Annotated[list[Noted], msgspec.Meta(max_length=MOST)]


_Waiting = tuple[Announce, "asyncio.Future[Noted]"]


class GroupingPeer(PeerKms):
    """A PeerKms whose announcements travel together. When a call fails all that went with it are told so."""

    def __init__(self, name: str, urls: Sequence[str], context: ssl.SSLContext, clock: Clock, deadline: float) -> None:
        super().__init__(name, urls, context, clock, deadline)
        self._waiting: list[_Waiting] = []
        self._senders: set[asyncio.Task[None]] = set()
        self._one_by_one = False  # the other site's program is older and knows single announcements only

    async def call(self, name: str, message: msgspec.Struct, answer: type[A]) -> A:
        if not isinstance(message, Announce):
            return await super().call(name, message, answer)
        done: asyncio.Future[Noted] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, done))
        if len(self._senders) < _CALLS:
            self._senders.add(asyncio.create_task(self._send()))
        return msgspec.convert(await done, answer, from_attributes=True)

    async def _send(self) -> None:
        try:
            await self._send_all()
        finally:  # at once: a message that comes now must find the place free
            self._senders.discard(asyncio.current_task())

    async def _send_all(self) -> None:
        while group := self._next():
            try:
                noted = await self._announce([message for message, _ in group])
            except BaseException as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(
                            error if isinstance(error, QkddError) else PeerKmsDown(f"{self.name}: ended")
                        )
                if not isinstance(error, QkddError):
                    raise
                continue
            for (_, done), one in zip(group, noted, strict=True):
                if not done.done():
                    done.set_result(one)

    def _next(self) -> list[_Waiting]:
        """What goes into the next call; requests that were given up in the meantime are left out."""
        group: list[_Waiting] = []
        pieces = taken = 0
        for message, done in self._waiting:
            pieces += len(message.pieces)
            if group and (len(group) == MOST or pieces > _PIECES):
                break
            taken += 1
            if not done.done():
                group.append((message, done))
        del self._waiting[:taken]
        return group

    async def _announce(self, messages: list[Announce]) -> list[Noted]:
        if len(messages) > 1 and not self._one_by_one:
            try:
                answer = await super().call("announcements", Announcements(messages), AllNoted)
            except PeerKmsDown as error:
                if error.details.get("status") != 404:
                    raise
                self._one_by_one = True
            else:
                if len(answer.noted) != len(messages):
                    raise PeerKmsDown(f"{self.name}: answered {len(answer.noted)} of {len(messages)} announcements")
                return answer.noted
        return [await super(GroupingPeer, self).call("allocations", message, Noted) for message in messages]
