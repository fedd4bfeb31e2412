"""Key material in a holder that cannot be rendered, pickled or compared by accident.

The buffer is zeroed on `wipe()` and when the holder dies. What libraries copy on the way (hashes, AES, TLS) is listed in
docs/security.md.
"""

from __future__ import annotations

import hmac
from typing import Never

# collections.abc.Buffer came with Python 3.12
ByteLike = bytes | bytearray | memoryview
_ZEROS = bytes(65536)


class Secret:
    """`size` bytes of key material. Use `reveal()` at the one place that needs the bytes."""

    __slots__ = ("_buffer",)

    def __init__(self, data: ByteLike) -> None:
        self._buffer = bytearray(data)

    @classmethod
    def take(cls, buffer: bytearray) -> Secret:
        """Adopt `buffer` without a copy; the caller must drop its own reference."""
        holder = cls.__new__(cls)
        holder._buffer = buffer
        return holder

    def reveal(self) -> memoryview:
        """Read-only view on the bytes; do not keep it longer than the operation that needs it."""
        return memoryview(self._buffer).toreadonly()

    def __len__(self) -> int:
        return len(self._buffer)

    def same_as(self, other: Secret) -> bool:
        """Constant-time comparison."""
        return hmac.compare_digest(self._buffer, other._buffer)

    def wipe(self) -> None:
        """Zero the buffer; the holder keeps its length and holds zeros from now on."""
        for start in range(0, len(self._buffer), len(_ZEROS)):
            stop = min(start + len(_ZEROS), len(self._buffer))
            self._buffer[start:stop] = _ZEROS[: stop - start]

    def __del__(self) -> None:
        buffer = getattr(self, "_buffer", None)
        if buffer:
            self.wipe()

    def __repr__(self) -> str:
        return f"<Secret {len(self._buffer)} bytes>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        raise TypeError("compare secrets with same_as()")

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __iter__(self) -> Never:
        raise TypeError("a Secret is not iterable; use reveal()")

    def __bytes__(self) -> Never:
        raise TypeError("use reveal()")

    def __reduce__(self) -> Never:
        raise TypeError("a Secret cannot be pickled")

    def __copy__(self) -> Never:
        raise TypeError("a Secret cannot be copied; pass the holder on")

    def __deepcopy__(self, memo: object) -> Never:
        raise TypeError("a Secret cannot be copied; pass the holder on")
