"""One end's dialogue: numbers frames, matches answers to requests, keeps apart what nobody asked for. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from qkdd_fwbridge.errors import BoardSaidNo, Malformed
from qkdd_fwbridge.frames import SEQUENCES, Frame, FrameDecoder
from qkdd_fwbridge.layout import Message
from qkdd_fwbridge.messages import Refusal, parse

A = TypeVar("A", bound=Message)
UNASKED = 0x50
_KEEP_ANSWERS = 64


class Dialogue:
    """The host's end. `decoder` has the counters of the line; `sent_bytes`, `received_bytes`: all that went over it."""

    def __init__(self) -> None:
        self.decoder = FrameDecoder()
        self.sent_bytes = self.received_bytes = 0
        self._sequence = 0
        self._answers: dict[int, Message] = {}
        self._unasked: deque[Message] = deque()

    def reset(self) -> None:
        """The line was opened anew."""
        self.decoder.reset()
        self._sequence = 0
        self._answers.clear()
        self._unasked.clear()

    def send(self, message: Message) -> tuple[int, bytes]:
        """(sequence number, bytes for the line)."""
        number = self._sequence
        self._sequence = (number + 1) % SEQUENCES
        data = Frame(message.TYPE, number, message.encode()).encode()
        self.sent_bytes += len(data)
        return number, data

    def feed(self, data: bytes) -> None:
        """Bytes from the line. Raises Malformed; the frames before and after the bad one are kept."""
        problem: Malformed | None = None
        self.received_bytes += len(data)
        for frame in self.decoder.feed(data):
            try:
                self._sort(parse(frame))
            except Malformed as error:
                problem = error
        if problem is not None:
            raise problem

    def answer(self, number: int, kind: type[A]) -> A | None:
        """The answer to request `number`, None while there is none. Raises BoardSaidNo, Malformed."""
        message = self._answers.pop(number, None)
        if isinstance(message, Refusal):
            raise BoardSaidNo(message.reason, message.text.decode("utf-8", "replace"))
        if message is not None and not isinstance(message, kind):
            raise Malformed(f"{type(message).__name__} where {kind.__name__} was due")
        return message

    def unasked(self) -> Message | None:
        """The next message that nobody asked for."""
        return self._unasked.popleft() if self._unasked else None

    def forget_unasked(self) -> None:
        """What nobody asked for and nobody wants any more."""
        self._unasked.clear()

    def _sort(self, message: Message) -> None:
        about = getattr(message, "about", None)
        if about is not None:
            self._answers[about] = message
            while len(self._answers) > _KEEP_ANSWERS:  # late answers to requests that were given up
                del self._answers[next(iter(self._answers))]
        elif message.TYPE >= UNASKED:
            self._unasked.append(message)
        else:
            raise Malformed(f"the board sends a request, {type(message).__name__}")
