"""What stands between a driver and an instrument: links, their failures, and a reader that cuts bytes into answers.

A *link* is one opened resource, used by one worker thread (`qkdd.device.bus`): a serial port or a TCP connection here; a
VISA session, a USB interface, a vendor library or a child process have the same life (`open`, verbs of their own, `close`)
and raise the same four failures. All verbs block and have their own hard time-out: a thread must never wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qkdd.core.clock import Clock


class LinkFailure(Exception):
    """What a link raises; the bus turns it into a `DeviceError` with device, bus and operation."""


class Gone(LinkFailure):
    """Not there, or went away."""


class TimedOut(LinkFailure):
    """Did not move in time."""


class Hung(TimedOut):
    """A call overran its own time-out; the process in which it ran was killed. The link must be opened anew."""


class Busy(LinkFailure):
    """Somebody else holds it."""


class Denied(LinkFailure):
    """This user may not open it."""


class Crashed(Gone):
    """The process that a vendor's code lived in ended by itself."""


class Unusable(LinkFailure):
    """The vendor's library, package or program cannot be used: not there, of another kind, or a part is missing."""


class Overrun(LinkFailure):
    """A tagger's buffer overran, and its stream cannot go on."""


class FrameError(ValueError):
    """An answer breaks the protocol; raised by the pure functions of a driver's protocol.py."""


class Refused(Exception):
    """The instrument said no, in the words of its protocol; raised by the pure functions of a driver's protocol.py."""


class Link(Protocol):
    """One resource. The constructor does no I/O. `open` that fails leaves nothing behind; `close` is idempotent."""

    @property
    def key(self) -> str:
        """Names the resource in this process and in errors, for example "tcp:192.0.2.1:12000"."""

    def open(self, timeout: float) -> None: ...

    def close(self) -> None: ...


class ByteLink(Link, Protocol):
    """A link that carries bytes without frames."""

    def write(self, data: bytes, timeout: float) -> None:
        """Send all of it, or raise."""

    def read(self, limit: int, timeout: float) -> bytes:
        """What is there, 1 to `limit` bytes; waits up to `timeout` for the first one. Empty when none came."""

    def discard(self) -> None:
        """Throw away what has come and was not read."""


class Stranger(Exception):
    """Something else than the expected instrument answers; raised where an answer is understood but not its sender's."""


Wrap = Callable[[ByteLink], ByteLink]


class ByteReader:
    """Cuts what a link delivers into answers; keeps what came after one for the next.

    `ask` and `settled` bracket an exchange. After one that failed, the next `ask` first throws away what may have come
    late; after one that went well nothing is thrown away, so that a message that nobody asked for is never cut in two.
    """

    def __init__(self, link: ByteLink, clock: Clock, chunk: int = 4096) -> None:
        self._link, self._clock, self._chunk = link, clock, chunk
        self._buffer = bytearray()
        self._doubtful = True

    def forget(self) -> None:
        """The line was opened anew: what is kept here belongs to the old one."""
        self._buffer.clear()
        self._doubtful = True

    def ask(self, question: bytes, timeout: float) -> None:
        """Send a question."""
        if self._doubtful:
            self.discard()
        self._doubtful = True
        self._link.write(question, timeout)

    def settled(self) -> None:
        """The answer was complete."""
        self._doubtful = False

    def discard(self) -> None:
        """Throw away what came too early or too late."""
        self._buffer.clear()
        self._link.discard()

    def exactly(self, count: int, timeout: float) -> bytes:
        """`count` bytes. Raises TimedOut saying how many came."""
        end = self._clock.monotonic() + timeout
        while len(self._buffer) < count:
            self._fill(end, f"{len(self._buffer)} of {count} bytes came")
        return self._take(count)

    def until(self, terminator: bytes, timeout: float, limit: int = 65536) -> bytes:
        """Bytes up to `terminator`, without it. Raises TimedOut, or FrameError when `limit` bytes hold no terminator."""
        end = self._clock.monotonic() + timeout
        searched = 0
        while (at := self._buffer.find(terminator, max(0, searched - len(terminator)))) < 0:
            searched = len(self._buffer)
            if searched >= limit:
                raise FrameError(f"{searched} bytes without the end of an answer")
            self._fill(end, f"{searched} bytes of an answer came" if searched else "no answer")
        answer = self._take(at)
        del self._buffer[: len(terminator)]
        return answer

    def _fill(self, end: float, so_far: str) -> None:
        remaining = end - self._clock.monotonic()
        data = self._link.read(self._chunk, remaining) if remaining > 0 else b""
        if not data:
            raise TimedOut(so_far)
        self._buffer += data

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data
