"""A board takes whatever a host may send: it answers or refuses, and its state stays lawful."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from qkdd_drivers.qkdd_board.board import Board
from qkdd_fwbridge import messages as m
from qkdd_fwbridge.frames import Frame, FrameDecoder
from qkdd_fwbridge.messages import MESSAGES, Role, State

from .boards import store

REQUESTS = sorted(kind for kind in MESSAGES if kind < 0x40)


def sensible(kind: int) -> st.SearchStrategy[bytes]:
    """Payloads of the right form with values of every size."""
    message = MESSAGES[kind]
    number = st.one_of(
        st.integers(0, 3), st.integers(0, 255), st.sampled_from([2**16 - 1, 2**32 - 1, 2**63, 2**64 - 1])
    )

    def make(numbers: list[int], tail: bytes) -> bytes:
        values: list[Any] = []
        for field, value in zip(fields(message), numbers, strict=False):  # type: ignore[arg-type]
            values.append(tail if field.type == "bytes" else "x" if field.type == "str" else value)
        try:
            return message(*values).encode()
        except ValueError:
            return tail

    return st.builds(make, st.lists(number, min_size=20, max_size=20), st.binary(max_size=64))


frames = st.sampled_from(REQUESTS).flatmap(
    lambda kind: st.tuples(st.just(kind), st.one_of(st.binary(max_size=80), sensible(kind)))
)
BIND = (m.Bind.TYPE, m.Bind(2, 0, 0).encode())


@settings(max_examples=150, deadline=None)
@given(st.lists(frames, max_size=25))
def test_every_request_is_answered_or_refused(sent: list[tuple[int, bytes]]) -> None:
    boot_store, _ = store()
    board = Board(Role.TRANSMITTER, "1", boot_store)
    board.power_up(0.0)
    decoder = FrameDecoder()
    now = 0.0
    for number, (kind, payload) in enumerate([BIND, *sent]):
        now += 0.001
        board.feed(Frame(kind, number, payload).encode(), now)
        answers = [m.parse(frame) for frame in decoder.feed(board.poll(now))]
        about = [a for a in answers if getattr(a, "about", None) == number]
        quiet = kind in (m.Credit.TYPE, m.Release.TYPE)
        assert len(about) == 1 or (quiet and not about)
        if board.state is not State.STREAMING:
            assert board.registers[1] == 0.0 or board.state is State.BOUND
        if board.reboot_due:
            board.power_up(now)
            decoder.reset()
            assert board.state is State.IDLE
            assert board.registers[1] == 0.0
    assert decoder.garbage == 0


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_leave_the_board_alive(data: bytes) -> None:
    boot_store, _ = store()
    board = Board(Role.RECEIVER, "1", boot_store)
    board.power_up(0.0)
    board.feed(data, 0.1)
    board.feed(bytes(70_000), 0.2)
    board.poll(0.2)
    board.feed(Frame(m.AskStatus.TYPE, 9, b"").encode(), 0.3)
    (status,) = [m.parse(f) for f in FrameDecoder().feed(board.poll(0.3))][-1:]
    assert isinstance(status, m.Status)
