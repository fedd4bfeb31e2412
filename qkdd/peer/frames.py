"""Frames of the classical channel: a fixed header and a body, sans-I/O.

    offset  size  field
         0     4  magic "QKDP"
         4     1  format of the frame, now 1
         5     1  channel: 0 control, 1 data
         6     2  type (FrameType), big-endian as all that follows
         8     4  length of the body in bytes
        12     8  sequence: counts all frames of this direction in a session, from 0, without gaps

Whatever does not fit raises FrameGarbage, and the session is dropped: there is no searching for the next magic, because TLS
below delivers all bytes in order or none.
"""

from __future__ import annotations

import functools
import struct
from enum import IntEnum
from typing import NamedTuple, TypeVar

import msgspec

from qkdd.peer.contract import Message
from qkdd.peer.errors import FrameGarbage, ProtocolError, VersionMismatch

MAGIC = b"QKDP"
FORMAT = 1
HEADER = struct.Struct(">4sBBHIQ")
CONTROL_LIMIT = 64 << 10
DATA_LIMIT = 64 << 20  # 5 s of announced clicks at a million a second are some 15 MB
_TAG_LIMIT = 64
_PART = 16 << 10  # bytes from which on a part of a frame stands for itself


class Channel(IntEnum):
    CONTROL = 0
    DATA = 1


class FrameType(IntEnum):
    """Types below 16 belong to the control channel, the others to the data channel."""

    HELLO = 1
    READY = 2
    PING = 3
    PONG = 4
    RESUME = 5
    RESUMED = 6
    SWITCH = 7
    REHANDSHAKE = 8
    GOODBYE = 9
    MESSAGE = 16
    SEAL = 17
    ABORT = 18

    channel: Channel
    limit: int  # bytes of a body

    def __init__(self, number: int) -> None:
        # kept in the members: looked up for every frame, and an enumeration's own comparisons are slow
        self.channel = Channel.CONTROL if number < 16 else Channel.DATA
        self.limit = CONTROL_LIMIT if number < 16 else DATA_LIMIT


class Frame(NamedTuple):
    """One frame as it came; `header` and `body` together are the bytes that a seal covers."""

    type: FrameType
    sequence: int
    header: bytes
    body: bytes


def header(kind: FrameType, sequence: int, length: int) -> bytes:
    """Header of a frame to be sent. Raises ProtocolError when the body is longer than the channel allows."""
    if length > kind.limit:
        raise ProtocolError(f"a {kind.name} frame of {length} bytes exceeds the limit of {kind.limit}")
    return HEADER.pack(MAGIC, FORMAT, kind.channel, kind, length, sequence)


class FrameDecoder:
    """Bytes in, frames out. After an error it is unusable."""

    def __init__(self) -> None:
        # of the header or body that is under way; joined when it is whole, so that megabytes move once
        self._parts: list[bytes | bytearray] = []
        self._size = 0
        self._head: tuple[FrameType, int, int, bytes] | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that are complete now. Raises FrameGarbage, or VersionMismatch for another frame format."""
        frames: list[Frame] = []
        at = 0
        while True:
            wanted = HEADER.size if self._head is None else self._head[1]
            part = data[at : at + wanted - self._size]
            at += len(part)
            if self._size + len(part) < wanted:
                self._keep(part)
                return frames
            whole = b"".join((*self._parts, part)) if self._parts else part
            self._parts, self._size = [], 0
            if self._head is None:
                self._head = (*self._parse(whole), whole)
            else:
                kind, _, sequence, head = self._head
                frames.append(Frame(kind, sequence, head, whole))
                self._head = None

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        last = self._parts[-1] if self._parts else None
        if isinstance(last, bytearray) and len(last) < _PART:
            last += part  # a peer that writes byte by byte must not fill the memory with objects
        elif part:
            self._parts.append(part if len(part) >= _PART else bytearray(part))

    @staticmethod
    def _parse(head: bytes) -> tuple[FrameType, int, int]:
        magic, form, channel, number, length, sequence = HEADER.unpack(head)
        if magic != MAGIC:
            raise FrameGarbage(f"bytes arrived that are no frame of qkdd: {head[:4].hex()}")
        if form != FORMAT:
            raise VersionMismatch(f"the other node sends frames of format {form}, this node knows {FORMAT}")
        try:
            kind = FrameType(number)
        except ValueError:
            raise FrameGarbage(f"a frame of unknown type {number} arrived") from None
        if channel != kind.channel:
            raise FrameGarbage(f"a {kind.name} frame arrived on channel {channel}")
        if length > kind.limit:
            raise FrameGarbage(f"a {kind.name} frame of {length} bytes was announced, the limit is {kind.limit}")
        return kind, length, sequence


M = TypeVar("M", bound=Message)


@functools.cache
def tag_of(kind: type[Message]) -> str:
    """The wire name of a message class."""
    tag = kind.__struct_config__.tag
    if not isinstance(tag, str) or not tag.isascii() or len(tag) > _TAG_LIMIT:
        raise ProtocolError(f"{kind.__name__}: a message needs an ASCII tag of at most {_TAG_LIMIT} characters")
    return tag


@functools.cache
def _prefix(kind: type[Message]) -> bytes:
    tag = tag_of(kind).encode()
    return bytes([len(tag)]) + tag


def encode_message(message: Message) -> tuple[bytes, bytes]:
    """Body of a MESSAGE frame in two parts, which may be megabytes: length of the tag and tag; msgpack array."""
    return _prefix(type(message)), msgspec.msgpack.encode(message)


def message_tag(body: bytes) -> str:
    """Tag of a MESSAGE body. Raises FrameGarbage."""
    if not body or len(body) < 1 + body[0] or body[0] > _TAG_LIMIT or not body[1 : 1 + body[0]].isascii():
        raise FrameGarbage("a MESSAGE frame without tag arrived")
    return body[1 : 1 + body[0]].decode("ascii")


@functools.cache
def _decoder(kind: type[M]) -> msgspec.msgpack.Decoder[M]:
    return msgspec.msgpack.Decoder(kind)


def decode_message(body: bytes, kind: type[M]) -> M:
    """Decode strictly as `kind`. Raises ProtocolError if it is another message or does not fit its declaration."""
    prefix = _prefix(kind)
    if not body.startswith(prefix):
        tag, wanted = message_tag(body), tag_of(kind)
        raise ProtocolError(f"the other node sent {tag!r} where {wanted!r} was expected", got=tag, expected=wanted)
    try:
        message = _decoder(kind).decode(memoryview(body)[len(prefix) :])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"message {tag_of(kind)!r} does not decode: {error}") from None
    if not isinstance(message, kind):
        raise ProtocolError(f"message {tag_of(kind)!r} decodes to another kind")
    return message
