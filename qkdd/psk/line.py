"""Messages between the two agents, over TLS 1.3 with both certificates: four bytes of length, then JSON with a tag.

No message carries key. Both proofs are bound to the connection by its exporter, so nothing of one connection means anything
on another; on one connection TLS keeps order and refuses repetitions.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Protocol, TypeVar

import msgspec

from qkdd.core.clock import Clock
from qkdd.peer.tls import exporter
from qkdd.psk.errors import LineMalformed, PartnerAway

_LARGEST = 4096
_EXPORTER = "EXPORTER-qkd-psk-1"

KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Proof = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class LineMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=str.lower):
    """Base of all."""


class Hello(LineMessage, frozen=True):
    """The listening end begins: what it sets keys for, and which key it uses."""

    purpose: str
    current: KeyId | None


class Ask(LineMessage, frozen=True):
    """I use this key; which one do you use?"""

    current: KeyId | None


class Current(LineMessage, frozen=True):
    """The answer to Ask."""

    current: KeyId | None


class Offer(LineMessage, frozen=True):
    """The connecting end drew this key: fetch it."""

    key_id: KeyId


class Ready(LineMessage, frozen=True):
    """The listening end has it, and proves it."""

    key_id: KeyId
    proof: Proof


class Switch(LineMessage, frozen=True):
    """Use it, with the connecting end's proof."""

    key_id: KeyId
    proof: Proof


class Switched(LineMessage, frozen=True):
    """It is in use, durably."""

    key_id: KeyId


class Refused(LineMessage, frozen=True):
    """It is not in use, and will not be."""

    key_id: KeyId
    code: Annotated[str, msgspec.Meta(max_length=64)]


Any = Hello | Ask | Current | Offer | Ready | Switch | Switched | Refused
M = TypeVar("M", bound=LineMessage)
_DECODER = msgspec.json.Decoder(Any)


def encode(message: LineMessage) -> bytes:
    """A message as it goes over the line."""
    body = msgspec.json.encode(message)
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes) -> LineMessage:
    """Of the bytes behind the length. Raises LineMalformed."""
    try:
        message: LineMessage = _DECODER.decode(body)
    except msgspec.MsgspecError as error:
        raise LineMalformed(f"no message of the line: {error}") from None
    return message


class Line(Protocol):
    """One connection. PartnerAway when it is over; LineMalformed."""

    @property
    def binding(self) -> bytes:
        """32 bytes that only the two ends of this connection know."""

    async def send(self, message: LineMessage) -> None: ...
    async def receive(self, timeout: float) -> LineMessage:
        """The next message; PartnerAway after `timeout` seconds without one."""

    async def close(self) -> None: ...


async def expect(line: Line, kinds: tuple[type[M], ...], timeout: float) -> M:
    """The next message, which must be of one of these kinds. Raises PartnerAway, LineMalformed."""
    message = await line.receive(timeout)
    if not isinstance(message, kinds):
        raise LineMalformed(f"{type(message).__name__} came where {' or '.join(k.__name__ for k in kinds)} belongs")
    return message


class TlsLine:
    """A Line over asyncio streams that use a context of `qkdd.peer.tls`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: Clock) -> None:
        self._reader, self._writer, self._clock = reader, writer, clock
        self.binding = exporter(writer, _EXPORTER)

    async def send(self, message: LineMessage) -> None:
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except OSError as error:
            raise PartnerAway(f"the line broke: {error}") from None

    async def receive(self, timeout: float) -> LineMessage:
        try:
            async with self._clock.deadline(timeout):
                length = int.from_bytes(await self._reader.readexactly(4), "big")
                if length > _LARGEST:
                    raise LineMalformed(f"a message of {length} bytes")
                return decode(await self._reader.readexactly(length))
        except TimeoutError:
            raise PartnerAway(f"nothing came for {timeout:g} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise PartnerAway(f"the line broke: {error or 'closed'}") from None

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # it was broken before
