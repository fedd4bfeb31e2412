"""A running agent: its certificates, its line, its metrics and its status file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from qkdd.core import log
from qkdd.core.clock import Clock, SystemClock
from qkdd.core.endpoint import Endpoint
from qkdd.core.errors import ConfigError, QkddError
from qkdd.core.sealing import Sealer, load_master_key
from qkdd.peer import certificates
from qkdd.peer.errors import PeerError
from qkdd.peer.tls import TlsContext, client_context, server_context
from qkdd.psk.agent import Agent, Target
from qkdd.psk.config import PskConfig
from qkdd.psk.errors import PartnerAway
from qkdd.psk.initiator import Initiator
from qkdd.psk.kms_client import Etsi014Client
from qkdd.psk.line import Line, TlsLine
from qkdd.psk.metrics import PskMeter
from qkdd.psk.responder import Responder
from qkdd.psk.state import StateFile
from qkdd.psk.strongswan import StrongswanTarget
from qkdd.psk.wireguard import WireguardTarget

_LOG = log.get("psk")
STATUS_EVERY = 2.0


def status_file(config: PskConfig) -> Path:
    """Where a running agent writes its status."""
    return Path(config.agent.state_directory) / "status.json"


def target_of(config: PskConfig, clock: Clock) -> Target:
    """The program that the configuration names."""
    if config.wireguard is not None:
        return WireguardTarget(config.wireguard, clock)
    if config.strongswan is not None:
        return StrongswanTarget(config.strongswan, clock)
    raise ConfigError("one of [wireguard] and [strongswan] is needed")


class PskService:
    """`await start()`, `await run()`, `await stop()`. Raises ConfigError, CredentialError, StateBroken before anything runs."""

    def __init__(self, config: PskConfig, clock: Clock | None = None) -> None:
        self.config = config
        self._clock: Clock = clock or SystemClock()
        self.meter = PskMeter()
        profile = config.partner.profile()
        listens = config.partner.listen is not None
        self._context: TlsContext = (server_context if listens else client_context)(profile, self._clock)
        own = certificates.identity(self._context.material.leaf).name
        self._kms = Etsi014Client(config.kms, self._clock, config.agent.answer_deadline)
        target = target_of(config, self._clock)
        sealer = Sealer(load_master_key(Path(config.agent.master_key)), "qkd-psk")
        self._store = StateFile(Path(config.agent.state_directory), sealer, target.purpose)
        parts: dict[str, Any] = {
            "kms": self._kms,
            "store": self._store,
            "target": target,
            "clock": self._clock,
            "meter": self.meter,
        }
        self.agent: Initiator | Responder
        if listens:
            self.agent = Responder(config.agent, ends=(config.partner.identity, own), **parts)
        else:
            self.agent = Initiator(config.agent, ends=(own, config.partner.identity), connect=self._connect, **parts)
        self._server: asyncio.Server | None = None
        self._metrics: web.AppRunner | None = None
        self.address: tuple[str, int] | None = None

    def check(self) -> None:
        """Everything that the constructor read was good; read the state too. Raises StateBroken, StorageFailed."""
        self._store.read()

    async def start(self) -> None:
        """Bring the program to the key in use, then listen."""
        await self.agent.open()
        self._write_status()
        if self.config.agent.metrics is not None:
            await self._serve_metrics(Endpoint.parse(self.config.agent.metrics))
        if self.config.partner.listen is not None:
            where = Endpoint.parse(self.config.partner.listen)
            try:
                self._server = await asyncio.start_server(self._accept, where.host, where.port, ssl=self._context)
            except OSError as error:
                raise ConfigError(f"partner.listen: cannot listen on {where}: {error.strerror}") from None
            self.address = self._server.sockets[0].getsockname()[:2]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.agent.upkeep())
            group.create_task(self._status())
            if isinstance(self.agent, Initiator):
                group.create_task(self.agent.run())

    async def stop(self) -> None:
        """Idempotent. The program keeps its key."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        metrics, self._metrics = self._metrics, None
        if metrics is not None:
            await metrics.cleanup()
        await self.agent.close()
        self._write_status()

    def reload(self) -> None:
        """Read the certificates again; what cannot be read keeps its old ones."""
        for what in (self._context, self._kms):
            try:
                what.reload()
            except QkddError as error:
                _LOG.error("certificate not reloaded", **log.error_fields(error))

    async def _connect(self) -> Line:
        where = Endpoint.parse(self.config.partner.connect or "")
        failures: list[PeerError] = []
        try:
            async with self._clock.deadline(self.config.agent.answer_deadline):
                reader, writer = await asyncio.open_connection(
                    where.host,
                    where.port,
                    ssl=self._context.for_connection(failures.append),
                    server_hostname=where.host,
                )
        except (OSError, TimeoutError) as error:
            raise PartnerAway(f"{where}: {failures[0] if failures else f'{type(error).__name__}: {error}'}") from None
        return TlsLine(reader, writer, self._clock)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.agent, Responder):
            await self.agent.serve(TlsLine(reader, writer, self._clock))

    async def _serve_metrics(self, where: Endpoint) -> None:
        async def page(_request: web.Request) -> web.Response:
            return web.Response(body=self.meter.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

        app = web.Application()
        app.router.add_get("/metrics", page)
        self._metrics = web.AppRunner(app, access_log=None)
        await self._metrics.setup()
        try:
            await web.TCPSite(self._metrics, where.host, where.port).start()
        except OSError as error:
            raise ConfigError(f"agent.metrics: cannot listen on {where}: {error.strerror}") from None

    async def _status(self) -> None:
        while True:
            await self._clock.sleep(STATUS_EVERY)
            self._write_status()

    def _write_status(self) -> None:
        """Complete or not there; for people and monitoring, nothing depends on it."""
        path = status_file(self.config)
        scratch = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            scratch.write_bytes(msgspec.json.encode(self.agent.status()) + b"\n")
            os.replace(scratch, path)
        except OSError as error:
            _LOG.warning("no status file", path=str(path), error=error.strerror)


__all__ = ["Agent", "PskService", "status_file", "target_of"]
