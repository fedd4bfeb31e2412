"""The processes of the demonstration: started together, watched together, always ended."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

GRACE = 10.0  # s between the polite and the hard end
_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    """In the child: if the demonstration is killed so hard that it cannot clean up, the kernel does."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class ChildEnded(Exception):
    """A process of the demonstration ended although it should not."""


class Child:
    """One process; its standard error (and output, unless piped) goes to a log file in the run folder."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def tail(self, lines: int = 12) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


class Children:
    """All processes of one run. Use as an async context manager: on leaving, every child has ended."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def start(self, name: str, command: Sequence[str | Path], *, piped: bool = False) -> Child:
        """Start a child; with `piped` its standard output can be read by us."""
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            process = await self._spawn(command, log, piped)
        child = Child(name, process, path)
        self._children.append(child)
        return child

    @staticmethod
    async def _spawn(command: Sequence[str | Path], log: IO[bytes], piped: bool) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if piped else log,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C is for the demonstration, which then ends its children in order
            preexec_fn=_end_with_parent,
        )

    async def any_ended(self) -> ChildEnded:
        """Wait until a child ends by itself."""
        waits = {asyncio.ensure_future(child.process.wait()): child for child in self._children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        child = waits[done.pop()]
        return ChildEnded(f"{child.name} ended with {child.process.returncode}; {child.log} ends:\n{child.tail()}")

    async def end(self) -> None:
        """SIGTERM in the reverse order of the start (applications before what they stand on), SIGKILL for what stays."""
        for child in reversed(self._children):
            if child.process.returncode is None:
                _signal(child, signal.SIGTERM)
                try:
                    await asyncio.wait_for(child.process.wait(), GRACE)
                except TimeoutError:
                    _signal(child, signal.SIGKILL)
                    await child.process.wait()
        self._children.clear()


def _signal(child: Child, number: signal.Signals) -> None:
    """To the child's session. Not through the process object, which would reap a child that has just ended and so take its
    exit status from the watcher that waits for it."""
    with suppress(ProcessLookupError):  # ended in this moment
        os.killpg(child.process.pid, number)
