"""What drivers share whose instrument only speaks when it is asked: one line, one question, one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver
from qkdd.device.roles import Identity
from qkdd.device.transport import ByteLink, ByteReader, FrameError

T = TypeVar("T")


class DialogueDriver(Driver):
    """Base of such drivers. What comes before a question is late or noise, so each question throws it away."""

    answer_time: ClassVar[float] = 1.0
    """Seconds for an answer that needs no motion."""

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._reader = ByteReader(links[0], clock)

    async def _connect(self) -> Identity:
        self._reader.forget()
        return await super()._connect()

    async def exchange(
        self,
        operation: str,
        question: bytes,
        answer: Callable[[ByteReader, float], T],
        timeout: float | None = None,
        *,
        urgent: bool = False,
    ) -> T:
        """Send a question and cut its answer with `answer(reader, seconds for each read)`, in the line's thread."""
        seconds = self.answer_time if timeout is None else timeout

        def call(_: ByteLink) -> T:
            self._reader.ask(question, self.answer_time)
            return answer(self._reader, seconds)

        return await self.run(operation, call, seconds + self.answer_time, urgent=urgent)


def text_line(data: bytes) -> str:
    """An answer as text. Raises FrameError when it is not printable ASCII."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise FrameError(f"an answer that is no text: {data[:60]!r}")
    return text
