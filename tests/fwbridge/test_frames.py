"""Frames: any bytes in, only good frames out, and back in step after garbage."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from qkdd_fwbridge.errors import Malformed
from qkdd_fwbridge.frames import MAX_PAYLOAD, OVERHEAD, Frame, FrameDecoder
from qkdd_fwbridge.messages import MESSAGES, parse

frames = st.builds(Frame, st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300))
no_magic = st.binary(max_size=60).map(lambda data: data.replace(b"Q", b"q"))


def test_the_layout_of_the_document() -> None:
    data = Frame(0x03, 7, b"abc").encode()
    assert data[:12] == b"QF\x03\x00\x07\x00\x00\x00\x03\x00\x00\x00"
    assert data[16:19] == b"abc"
    assert len(data) == OVERHEAD + 3


@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 50), min_size=1, max_size=5), no_magic)
def test_frames_come_through_garbage_in_any_pieces(sent: list[Frame], pieces: list[int], garbage: bytes) -> None:
    line = garbage + b"".join(frame.encode() + garbage for frame in sent)
    decoder, got, at, turn = FrameDecoder(), [], 0, 0
    while at < len(line):
        step = pieces[turn % len(pieces)]
        got += decoder.feed(line[at : at + step])
        at, turn = at + step, turn + 1
    assert got == sent
    assert decoder.garbage == len(garbage) * (len(sent) + 1)


@settings(max_examples=300)
@given(st.binary(max_size=400))
@example(b"QFQFQFQF" * 8)
def test_any_bytes_are_taken(data: bytes) -> None:
    decoder = FrameDecoder()
    for frame in decoder.feed(data):
        assert len(frame.payload) <= MAX_PAYLOAD
    good = Frame(1, 0, b"x" * 30)
    # whatever is still waiting for bytes gets them; then the next good frame must come through
    assert good in decoder.feed(bytes(MAX_PAYLOAD + OVERHEAD) + good.encode())


@settings(max_examples=200)
@given(st.lists(frames, min_size=3, max_size=6), st.data())
def test_damage_costs_only_what_it_hits(sent: list[Frame], data: st.DataObject) -> None:
    """One byte changed, lost or inserted in the middle frame: the frames after it arrive."""
    hit = len(sent) // 2
    coded = [bytearray(frame.encode()) for frame in sent]
    at = data.draw(st.integers(0, len(coded[hit]) - 1))
    kind = data.draw(st.sampled_from(["change", "lose", "insert"]))
    if kind == "change":
        coded[hit][at] ^= data.draw(st.integers(1, 255))
    elif kind == "lose":
        del coded[hit][at]
    else:
        coded[hit].insert(at, data.draw(st.integers(0, 255)))
    decoder = FrameDecoder()
    got = decoder.feed(b"".join(coded)) + decoder.feed(bytes(MAX_PAYLOAD))
    assert got[:hit] == sent[:hit]
    assert got[-(len(sent) - hit - 1) :] == sent[hit + 1 :]


def test_missing_frames_are_counted() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"".join(Frame(1, n, b"").encode() for n in (2**32 - 2, 2**32 - 1, 3)))
    assert decoder.missing == 3


def test_a_host_that_begins_anew_makes_nothing_missing() -> None:
    """Three hosts one after the other once counted 2^33 missing frames, which no status can carry."""
    decoder = FrameDecoder()
    for _ in range(3):
        decoder.feed(b"".join(Frame(1, n, b"").encode() for n in range(5)))
    assert decoder.missing == 0


@settings(max_examples=300)
@given(st.sampled_from([*MESSAGES, 0x7E]), st.binary(max_size=200))
def test_any_payload_is_a_message_or_malformed(kind: int, payload: bytes) -> None:
    try:
        message = parse(Frame(kind, 0, payload))
    except Malformed:
        return
    if b"\0" not in payload and "s" not in message.LAYOUT and "f" not in message.LAYOUT:
        assert message.encode() == payload


def test_every_type_has_one_message() -> None:
    assert len(MESSAGES) == 34
    for kind, message in MESSAGES.items():
        assert kind == message.TYPE
