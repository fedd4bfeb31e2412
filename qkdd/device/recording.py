"""Recordings of tag streams in our own format: everything a `TagBlock` says, so that a run can be processed again.

`qkdd-tags 1` and a line of JSON (device, resolution, inputs, host times of the start), then blocks: a head of 40 bytes (count,
until, lost, reordered, length of the fault codes, CRC-32C over the rest), times as int64 ps, channels as uint8, fault codes; all
little-endian. A file whose end is missing (power failure) is sound up to its last whole block.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from qkdd import kernels
from qkdd.device.tags import TagBlock

MAGIC = b"qkdd-tags 1\n"
SUFFIX = ".qkdt"
_HEAD = struct.Struct("<qqqqII")  # count, until, lost, reordered, bytes of fault codes, CRC-32C
_MOST = 1 << 28  # clicks in a block; more is a damaged head


class RecordingWriter:
    """Writes one file. Raises OSError."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """about: goes into the file as it is (JSON); `resolution_ps` and `inputs` must be in it."""
        self._file = path.open("xb")
        self._file.write(MAGIC + json.dumps(about, ensure_ascii=True).encode() + b"\n")
        self.clicks = 0

    def write(self, block: TagBlock) -> None:
        """Append one block."""
        faults = "\n".join(block.faults).encode("ascii")
        body = block.times.astype("<i8").tobytes() + block.channels.tobytes() + faults
        head = (len(block), block.until, block.lost, block.reordered, len(faults))
        self._file.write(_HEAD.pack(*head, kernels.crc32c(_HEAD.pack(*head, 0) + body)))
        self._file.write(body)
        self.clicks += len(block)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class RecordingReader:
    """One opened file. Raises OSError, ValueError."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise ValueError("no recording of qkdd")
            self.about: dict[str, Any] = json.loads(self._file.readline(1 << 16))
            self.resolution_ps, self.inputs = int(self.about["resolution_ps"]), int(self.about["inputs"])
        except (ValueError, KeyError, TypeError) as error:
            self._file.close()
            raise ValueError(f"{path}: {error}") from None

    def blocks(self) -> Iterator[TagBlock]:
        """All whole blocks. Raises ValueError at a damaged one."""
        while len(head := self._file.read(_HEAD.size)) == _HEAD.size:
            count, until, lost, reordered, fault_bytes, check = _HEAD.unpack(head)
            if not 0 <= count <= _MOST or fault_bytes > 4096:
                raise ValueError("a block's head is damaged")
            body = self._file.read(9 * count + fault_bytes)
            if len(body) < 9 * count + fault_bytes:
                return  # the end is missing
            if kernels.crc32c(head[:-4] + bytes(4) + body) != check:
                raise ValueError("a block is damaged")
            times = np.frombuffer(body, "<i8", count).astype(np.int64)
            channels = np.frombuffer(body, np.uint8, count, 8 * count).copy()
            faults = tuple(code for code in body[9 * count :].decode("ascii", "replace").split("\n") if code)
            yield TagBlock(times, channels, until, lost, faults, reordered)

    def close(self) -> None:
        self._file.close()
