"""Lines that can be cut: a proxy before each address, for TCP and UNIX sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

_READ = 1 << 16
Target = tuple[str, int] | Path


class Cut(StrEnum):
    """What happens to a line for a while."""

    RESET = "reset"  # connections end at once, new ones too
    SILENT = "silent"  # connections stand and carry nothing; they end when the line comes back
    ANSWERS_LOST = "answers lost"  # what the client sends arrives, what the server says does not


class Line:
    """A listener that passes everything on to one of `targets`, unless it is cut. `address` is known after `open`."""

    def __init__(self, targets: Sequence[Target], seed: int, path: Path | None = None) -> None:
        """path: listen on this UNIX socket instead of a free TCP port."""
        self._targets, self._path = list(targets), path
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cuts: list[Cut] = []
        self.address: tuple[str, int] = ("", 0)

    async def open(self) -> Line:
        if self._path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_READ)
            self._path.chmod(0o777)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_READ, backlog=1024)
            self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cut(self, how: Cut, seconds: float) -> None:
        """Cut the line for so long. Cuts may overlap: the line is back when the last one is over."""
        self._cuts.append(how)
        try:
            if how is Cut.RESET:
                self._drop()
            await asyncio.sleep(seconds)
        finally:
            self._cuts.remove(how)
            self._drop()  # a stream out of which something fell cannot go on

    def _drop(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _is(self, *kinds: Cut) -> bool:
        return any(cut in kinds for cut in self._cuts)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            if self._is(Cut.RESET):
                return
            there = await self._connect()
            if there is None:
                return
            back, forth = there
            self._writers.add(forth)
            try:
                await asyncio.gather(
                    self._carry(reader, forth, Cut.SILENT), self._carry(back, writer, Cut.SILENT, Cut.ANSWERS_LOST)
                )
            finally:
                self._writers.discard(forth)
                forth.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """To any target that listens."""
        for target in self._random.sample(self._targets, len(self._targets)):
            try:
                if isinstance(target, Path):
                    return await asyncio.open_unix_connection(target, limit=_READ)
                return await asyncio.open_connection(*target, limit=_READ)
            except OSError:
                continue
        return None

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *held_by: Cut) -> None:
        """Pass bytes on until one end is gone; while a cut of `held_by` stands they fall."""
        try:
            while data := await reader.read(_READ):
                if self._is(*held_by):
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()
