"""`qkdd convert IN OUT`: recordings of time tags from one format to another, told apart by content (IN) and suffix (OUT)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import typer
from numpy.typing import NDArray

from qkdd.device.recording import RecordingWriter
from qkdd.device.tags import TagBlock
from qkdd_drivers.picoquant.models import MULTIHARP
from qkdd_drivers.picoquant.ptu import PtuWriter
from qkdd_drivers.replay.formats import FORMATS, Reader, open_recording
from qkdd_drivers.s15_tdc2 import protocol as a1

EXIT_REFUSED = 1
MOST_PTU_UNIT_PS = 5
"""A coarser unit would be written as it is elsewhere, but few readers know one."""
SUFFIXES = (".qkdt", ".ptu", ".a1", ".a1x")


class Writer(Protocol):
    """A file that is written."""

    def add(self, block: TagBlock) -> None: ...
    def close(self) -> None: ...


class _Own:
    def __init__(self, path: Path, reader: Reader) -> None:
        self._writer = RecordingWriter(path, {"resolution_ps": reader.resolution_ps, "inputs": reader.inputs})

    def add(self, block: TagBlock) -> None:
        self._writer.write(block)

    def close(self) -> None:
        self._writer.close()


class _Ptu:
    """Channel 0 is the sync input there."""

    def __init__(self, path: Path, resolution_ps: int) -> None:
        self._writer = PtuWriter(path, model=MULTIHARP, resolution_ps=resolution_ps)

    def add(self, block: TagBlock) -> None:
        self._writer.write(block.times, block.channels, block.until)

    def close(self) -> None:
        self._writer.close()


class _A1:
    """Channel c is bit c."""

    def __init__(self, path: Path, swapped: bool) -> None:
        self._file = path.open("xb")
        self._swapped = swapped

    def add(self, block: TagBlock) -> None:
        if len(block) and int(block.channels.max()) >= a1.INPUTS:
            raise ValueError(f"an a1 file has channels 0 to {a1.INPUTS - 1}; see --shift")
        self._file.write(a1.encode(block.times, np.uint8(1) << block.channels, self._swapped))

    def close(self) -> None:
        self._file.close()


def convert(source: Path, target: Path, form: str = "auto", shift: int = 0) -> int:
    """Write `target` from `source`, `shift` added to each channel; returns the clicks. Raises OSError, ValueError."""
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    reader = open_recording(source, form)
    writer: Writer | None = None
    clicks = 0
    try:
        match target.suffix:
            case ".qkdt":
                writer = _Own(target, reader)
            case ".ptu":
                writer = _Ptu(target, min(reader.resolution_ps, MOST_PTU_UNIT_PS))
            case ".a1" | ".a1x":
                writer = _A1(target, target.suffix == ".a1x")
            case _:
                raise ValueError(f"{target}: the suffix is none of {', '.join(SUFFIXES)}")
        for block in reader.blocks():
            writer.add(_shifted(block, shift))
            clicks += len(block)
    except BaseException:
        target.unlink(missing_ok=True)  # half a file would pass for a whole one
        raise
    finally:
        reader.close()
        if writer is not None:
            writer.close()
    return clicks


def _shifted(block: TagBlock, shift: int) -> TagBlock:
    if not shift or not len(block):
        return block
    channels: NDArray[np.int64] = block.channels.astype(np.int64) + shift
    if int(channels.min()) < 0 or int(channels.max()) > 62:
        raise ValueError(f"channels {channels.min()} to {channels.max()} after the shift")
    return replace(block, channels=channels.astype(np.uint8))


def command(
    source: Annotated[Path, typer.Argument(help="Recording to read: .qkdt, PTU (T2), a1, TDC1 text.")],
    target: Annotated[Path, typer.Argument(help=f"File to write: {', '.join(SUFFIXES)} (.a1x: halves swapped).")],
    form: Annotated[str, typer.Option("--format", help=f"Of the source: {', '.join(FORMATS)}.")] = "auto",
    shift: Annotated[
        int, typer.Option(min=-8, max=8, help="Added to each channel: 1 for a TDC1's into a PTU file.")
    ] = 0,
) -> None:
    """Convert a recording of time tags."""
    try:
        clicks = convert(source, target, form, shift)
    except (OSError, ValueError) as error:
        print(f"qkdd convert: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED) from None
    typer.echo(f"{target}: {clicks} clicks")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(command)
    app(prog_name="qkdd convert")
