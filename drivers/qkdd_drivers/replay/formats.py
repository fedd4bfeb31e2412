"""Recordings of every known format as blocks of tags, told apart by their content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qkdd.device import recording
from qkdd.device.tags import TagBlock
from qkdd_drivers.picoquant import ptu
from qkdd_drivers.recordings import read_tdc1_text
from qkdd_drivers.s15_tdc2.stream import A1Stream

FORMATS = ("auto", "qkdd", "ptu", "a1", "a1-swapped", "tdc1-text")
_A1_PIECE = 1 << 20


class Reader(Protocol):
    """An opened recording."""

    @property
    def resolution_ps(self) -> int: ...

    @property
    def inputs(self) -> int: ...

    def blocks(self) -> Iterator[TagBlock]:
        """In order; raises ValueError where the file is damaged."""

    def close(self) -> None: ...


def open_recording(path: Path, form: str) -> Reader:
    """Open a recording. Raises OSError, and ValueError when it is not of the format (`auto`: of none)."""
    if form == "auto":
        form = _recognised(path)
    match form:
        case "qkdd":
            return recording.RecordingReader(path)
        case "ptu":
            return ptu.PtuReader.open(path)
        case "tdc1-text":
            return _Whole(read_tdc1_text(path), 2000, 4)
        case _:
            return _A1(path, form == "a1-swapped")


def _recognised(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8 * 512)
    if start.startswith(recording.MAGIC):
        return "qkdd"
    if start.startswith(ptu.MAGIC):
        return "ptu"
    if start[:1] in (b"0", b"1") and not start.strip(b"0123456789 \t\r\n"):
        return "tdc1-text"
    # a1 has no magic: it is taken for one when its times make sense in exactly one order of the halves
    sound = [name for name, swapped in (("a1", False), ("a1-swapped", True)) if _sound(start, swapped)]
    if len(sound) == 1:
        return sound[0]
    raise ValueError(f"{path}: the format is not recognised; name it: {', '.join(FORMATS[1:])}")


def _sound(start: bytes, swapped: bool) -> bool:
    whole = start[: len(start) // 8 * 8]
    return len(whole) >= 8 * 4 and not A1Stream(swapped).feed(whole).faults


@dataclass(slots=True)
class _Whole:
    """A format that is read at once."""

    block: TagBlock
    resolution_ps: int
    inputs: int

    def blocks(self) -> Iterator[TagBlock]:
        step = 1 << 18
        for at in range(0, len(self.block), step):
            times, channels = self.block.times[at : at + step], self.block.channels[at : at + step]
            yield TagBlock(times, channels, int(times[-1]))

    def close(self) -> None:
        """Nothing is open."""


class _A1:
    """A file of a1 records."""

    resolution_ps = 4
    inputs = 4

    def __init__(self, path: Path, swapped: bool) -> None:
        self._file: Any = path.open("rb")
        self._swapped = swapped

    def blocks(self) -> Iterator[TagBlock]:
        stream = A1Stream(self._swapped)
        while data := self._file.read(_A1_PIECE):
            yield stream.feed(data)
        if stream.partial:
            raise ValueError("the file ends in the middle of a record")
        yield stream.finish()

    def close(self) -> None:
        self._file.close()
