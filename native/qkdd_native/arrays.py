"""Arrays and buffers on their way into C: checked, contiguous, kept alive."""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qkdd_native._kernels import ffi
from qkdd_native.status import Status, StatusError

# collections.abc.Buffer came with Python 3.12
ByteLike = bytes | bytearray | memoryview

T = TypeVar("T", bound=np.generic)
_POINTERS = {
    np.dtype(np.uint8): "uint8_t[]",
    np.dtype(np.uint32): "uint32_t[]",
    np.dtype(np.int64): "int64_t[]",
    np.dtype(np.uint64): "uint64_t[]",
    np.dtype(np.float32): "float[]",
}


def vector(values: NDArray[T], dtype: type[T], name: str) -> NDArray[T]:
    """`values` as a contiguous one-dimensional array of exactly `dtype`; anything else is refused, never converted."""
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype != np.dtype(dtype):
        kind = f"{values.dtype}{list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise StatusError(Status.BAD_ARGUMENT, f"{name} must be a one-dimensional {np.dtype(dtype)} array, not {kind}")
    return np.ascontiguousarray(values)


def pointer(values: NDArray[Any]) -> Any:
    """C pointer to a contiguous array; valid while the array lives."""
    return ffi.from_buffer(_POINTERS[values.dtype], values)


def octets(data: ByteLike | NDArray[np.uint8], name: str) -> Any:
    """C pointer to a bytes-like object."""
    try:
        return ffi.from_buffer("uint8_t[]", data)
    except (TypeError, ValueError, BufferError) as error:
        raise StatusError(Status.BAD_ARGUMENT, f"{name} must be a contiguous bytes-like object: {error}") from error


def size(value: int, name: str, most: int = 1 << 40) -> int:
    """A non-negative size."""
    if not 0 <= value <= most:
        raise StatusError(Status.BAD_ARGUMENT, f"{name} must be between 0 and {most}, not {value}")
    return int(value)


def integer(value: int, name: str) -> int:
    """An integer that fits int64."""
    if not -(1 << 63) <= value < 1 << 63:
        raise StatusError(Status.BAD_ARGUMENT, f"{name} must fit 64 bits, not {value}")
    return int(value)


def same_length(a: NDArray[Any], b: NDArray[Any], names: str) -> None:
    if len(a) != len(b):
        raise StatusError(Status.BAD_ARGUMENT, f"{names} must be of equal length, not {len(a)} and {len(b)}")


class Workspaces:
    """Scratch memory that is used again: fresh memory costs a page fault every 4 KiB, at some sizes more than the kernel itself.

    Kernels zero theirs before they return. The two largest are kept, one a core, of at most `most` words each. Any number of
    threads may share one object.
    """

    __slots__ = ("_kept", "_lock", "_most")

    def __init__(self, most: int = 1 << 24) -> None:
        self._kept: list[NDArray[np.uint64]] = []
        self._lock = Lock()
        self._most = most

    def take(self, words: int) -> NDArray[np.uint64]:
        """At least `words` words of any content; to be given back with `keep`."""
        with self._lock:
            for place, kept in enumerate(self._kept):  # the smallest that will do
                if len(kept) >= words:
                    return self._kept.pop(place)
        # sizes follow an estimate and vary by a percent: the next block's shall fit too
        return np.empty(words + words // 16, np.uint64)

    def keep(self, workspace: NDArray[np.uint64]) -> None:
        if len(workspace) <= self._most:
            with self._lock:
                self._kept = sorted((*self._kept, workspace), key=len)[-2:]
