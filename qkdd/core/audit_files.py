"""The files of one audit log: `audit.log` is written, `audit-000000000001.log` and so on are closed and never touched again.

The number is that of a segment's first line. A closed segment may be moved to an archive: the chain in the next one's first line
says what it went on from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

SEGMENT = 64 << 20  # bytes of a segment
SMALLEST = 1 << 20  # below it the certificates in each segment would be a good part of it
_LINE = 1 << 16  # no line is longer: certificates are the longest, and take some 15 kB


def head_path(path: Path) -> Path:
    """The file that names the last signed line."""
    return path.with_name(path.name + ".head")


def closed_path(path: Path, first: int) -> Path:
    """Where the segment that begins with line `first` goes when it is closed."""
    return path.with_name(f"{path.stem}-{first:012d}{path.suffix}")


def closed_segments(path: Path) -> dict[int, Path]:
    """The closed segments beside the log, by the number of their first line, oldest first."""
    name = re.compile(re.escape(path.stem) + r"-(\d{12})" + re.escape(path.suffix))
    found = {int(match[1]): file for file in path.parent.iterdir() if (match := name.fullmatch(file.name))}
    return dict(sorted(found.items()))


def whole_lines(path: Path) -> tuple[int, bytes]:
    """Bytes up to the end of the last whole line, and that line (empty when there is none)."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        start = end
        tail = b""
        while start > 0 and tail.count(b"\n") < 2:
            step = min(_LINE, start)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
    whole = tail[: tail.rfind(b"\n") + 1]
    size = start + len(whole)
    return size, whole.splitlines()[-1] if whole else b""


def first_line(path: Path) -> bytes:
    """The first line; empty when there is none."""
    with path.open("rb") as file:
        return file.readline()


def bad_segment(size: int) -> Iterator[tuple[str, str, str]]:
    """For `check` of a configuration section with `audit_segment`."""
    if size < SMALLEST:
        yield "audit_segment", f"{size} bytes is too small a file", f"at least {SMALLEST}"
