"""Replay: a fixed dialogue that checks bytes. What is sent must be what was recorded; what is left over fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from qkdd.device.transport import Gone

Exchange = tuple[bytes, bytes]


class ReplayMismatch(AssertionError):
    """The driver said something else than the recording, or not all of it."""


class ReplayLink:
    """A byte link over pairs (sent, received). The answer to each is there as soon as all of the question was sent."""

    def __init__(self, dialogue: Iterable[Exchange], key: str = "replay:") -> None:
        self._dialogue = list(dialogue)
        self._expected = bytearray()
        self._incoming = bytearray()
        self._next = 0
        self._key = key

    @property
    def key(self) -> str:
        return self._key

    def open(self, timeout: float) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close; call `finish` to check that all was said."""

    def write(self, data: bytes, timeout: float) -> None:
        for offset, byte in enumerate(data):
            if not self._expected:
                if self._next == len(self._dialogue):
                    raise ReplayMismatch(f"{data[offset:]!r} was sent after the end of the dialogue")
                self._expected += self._dialogue[self._next][0]
            if byte != self._expected[0]:
                raise ReplayMismatch(
                    f"exchange {self._next}: {data[offset:]!r} was sent where {bytes(self._expected)!r} was due"
                )
            del self._expected[0]
            if not self._expected:
                self._incoming += self._dialogue[self._next][1]
                self._next += 1

    def read(self, limit: int, timeout: float) -> bytes:
        data = bytes(self._incoming[:limit])
        del self._incoming[:limit]
        return data

    def discard(self) -> None:
        self._incoming.clear()

    def finish(self) -> None:
        """Raise ReplayMismatch when a part of the dialogue was never reached."""
        if self._expected or self._next < len(self._dialogue):
            rest = bytes(self._expected) or self._dialogue[self._next][0]
            raise ReplayMismatch(f"exchange {self._next} of {len(self._dialogue)} was not reached: {rest!r}")


@contextmanager
def replay(*dialogue: Exchange) -> Iterator[ReplayLink]:
    """`with replay((sent, received), …) as link:`; leaving the block checks that nothing is left over."""
    link = ReplayLink(dialogue)
    yield link
    link.finish()


class DeadLink:
    """A line to nowhere: opens fail."""

    key = "dead:"

    def open(self, timeout: float) -> None:
        raise Gone("nothing is there")

    def close(self) -> None:
        """Nothing is open."""

    def write(self, data: bytes, timeout: float) -> None:
        raise Gone("nothing is there")

    def read(self, limit: int, timeout: float) -> bytes:
        raise Gone("nothing is there")

    def discard(self) -> None:
        """Nothing has come."""
