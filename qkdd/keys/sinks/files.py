"""Key files and programs that take one (docs/rooms/keys.md, Format of key files)."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from qkdd.core.clock import Clock
from qkdd.core.folders import sync_folder
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.keys.sinks.config import ExecSink, FileSink
from qkdd.keys.sinks.contract import Item

FORMAT = "qkdd key file 1"
_REFUSED = 65  # EX_DATAERR, sysexits(3)


def document(item: Item) -> bytes:
    """One chunk as a key file's content. Secret."""
    value = base64.b64encode(item.material.reveal()).decode("ascii")
    return json.dumps({"format": FORMAT, "id": item.chunk_id, **item.about, "value": value}).encode() + b"\n"


class FileTarget:
    """`<id>.json`, mode 0600, complete or not there."""

    def __init__(self, config: FileSink) -> None:
        self._directory = Path(config.directory)

    async def store(self, items: list[Item]) -> set[str]:
        return await asyncio.to_thread(self._store, items)

    def _store(self, items: list[Item]) -> set[str]:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for item in items:
                self._write(item)
            sync_folder(self._directory)
        except OSError as error:
            raise HandOverFailed(f"{self._directory}: {error.strerror}") from None
        return {item.chunk_id for item in items}

    def _write(self, item: Item) -> None:
        target, data = self._directory / f"{item.chunk_id}.json", document(item)
        if target.exists():
            if not hmac.compare_digest(target.read_bytes(), data):
                raise HandOverRefused(f"{target}: there is another file of this name")
            return
        scratch = self._directory / f".{item.chunk_id}.new"
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(target)

    async def close(self) -> None:
        """Nothing is open."""


class ExecTarget:
    """One run of the program for each chunk, one after the other."""

    def __init__(self, config: ExecSink, clock: Clock) -> None:
        self._config, self._clock = config, clock

    async def store(self, items: list[Item]) -> set[str]:
        done = set()
        for item in items:
            await self._run(item)
            done.add(item.chunk_id)
        return done

    async def _run(self, item: Item) -> None:
        name = self._config.command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._config.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise HandOverFailed(f"{name}: {error.strerror}") from None
        try:
            async with self._clock.deadline(self._config.deadline):
                await process.communicate(document(item))
        except TimeoutError:
            raise HandOverFailed(f"{name}: did not end in time") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode == _REFUSED:
            raise HandOverRefused(f"{name}: refuses the chunk (exit code {_REFUSED})")
        if process.returncode != 0:
            raise HandOverFailed(f"{name}: exit code {process.returncode}")

    async def close(self) -> None:
        """Nothing is open."""
