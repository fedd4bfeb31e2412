"""How long a test waits for what must happen: a guard against hanging for ever, never the thing that is judged.

A loaded machine does in ten seconds what a quiet one does in one, so a limit that is near to what a test needs makes it fail
by chance. All waiting for an event of another thread, process or machine has this one limit; it costs nothing while the event
comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 120.0
"""Seconds."""

_LOOK_S = 0.02


def until(condition: Callable[[], T], what: str = "it", seconds: float = PATIENCE_S) -> T:
    """The condition's value once it is true; looks every 20 ms. Raises AssertionError when it did not become true."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        time.sleep(_LOOK_S)
    return found


async def until_async(condition: Callable[[], T], what: str = "it", seconds: float = PATIENCE_S) -> T:
    """As `until`, beside a running event loop."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(_LOOK_S)
    return found


class Stopwatch:
    """Seconds since it was made as on a machine of one's own: without the time in which this process's threads were ready to
    run and others had the processors (Linux: /proc/self/task/*/schedstat). For limits that are promised in seconds."""

    def __init__(self) -> None:
        self._began, self._pushed_aside = time.monotonic(), _pushed_aside()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began - max(0.0, _pushed_aside() - self._pushed_aside)


def _pushed_aside() -> float:
    total = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            total += int(file.read_text().split()[1])
    return total / 1e9
