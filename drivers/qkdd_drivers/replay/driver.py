"""A recorded run as a time tagger: the same tags again, at the speed of then or as fast as they are taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.device import errors
from qkdd.device.config import DeviceConfig
from qkdd.device.driver import Driver
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.tags import StreamStart, TagBlock
from qkdd.device.transport import ByteLink, Denied, FrameError, Gone, Stranger
from qkdd_drivers.options import read_options
from qkdd_drivers.replay.formats import FORMATS, Reader, open_recording

OPTIONS: dict[str, Any] = {"format": "auto", "speed": 1.0}
_CADENCE = 0.05
_READ = 30.0  # seconds in which a piece of a file must have come from disk
_MOST = 1 << 20  # clicks in one block at maximal speed


class FileLink:
    """One recording; `next_block` gives its pieces in order, None at its end."""

    def __init__(self, path: Path, form: str) -> None:
        self._path, self._form = path, form
        self._reader: Reader | None = None
        self._blocks: Iterator[TagBlock] | None = None

    @property
    def key(self) -> str:
        return f"recording:{self._path}"

    def open(self, timeout: float) -> None:
        """Look whether it can be read."""
        try:
            self._path.open("rb").close()
        except PermissionError:
            raise Denied(f"{self._path} may not be read") from None
        except OSError as error:
            raise Gone(f"{self._path} cannot be read ({error.strerror})") from None

    def close(self) -> None:
        reader, self._reader, self._blocks = self._reader, None, None
        if reader is not None:
            reader.close()

    def rewind(self) -> Reader:
        """To its beginning."""
        self.close()
        try:
            self._reader = open_recording(self._path, self._form)
        except OSError as error:
            raise Gone(f"{self._path} cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise Stranger(str(error)) from None
        self._blocks = self._reader.blocks()
        return self._reader

    def next_block(self) -> TagBlock | None:
        if self._blocks is None:
            raise Gone("no stream was started")
        try:
            return next(self._blocks, None)
        except OSError as error:
            raise Gone(f"{self._path} cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise FrameError(str(error)) from None

    def write(self, data: bytes, timeout: float) -> None:
        raise FrameError("a recording takes no bytes")

    def read(self, limit: int, timeout: float) -> bytes:
        raise FrameError("a recording is read block by block")

    def discard(self) -> None:
        """Nothing comes by itself."""


class Replay(Driver):
    """Role TimeTagger."""

    progress = Field(
        doc="Get the time of the recording up to which tags were given out, in seconds", category=Category.DIAGNOSTIC
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._options = read_options(name, config.options, OPTIONS)
        speed = float(self._options["speed"])
        if self._options["format"] not in FORMATS:
            raise errors.DeviceConfigError(f"devices.{name}.options.format: none of {', '.join(FORMATS)}")
        if not (math.isfinite(speed) and speed >= 0):
            raise errors.DeviceConfigError(f"devices.{name}.options.speed: {speed:g} is neither 0 (maximal) nor above")
        self._speed = speed
        self._resolution, self._inputs = 1, 1
        self._streaming = self._ended = False
        self._waiting: TagBlock | None = None
        self._began = self._last_return = 0.0
        self._until = 0

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        if not config.recording:
            raise errors.DeviceConfigError(f"driver {config.driver!r} needs `recording`, a file of time tags")
        return (FileLink(Path(config.recording), str(config.options.get("format", "auto"))),)

    # Role TimeTagger

    @property
    def resolution_ps(self) -> int:
        return self._resolution

    @property
    def inputs(self) -> int:
        return self._inputs

    async def start(self) -> StreamStart:
        """From the beginning of the recording."""
        self.require_open("start")
        await self.run("start", lambda link: _file(link).rewind(), _READ)
        stamp = StreamStart(self._clock.wall(), self._clock.monotonic())
        self._began, self._last_return = stamp.monotonic, stamp.monotonic
        self._waiting, self._until, self._ended, self._streaming = None, 0, False, True
        return stamp

    async def read(self) -> TagBlock:
        """What is due by now. Raises RecordingEnded when all was given out."""
        if not self._streaming:
            raise self.error(errors.NotOpen, "read tags", "no stream was started")
        if self._speed:
            pause = self._last_return + _CADENCE - self._clock.monotonic()
            if pause > 0:
                await self._clock.sleep(pause)
            due = int((self._clock.monotonic() - self._began) * self._speed * 1e12)
        else:
            due = (1 << 62) - 1
        self._last_return = self._clock.monotonic()
        parts: list[TagBlock] = []
        count = 0
        while count < _MOST:
            if self._waiting is None and not await self._fetch():
                break
            part = self._cut(due)
            if part is None:
                break
            parts.append(part)
            count += len(part)
        if not parts and self._ended:
            raise self.error(errors.RecordingEnded, "read tags", f"after {self._until * 1e-12:.3f} s of recorded time")
        block = _joined(parts, self._until)
        self._until = block.until
        self._meter.add("qkdd_tagger_tags_total", len(block), device=self.name)
        if block.lost:
            self._meter.add("qkdd_tagger_tags_lost_total", block.lost, device=self.name)
        for code in block.faults:
            self._meter.add("qkdd_tagger_faults_total", device=self.name, code=code)
        return block

    async def stop(self) -> None:
        """End the stream. Idempotent."""
        self._streaming = False
        self._waiting = None

    async def _fetch(self) -> bool:
        """The next piece of the file into `_waiting`; False at the end."""
        self._waiting = await self.run("read tags", lambda link: _file(link).next_block(), _READ)
        self._ended = self._waiting is None
        return not self._ended

    def _cut(self, due: int) -> TagBlock | None:
        """The part of `_waiting` up to `due` ps; None when it is not due at all."""
        block = self._waiting
        if block is None or (len(block) and int(block.times[0]) > due):
            return None
        if block.until <= due:
            self._waiting = None
            return block
        at = int(np.searchsorted(block.times, due, side="right"))
        if not at:
            return None
        rest = TagBlock(block.times[at:], block.channels[at:], block.until)
        self._waiting = rest
        return TagBlock(block.times[:at], block.channels[:at], due, block.lost, block.faults, block.reordered)

    # Hooks

    async def _identify(self) -> Identity:
        if not self._streaming:  # else the file is open, and stands somewhere
            reader = await self.run("identify", lambda link: _file(link).rewind(), _READ, urgent=True)
            self._resolution, self._inputs = reader.resolution_ps, reader.inputs
        path = Path(self.config.recording)
        return Identity("qkdd", f"recording {path.name}", "", "")

    async def _start(self) -> None:
        """A file needs no safe state."""

    async def _make_safe(self) -> None:
        await self.stop()

    async def _get_progress(self) -> Values:
        return (self._until * 1e-12,)


def _file(link: ByteLink) -> FileLink:
    return cast(FileLink, link)


def _joined(parts: list[TagBlock], until: int) -> TagBlock:
    if not parts:
        return TagBlock(np.empty(0, np.int64), np.empty(0, np.uint8), until)
    if len(parts) == 1:
        return parts[0]
    return TagBlock(
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.channels for part in parts]),
        parts[-1].until,
        sum(part.lost for part in parts),
        tuple(sorted({code for part in parts for code in part.faults})),
        sum(part.reordered for part in parts),
    )
