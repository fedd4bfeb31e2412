"""Recordings of time taggers as files: the text dump of a TDC1 and binary a1 streams, as `TagBlock`s."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qkdd import kernels
from qkdd.device.tags import TagBlock, in_order
from qkdd_drivers.s15_tdc1.protocol import UNIT_PS, WRAP_UNITS


def read_tdc1_text(path: Path) -> TagBlock:
    """The text dump that the vendor's LabVIEW program writes: five columns of pattern bits, then the time in ns.

    One event a line, newest first. The first column belongs to the highest bit; input n of the TDC1 is bit n, so the last
    column is input 0. A step back in time is taken as a wrap of the counter (268.435456 ms), as in the stream itself; where
    a file joins several runs it is only their border. Times are picoseconds since the first event. Raises ValueError naming
    the line.
    """
    rows = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != 6 or not all(cell in ("0", "1") for cell in row[:5]) or not row[5].isdigit():
            raise ValueError(f"{path}:{number}: not five pattern columns and a time in ns")
    table = np.array(rows, np.int64).reshape(-1, 6)[::-1]
    patterns = (table[:, :5] @ np.array([16, 8, 4, 2, 1])).astype(np.uint8)
    wraps = np.cumsum(np.diff(table[:, 5], prepend=table[:1, 5]) < 0)
    return _block(table[:, 5] * 1000 + wraps * (WRAP_UNITS * UNIT_PS), patterns)


def read_a1(path: Path, *, swapped: bool) -> TagBlock:
    """A binary a1 stream (`readevents7 -a 1`, with `swapped` also -X), picoseconds since the earliest record.

    Dummies are dropped. A file is one buffer of its tagger: records that were written after a later one are put into their
    place and counted in `reordered`, so that the block keeps the contract of a stream. Raises ValueError when the file is no
    whole number of records.
    """
    data = path.read_bytes()
    if len(data) % 8:
        raise ValueError(f"{path}: {len(data)} bytes are no whole number of 8-byte records")
    times, patterns, dummies = kernels.decode_a1(data, swapped)
    return _block(*in_order(times[~dummies], patterns[~dummies]))


def _block(
    times: np.ndarray[tuple[int], np.dtype[np.int64]],
    patterns: np.ndarray[tuple[int], np.dtype[np.uint8]],
    reordered: int = 0,
) -> TagBlock:
    if not len(times):
        return TagBlock(np.empty(0, np.int64), np.empty(0, np.uint8), 0)
    stamps, channels = kernels.expand_patterns(times - times[0], patterns & np.uint8(15))
    return TagBlock(stamps, channels, int(times[-1] - times[0]), reordered=reordered)
