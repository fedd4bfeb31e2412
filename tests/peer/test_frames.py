"""Frames and messages: whole, in pieces, damaged."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdd.peer import FrameGarbage, Message, ProtocolError, VersionMismatch, frames
from qkdd.peer.frames import FrameDecoder, FrameType


class Sample(Message, tag="test.sample"):
    number: int
    blob: bytes
    words: list[str]


class Other(Message, tag="test.other"):
    number: int


KINDS = st.sampled_from(list(FrameType))


def wire(kind: FrameType, sequence: int, body: bytes) -> bytes:
    return frames.header(kind, sequence, len(body)) + body


@given(st.lists(st.tuples(KINDS, st.integers(0, 2**64 - 1), st.binary(max_size=300)), max_size=6), st.integers(1, 50))
def test_frames_survive_any_chopping(items: list[tuple[FrameType, int, bytes]], piece: int) -> None:
    data = b"".join(wire(*item) for item in items)
    decoder = FrameDecoder()
    found = [frame for i in range(0, len(data), piece) for frame in decoder.feed(data[i : i + piece])]
    assert [(f.type, f.sequence, f.body) for f in found] == items
    assert b"".join(f.header + f.body for f in found) == data  # what a seal covers is what was sent


@pytest.mark.parametrize("piece", [13, frames._PART - 1, frames._PART, 3 * frames._PART])
def test_a_large_frame_in_pieces_takes_no_more_memory_than_its_bytes(piece: int) -> None:
    body = bytes(range(256)) * 800
    data = wire(FrameType.MESSAGE, 1, body)
    decoder = FrameDecoder()
    for at in range(0, len(data) - 1, piece):
        assert decoder.feed(data[at : min(at + piece, len(data) - 1)]) == []
        assert len(decoder._parts) <= 1 + len(data) // frames._PART
    (found,) = decoder.feed(data[-1:] + b"QK")
    assert found.body == body
    assert decoder.feed(data[2:]) == [found]  # behind the two bytes that came already


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_garbage_is_an_error_or_nothing(data: bytes) -> None:
    decoder = FrameDecoder()
    try:
        decoder.feed(data)
    except (FrameGarbage, VersionMismatch):
        return
    assert len(data) < frames.HEADER.size or data[:4] == frames.MAGIC


@given(st.integers(0, 19 * 8 - 1), st.binary(max_size=40))
def test_a_flipped_bit_in_a_header_never_passes_unseen(bit: int, body: bytes) -> None:
    """It is refused, waits for more, or gives a frame whose header bytes differ (which the seal covers)."""
    data = bytearray(wire(FrameType.MESSAGE, 7, body))
    data[bit // 8] ^= 1 << (bit % 8)
    try:
        found = FrameDecoder().feed(bytes(data))
    except (FrameGarbage, VersionMismatch):
        return
    assert all(f.header != wire(FrameType.MESSAGE, 7, body)[: frames.HEADER.size] for f in found)


def test_limits_of_both_channels() -> None:
    with pytest.raises(ProtocolError):
        frames.header(FrameType.PING, 0, frames.CONTROL_LIMIT + 1)
    head = frames.HEADER.pack(frames.MAGIC, 1, 1, FrameType.MESSAGE, frames.DATA_LIMIT + 1, 0)
    with pytest.raises(FrameGarbage, match="limit"):
        FrameDecoder().feed(head)
    with pytest.raises(FrameGarbage, match="channel"):
        FrameDecoder().feed(frames.HEADER.pack(frames.MAGIC, 1, 0, FrameType.MESSAGE, 0, 0))
    with pytest.raises(FrameGarbage, match="unknown type"):
        FrameDecoder().feed(frames.HEADER.pack(frames.MAGIC, 1, 0, 999, 0, 0))
    with pytest.raises(VersionMismatch):
        FrameDecoder().feed(frames.HEADER.pack(frames.MAGIC, 2, 0, FrameType.HELLO, 0, 0))


@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=200), st.lists(st.text(max_size=20), max_size=4))
def test_messages_come_back(number: int, blob: bytes, words: list[str]) -> None:
    message = Sample(number, blob, words)
    assert frames.decode_message(b"".join(frames.encode_message(message)), Sample) == message


@given(st.binary(max_size=200))
def test_message_garbage_is_a_protocol_error(data: bytes) -> None:
    for body in (data, b"\x0btest.sample" + data):
        try:
            message = frames.decode_message(body, Sample)
        except ProtocolError:
            continue
        assert isinstance(message, Sample)  # a true message by luck


def test_messages_are_strict() -> None:
    with pytest.raises(ProtocolError, match=r"'test.other' where 'test.sample'"):
        frames.decode_message(b"".join(frames.encode_message(Other(1))), Sample)
    for fields in ([1, b""], [1, b"", [], 4], ["1", b"", []], [1, b"", [1]], [1.5, b"", []]):
        body = b"\x0btest.sample" + msgspec.msgpack.encode(["test.sample", *fields])
        with pytest.raises(ProtocolError):
            frames.decode_message(body, Sample)
