"""The classical line between the two nodes, as something that can be cut: a TCP relay in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

_PIECE = 1 << 16  # bytes
_START = 10.0  # s


class Relay:
    """Forwards bytes both ways. `cut`: packets vanish, connections stay open as they do behind a broken router, new ones hang;
    `mend`: whatever was open is closed and new connections pass."""

    def __init__(self, listen: int, target: int) -> None:
        """Ports on the loopback."""
        self._listen, self._target = listen, target
        self._cut = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Listen. Raises OSError."""
        self._thread.start()
        if not self._ready.wait(_START):
            raise OSError("the relay of the classical line did not start")
        if self._failure is not None:
            raise self._failure

    def cut(self) -> None:
        self._cut.set()

    def mend(self) -> None:
        self._cut.clear()
        self._loop.call_soon_threadsafe(self._drop)

    def stop(self) -> None:
        """Close everything. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_START)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._server = self._loop.run_until_complete(
                asyncio.start_server(self._connected, "127.0.0.1", self._listen)
            )
        except OSError as error:
            self._failure = error
        self._ready.set()
        if self._server is not None:
            self._loop.run_forever()
            self._server.close()
        self._drop()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # transports close in the next turn
        self._loop.close()

    def _drop(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        if self._cut.is_set():
            return  # nobody answers; `mend` closes it
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(far_writer)
        for one, other in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.ensure_future(self._pass_on(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                if self._cut.is_set():
                    continue
                writer.write(data)
                await writer.drain()
        if not self._cut.is_set():
            self._open.discard(writer)
            writer.close()
