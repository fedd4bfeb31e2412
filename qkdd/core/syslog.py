"""Every log line and audit line to the site's collector: syslog over TLS (RFC 5425). Decision 0174.

Lines wait in memory, bounded; the oldest is dropped first, and counted. Syslog has no acknowledgement: what was given to a
connection that then breaks may be lost, which the journal and the audit log on this machine are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from qkdd.core import log
from qkdd.core.client_tls import mutual_context
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.endpoint import Endpoint
from qkdd.core.errors import Kind, QkddError
from qkdd.core.syslog_config import SyslogConfig
from qkdd.core.syslog_format import AUDIT, FACILITIES, LEVELS, Header, frame

_ANSWER_S = 10.0  # for connection and handshake, and for a collector that does not take what it is sent
_GRACE_S = 0.5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_BATCH = 64
_LOG = log.get("core")


class SyslogDown(QkddError):
    code = "QKD-CORE-SYSLOG-DOWN"
    kind = Kind.TRANSIENT
    meaning = "The syslog collector does not answer, refuses the connection or has ended it; lines wait in memory."
    default_remedy = "Check the collector, its address, and that its certificate and ours are valid."


class SyslogSink:
    """`open` begins to listen to this process's log; `life` is one connection, for a supervisor; `close` ends the listening."""

    def __init__(self, config: SyslogConfig, clock: Clock, meter: Meter, application: str = "qkdd") -> None:
        self._config, self._clock, self._meter = config, clock, meter
        sd_id = f"qkdd@{config.enterprise}"
        self._header = Header(socket.gethostname(), os.getpid(), sd_id, application)
        self._facility, self._least = FACILITIES[config.facility], LEVELS[config.level]
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news, self._empty = asyncio.Event(), asyncio.Event()
        self._empty.set()

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        log.listen(self.take)

    def close(self) -> None:
        log.unlisten(self.take)
        self._loop = None

    def take(self, record: Mapping[str, Any]) -> None:
        """One line, from any thread; returns at once."""
        if LEVELS.get(str(record.get("level", "info")), LEVELS["info"]) > self._least:
            return
        audit = record.get("room") == "audit"
        identity = log.message_id(str(record.get("event", "")), str(record.get("room", "")))
        data = frame(record, self._header, AUDIT if audit else self._facility, identity)
        with self._lock:
            self._waiting.append(data)
            dropped = len(self._waiting) > self._config.queue
            if dropped:
                self._waiting.popleft()
            self._meter.set("qkdd_syslog_waiting", len(self._waiting))
        if dropped:
            self._meter.add("qkdd_syslog_dropped_total")
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._empty.clear()
        self._news.set()

    async def flushed(self, seconds: float) -> None:
        """Wait until everything was given to the collector, at most so long."""
        try:
            async with self._clock.deadline(seconds):
                await self._empty.wait()
        except TimeoutError:
            return  # it is away, and this process is about to end

    async def life(self, up: Callable[[], None]) -> None:
        """One connection until it ends. Raises SyslogDown, CredentialError."""
        server, context = Endpoint.parse(self._config.server), mutual_context("syslog", self._config, ssl.SSLContext)
        try:
            async with self._clock.deadline(_ANSWER_S):
                reader, writer = await asyncio.open_connection(
                    server.host, server.port, ssl=context, server_hostname=server.host
                )
        except (OSError, TimeoutError) as error:
            raise SyslogDown(f"collector {server}: {error or 'no answer'}") from None
        try:
            await self._converse(reader, writer, up)
            raise SyslogDown(f"collector {server} has ended the connection")
        except (OSError, TimeoutError) as error:
            raise SyslogDown(f"collector {server}: {error or 'it takes nothing'}") from None
        finally:
            writer.close()  # with close_notify (RFC 5425, 4.4)

    async def keep(self) -> None:
        """One life after the other, for a process without a supervisor. Ends never."""
        pause, told = _FIRST_PAUSE_S, False

        def up() -> None:
            nonlocal pause, told
            pause, told = _FIRST_PAUSE_S, False
            _LOG.info("syslog up", server=self._config.server)

        while True:
            try:
                await self.life(up)
            except QkddError as error:
                if not told:  # once an outage
                    _LOG.warning("syslog down", **log.error_fields(error))
                told = True
            await self._clock.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, 2 * pause)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: Callable[[], None]
    ) -> None:
        """Send until the collector ends it. It says nothing, so a byte is the end too."""
        ended = asyncio.create_task(reader.read(1))
        sending = None
        try:
            # with TLS 1.3 a refused certificate shows itself only after the handshake: nothing is sent until that is over
            with contextlib.suppress(TimeoutError):
                async with self._clock.deadline(_GRACE_S):
                    await asyncio.shield(ended)
                    return
            sending = asyncio.create_task(self._send(writer, up))
            await asyncio.wait({ended, sending}, return_when=asyncio.FIRST_COMPLETED)
            for task in (ended, sending):
                if task.done():
                    task.result()
        finally:
            tasks = [task for task in (ended, sending) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, writer: asyncio.StreamWriter, up: Callable[[], None]) -> None:
        up()
        while True:
            self._news.clear()
            while batch := self._first():
                writer.write(b"".join(batch))
                async with self._clock.deadline(_ANSWER_S):
                    await writer.drain()
                self._sent(batch)
            self._empty.set()
            await self._news.wait()

    def _first(self) -> list[bytes]:
        with self._lock:
            return [self._waiting[index] for index in range(min(_BATCH, len(self._waiting)))]

    def _sent(self, batch: list[bytes]) -> None:
        """They leave the queue, unless they were dropped meanwhile to make room."""
        with self._lock:
            for data in batch:
                if self._waiting and self._waiting[0] is data:
                    self._waiting.popleft()
            self._meter.set("qkdd_syslog_waiting", len(self._waiting))
        self._meter.add("qkdd_syslog_messages_total", len(batch))
