"""The vici protocol of strongSwan (src/libcharon/plugins/vici/README.md there): requests and their answers.

A packet is four bytes of length, a type, for named types a name, then a message. A message is a tree of sections, lists and
values; here a dict whose values are dicts, lists of text or text (bytes where a value is no UTF-8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from qkdd.core.clock import Clock
from qkdd.core.secret import Secret
from qkdd.psk.errors import TargetFailed

CMD_REQUEST, CMD_RESPONSE, CMD_UNKNOWN, EVENT_REGISTER, EVENT_UNREGISTER, EVENT_CONFIRM, EVENT_UNKNOWN, EVENT = range(8)
_SECTION_START, _SECTION_END, _KEY_VALUE, _LIST_START, _LIST_ITEM, _LIST_END = range(1, 7)
_NAMED = (CMD_REQUEST, EVENT_REGISTER, EVENT_UNREGISTER, EVENT)
_LARGEST = 512 * 1024  # strongSwan's own limit

Tree = dict[str, Any]


class MalformedVici(ValueError):
    """Bytes that are no packet or message."""


def encode(tree: Mapping[str, Any]) -> bytes:
    """A message. Values: mapping, list or tuple, text, bytes, Secret, bool ("yes", "no"), int. Raises ValueError."""
    out = bytearray()
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out += bytes([_SECTION_START]) + _name(name) + encode(value) + bytes([_SECTION_END])
        elif isinstance(value, list | tuple):
            out += bytes([_LIST_START]) + _name(name)
            for item in value:
                out += bytes([_LIST_ITEM]) + _value(item)
            out += bytes([_LIST_END])
        else:
            out += bytes([_KEY_VALUE]) + _name(name) + _value(value)
    return bytes(out)


def _name(name: str) -> bytes:
    data = name.encode()
    if len(data) > 255:
        raise ValueError(f"a name of {len(data)} bytes; 255 are possible")
    return bytes([len(data)]) + data


def _value(value: object) -> bytes:
    if isinstance(value, Secret):
        data = bytes(value.reveal())
    elif isinstance(value, bytes):
        data = value
    elif isinstance(value, bool):
        data = b"yes" if value else b"no"
    elif isinstance(value, str | int):
        data = str(value).encode()
    else:
        raise TypeError(f"{type(value).__name__} is no value of vici")
    if len(data) > 0xFFFF:
        raise ValueError(f"a value of {len(data)} bytes; 65535 are possible")
    return len(data).to_bytes(2, "big") + data


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise MalformedVici("cut off")
        self._at += count
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def name(self) -> str:
        try:
            return self.take(self.byte()).decode()
        except UnicodeDecodeError:
            raise MalformedVici("a name is no UTF-8") from None

    def value(self) -> str | bytes:
        data = self.take(int.from_bytes(self.take(2), "big"))
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data


def decode(data: bytes) -> Tree:
    """A message's tree. Raises MalformedVici."""
    reader = _Reader(data)
    root: Tree = {}
    path = [root]
    while reader.more():
        kind = reader.byte()
        if kind == _SECTION_START:
            section: Tree = {}
            path[-1][reader.name()] = section
            path.append(section)
        elif kind == _SECTION_END:
            path.pop()
            if not path:
                raise MalformedVici("a section ends that never began")
        elif kind == _KEY_VALUE:
            name = reader.name()
            path[-1][name] = reader.value()
        elif kind == _LIST_START:
            items: list[str | bytes] = []
            path[-1][reader.name()] = items
            while (inner := reader.byte()) == _LIST_ITEM:
                items.append(reader.value())
            if inner != _LIST_END:
                raise MalformedVici(f"element {inner} in a list")
        else:
            raise MalformedVici(f"element {kind}")
    if len(path) != 1:
        raise MalformedVici("a section does not end")
    return root


def packet(kind: int, name: str, body: bytes = b"") -> bytes:
    """A packet with its length."""
    content = bytes([kind]) + (_name(name) if kind in _NAMED else b"") + body
    return len(content).to_bytes(4, "big") + content


def unpack(content: bytes) -> tuple[int, str, bytes]:
    """Type, name ("" for types without) and message of a packet behind its length. Raises MalformedVici."""
    reader = _Reader(content)
    kind = reader.byte()
    if kind > EVENT:
        raise MalformedVici(f"packet type {kind}")
    name = reader.name() if kind in _NAMED else ""
    return kind, name, content[1 + (1 + len(name.encode()) if kind in _NAMED else 0) :]


class Vici:
    """One socket of charon; a connection for each call. Raises TargetFailed."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock

    async def ask(self, command: str, tree: Mapping[str, Any], deadline: float = 5.0) -> Tree:
        """One command; its answer whatever it says of success."""
        answers, _ = await self._exchange(command, tree, "", deadline)
        return answers

    async def stream(self, command: str, tree: Mapping[str, Any], event: str, deadline: float = 5.0) -> list[Tree]:
        """A command that answers with events, for example `list-sas` with `list-sa`."""
        _, events = await self._exchange(command, tree, event, deadline)
        return events

    async def order(self, command: str, tree: Mapping[str, Any], deadline: float = 5.0) -> Tree:
        """As `ask`; raises TargetFailed with charon's words when it was not done."""
        answer = await self.ask(command, tree, deadline)
        if answer.get("success") != "yes":
            raise TargetFailed(f"{self._path}: {command}: {str(answer.get('errmsg', 'not done'))[:200]}")
        return answer

    async def _exchange(
        self, command: str, tree: Mapping[str, Any], event: str, deadline: float
    ) -> tuple[Tree, list[Tree]]:
        events: list[Tree] = []
        try:
            async with self._clock.deadline(deadline):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    if event:
                        writer.write(packet(EVENT_REGISTER, event))
                        await self._answer(reader, EVENT_CONFIRM, events)
                    writer.write(packet(CMD_REQUEST, command, encode(tree)))
                    return await self._answer(reader, CMD_RESPONSE, events), events
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, MalformedVici) as error:
            raise TargetFailed(f"{self._path}: {command}: {type(error).__name__}: {error}") from None

    async def _answer(self, reader: asyncio.StreamReader, wanted: int, events: list[Tree]) -> Tree:
        while True:
            length = int.from_bytes(await reader.readexactly(4), "big")
            if not 0 < length <= _LARGEST:
                raise MalformedVici(f"a packet of {length} bytes")
            kind, _, body = unpack(await reader.readexactly(length))
            if kind == EVENT:
                events.append(decode(body))
            elif kind == wanted:
                return decode(body)
            else:
                raise MalformedVici(f"packet type {kind} came where {wanted} belongs")
