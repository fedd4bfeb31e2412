"""Bad wires: put one around a link (`build(..., wrap=ByteAtATime)`) and the driver must still be right, or say what is wrong.

All of them are repeatable: what is lost or garbled is chosen by a seeded generator.
"""

from __future__ import annotations

import random
import threading
from typing import Any

from qkdd.device.transport import ByteLink, Gone


class Wire:
    """Passes everything on; base of the bad ones."""

    def __init__(self, inner: ByteLink) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        """Verbs beside the bytes (a ring of tags, a signal to a child) go on as they are."""
        return getattr(self.inner, name)

    @property
    def key(self) -> str:
        return self.inner.key

    def open(self, timeout: float) -> None:
        self.inner.open(timeout)

    def close(self) -> None:
        self.inner.close()

    def write(self, data: bytes, timeout: float) -> None:
        self.inner.write(data, timeout)

    def read(self, limit: int, timeout: float) -> bytes:
        return self.inner.read(limit, timeout)

    def discard(self) -> None:
        self.inner.discard()

    def control(self, request_type: int, request: int, value: int, index: int, length: int, timeout: float) -> bytes:
        """A USB control transfer, if the link has them."""
        answer: bytes = self.inner.control(request_type, request, value, index, length, timeout)  # type: ignore[attr-defined]
        return self.passed(answer)

    def passed(self, answer: bytes) -> bytes:
        """What the wire makes of the answer to a control transfer."""
        return answer


class ByteAtATime(Wire):
    """Delivers one byte per read and sends one byte per write: no frame arrives whole. Harmless to a right driver."""

    def write(self, data: bytes, timeout: float) -> None:
        for byte in data:
            self.inner.write(bytes([byte]), timeout)

    def read(self, limit: int, timeout: float) -> bytes:
        return self.inner.read(1, timeout)


class Slow(Wire):
    """Every read comes back empty-handed first, and every answer 20 ms late. Harmless to a right driver."""

    delay = 0.02

    def read(self, limit: int, timeout: float) -> bytes:
        threading.Event().wait(min(self.delay, max(timeout, 0.0)))
        return self.inner.read(limit, max(timeout - self.delay, 0.0))


class Lossy(Wire):
    """Loses bytes in both directions with probability `loss` once `active`."""

    loss = 0.2

    def __init__(self, inner: ByteLink, seed: int = 1) -> None:
        super().__init__(inner)
        self.active = True
        self._random = random.Random(seed)

    def _thin(self, data: bytes) -> bytes:
        return bytes(b for b in data if self._random.random() >= self.loss) if self.active else data

    def passed(self, answer: bytes) -> bytes:
        return self._thin(answer)

    def write(self, data: bytes, timeout: float) -> None:
        if kept := self._thin(data):
            self.inner.write(kept, timeout)

    def read(self, limit: int, timeout: float) -> bytes:
        return self._thin(self.inner.read(limit, timeout))


class Garbage(Wire):
    """Everything that is received is replaced by random bytes while `active`."""

    def __init__(self, inner: ByteLink, seed: int = 1) -> None:
        super().__init__(inner)
        self.active = True
        self._random = random.Random(seed)

    def read(self, limit: int, timeout: float) -> bytes:
        return self.passed(self.inner.read(limit, timeout))

    def passed(self, answer: bytes) -> bytes:
        return self._random.randbytes(len(answer)) if self.active else answer


class Unplugged(Wire):
    """The line goes away after `bytes_left` more bytes in either direction; opening works again after `plug`."""

    def __init__(self, inner: ByteLink, bytes_left: int | None = None) -> None:
        super().__init__(inner)
        self.bytes_left = bytes_left

    def plug(self) -> None:
        """Bring the line back."""
        self.bytes_left = None

    def _spend(self, count: int) -> None:
        if self.bytes_left is not None:
            self.bytes_left -= count
            if self.bytes_left < 0:
                raise Gone("unplugged in the middle")

    def passed(self, answer: bytes) -> bytes:
        self._spend(len(answer))
        return answer

    def open(self, timeout: float) -> None:
        if self.bytes_left is not None and self.bytes_left < 0:
            raise Gone("unplugged")
        self.inner.open(timeout)

    def write(self, data: bytes, timeout: float) -> None:
        self._spend(len(data))
        self.inner.write(data, timeout)

    def read(self, limit: int, timeout: float) -> bytes:
        self._spend(0)
        data = self.inner.read(limit, timeout)
        self._spend(len(data))
        return data
