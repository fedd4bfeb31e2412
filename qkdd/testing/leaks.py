"""A test that leaves a thread, a task or a file descriptor behind has failed."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

_PATIENCE = 50  # looks at 10 ms distance until what is ending has ended


class Leaked(AssertionError):
    """Something was left behind."""


def open_files() -> dict[int, str]:
    """Descriptors of this process and what they are; Linux."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def _threads() -> set[threading.Thread]:
    # the loop's default executor keeps its threads until the loop is closed
    return {t for t in threading.enumerate() if not t.name.startswith("asyncio_")}


@contextmanager
def no_leaks() -> Iterator[None]:
    """Around a whole test (outside of `asyncio.run`): no new thread, no new file descriptor afterwards."""
    gc.collect()
    threads, files = _threads(), open_files()
    yield
    _compare(threads, files)


@asynccontextmanager
async def no_leaks_async() -> AsyncIterator[None]:
    """Inside a running loop: no new thread, task or file descriptor after the block."""
    gc.collect()
    threads, files, tasks = _threads(), open_files(), asyncio.all_tasks()
    yield
    for _ in range(_PATIENCE):
        if _threads() <= threads and asyncio.all_tasks() <= tasks:
            break
        await asyncio.sleep(0.01)
    left = asyncio.all_tasks() - tasks
    if left:
        raise Leaked(f"tasks left: {[t.get_name() for t in left]}")
    _compare(threads, files)


def _compare(threads: set[threading.Thread], files: dict[int, str]) -> None:
    for _ in range(_PATIENCE):
        new_threads = _threads() - threads
        if not new_threads:
            break
        next(iter(new_threads)).join(0.01)
    gc.collect()
    new_files = {fd: name for fd, name in open_files().items() if files.get(fd) != name}
    if new_threads or new_files:
        raise Leaked(f"threads left: {sorted(t.name for t in new_threads)}; files left: {new_files}")
