"""One running KMS: listeners, service, background work; started and stopped as a whole."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from msgspec.structs import replace

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock, SystemClock
from qkdd.core.errors import ConfigError, QkddError
from qkdd.core.local_api import LocalApi
from qkdd.core.local_errors import NotNow
from qkdd.core.sealing import load_master_key
from qkdd.core.tamper import TamperWatch
from qkdd.core.zeroise import EXIT_ZEROISED, Report, refuse_zeroised, zeroise
from qkdd.kms.access import SaeAccess
from qkdd.kms.admin import ROUTES
from qkdd.kms.config import KmsConfig
from qkdd.kms.connections import IdleConnections
from qkdd.kms.errors import StoreAway
from qkdd.kms.etsi004 import Etsi004
from qkdd.kms.etsi014 import Etsi014
from qkdd.kms.etsi014_codec import error_body
from qkdd.kms.etsi020 import Etsi020
from qkdd.kms.gate import GatedSite
from qkdd.kms.grouping import GroupingPeer
from qkdd.kms.http import errors_as
from qkdd.kms.listener_config import address
from qkdd.kms.metrics import KmsMeter
from qkdd.kms.plane import PeerKms, Pulled
from qkdd.kms.planes import Answer, KmsPlane, NodePlane
from qkdd.kms.pulling import PulledSource, PulledSources, make_puller
from qkdd.kms.rotation import Rotation, siblings
from qkdd.kms.schema import kms_store
from qkdd.kms.service import KeyService
from qkdd.kms.skip import Skip
from qkdd.kms.source_config import PULLED, Etsi020Source, SourceConfig
from qkdd.kms.sources import WatchedFolder
from qkdd.kms.stream_messages import StreamEnd, StreamKey, StreamOpen
from qkdd.kms.streams import Streams
from qkdd.peer.audit_key import CertificateSigner
from qkdd.peer.tls import Suite, TlsContext, client_context, self_test, server_context

_LOG = log.get("kms")
_STOP_SECONDS = 5.0
_ROTATION_AGAIN = 10.0
_LAST_WORDS = 0.2  # seconds for the answer to whoever gave the order


class KmsServer:
    """`await start()`, `await stop()`; `addresses` has where it really listens, by listener name.

    `synthetic` is for `qkdd.kms.dev_pair` alone and no configuration can set it: it marks every key and every metric.
    """

    def __init__(
        self,
        config: KmsConfig,
        clock: Clock | None = None,
        *,
        synthetic: bool = False,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """end: how the process ends after it was zeroised, at once and without a word to anybody."""
        self._end = end
        self.config = config
        self.addresses: dict[str, tuple[str, int]] = {}
        self._synthetic = synthetic
        self.meter = KmsMeter({"insecure": "synthetic"} if synthetic else None)
        self._clock: Clock = clock or SystemClock()
        self._contexts: list[TlsContext] = []
        self._runners: list[web.AppRunner] = []
        self._streams: Streams | None = None
        self._pulled: dict[str, PulledSource] = {}
        self._closing: list[Callable[[], Awaitable[None]]] = []
        self._idle = IdleConnections(self._clock, config.limits.idle_timeout)
        self._audit: AuditLog | None = None
        self._background: asyncio.Task[None] | None = None
        self.service: KeyService | None = None
        self._rotation: Rotation | None = None
        self._rotating: asyncio.Task[None] | None = None
        self._admin: LocalApi | None = None
        self.failed = asyncio.Event()  # a defect ended the background work: the process must be started again

    async def start(self) -> None:
        """Check every credential, open the store, listen. A failed start leaves nothing behind."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config, clock = self.config, self._clock
        state = Path(config.kms.state_directory)
        refuse_zeroised(state)
        master = load_master_key(Path(config.kms.master_key))
        plane = config.kms_plane
        found = self_test(plane.profile("kms_plane", "post-quantum"), clock)
        _LOG.info("TLS self-test", group=found.group, signature=found.signature, cipher=found.cipher)
        signer = CertificateSigner(Path(plane.certificate), Path(plane.key))
        self._audit = AuditLog(state / "audit.log", clock, signer, config.kms.audit_segment)
        peers: dict[str, PeerKms] = {}
        for name, peer in config.peers.items():
            profile = replace(plane.profile(f"peer {name}", "post-quantum", identity=name), roles=("kms",))
            context = client_context(profile, clock)
            self._contexts.append(context)
            peers[name] = GroupingPeer(name, (peer.url, *peer.replicas), context, clock, config.limits.peer_deadline)
        service = KeyService(
            config,
            kms_store(config.store_place(), config.limits.store_deadline, clock, self._store_silent),
            master,
            peers,
            clock=clock,
            meter=self.meter,
            audit=self._audit,
            synthetic=self._synthetic,
        )
        self.service = service
        self._rotation = Rotation(Path(config.kms.master_key), service.database, service.sealer, self._audit)
        resumed = self._rotation.resume()
        await service.open()
        await self._rotation.check()
        self._streams = Streams(service)
        in_flight: Counter[str] = Counter()
        for name, listener in config.sae.items():
            suite: Suite = "classical" if name == "classical" else "post-quantum"
            app = self._sae_application(service, name, in_flight)
            await self._listen(
                f"sae.{name}", app, listener.listen, server_context(listener.profile(f"sae.{name}", suite), clock)
            )
        kms_profile = replace(plane.profile("kms_plane", "post-quantum"), roles=("kms",))
        node_profile = replace(config.node_plane.profile("node_plane", "post-quantum"), roles=("node",))
        for name, source in config.sources.items():
            if source.kind in PULLED:
                puller = make_puller(name, source, clock)
                self._pulled[name] = PulledSource(name, source, service, puller, clock, self.meter)
        more: dict[str, Answer] = {
            "pulled": (Pulled, PulledSources(self._pulled).on_pulled),
            "stream-open": (StreamOpen, self._streams.on_open),
            "stream-end": (StreamEnd, self._streams.on_end),
            "stream-key": (StreamKey, self._streams.on_key),
        }
        kms_app = KmsPlane(service, more, clock, self.meter).application()
        node_app = NodePlane(service, clock, self.meter).application()
        await self._listen("kms_plane", kms_app, plane.listen, server_context(kms_profile, clock))
        await self._listen("node_plane", node_app, config.node_plane.listen, server_context(node_profile, clock))
        for name, source in config.sources.items():
            if source.etsi020 is not None:
                await self._listen_020(service, name, source, source.etsi020)
        if config.kms.metrics is not None:
            metrics = web.Application()
            metrics.router.add_get("/metrics", self._metrics)
            await self._listen("metrics", metrics, config.kms.metrics, None)
        if config.admin is not None:
            self._admin = LocalApi(config.admin, ROUTES, self, self._audit, clock, may_be_activated=False)
            await self._admin.start()
        if resumed:
            self._continue_rotation(self._rotation)
        self._background = asyncio.create_task(self._run_background(service))
        self._background.add_done_callback(self._ended)

    async def _listen_020(self, service: KeyService, name: str, source: SourceConfig, listener: Etsi020Source) -> None:
        place, clock = f"sources.{name}.etsi020", self._clock
        contexts = {}
        for initiator in listener.initiators if listener.callback_urls else ():
            contexts[initiator] = client_context(listener.profile(place, listener.suite, initiator), clock)
        self._contexts += contexts.values()
        made = Etsi020(name, source, service, contexts, clock, self.meter)
        self._closing.append(made.close)
        profile = listener.profile(place, listener.suite)
        await self._listen(place, made.application(), listener.listen, server_context(profile, clock))

    def _sae_application(self, service: KeyService, name: str, in_flight: Counter[str]) -> web.Application:
        app = web.Application(middlewares=[errors_as(error_body, f"sae.{name}", self.meter)])
        access = SaeAccess(service, name, in_flight, self.meter)
        interfaces = self.config.sae[name].interfaces
        if "etsi014" in interfaces:
            Etsi014(service, access, self._clock, self.meter).add_routes(app)
        if "etsi004" in interfaces and self._streams is not None:
            Etsi004(service, self._streams, access, self._clock, self.meter).add_routes(app)
        if "skip" in interfaces:
            Skip(service, access, self.meter).add_routes(app)
        return app

    async def _run_background(self, service: KeyService) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(service.run_background())
            group.create_task(self._idle.run())
            for name, source in self.config.sources.items():
                if source.directory:
                    group.create_task(WatchedFolder(name, source, service, self._clock, self.meter).run())
            for pulled in self._pulled.values():
                group.create_task(pulled.run())
            if self._streams is not None:
                group.create_task(self._streams.run())
            group.create_task(TamperWatch(self.config.zeroise, self._clock, self.meter, self._tampered).run())

    @property
    def running(self) -> KeyService:
        """Raises NotNow while the KMS is not open."""
        if self.service is None:
            raise NotNow("the KMS is not open")
        return self.service

    @property
    def rotation(self) -> Rotation:
        if self._rotation is None:
            raise NotNow("the KMS is not open")
        return self._rotation

    def rotate(self) -> None:
        """Begin a rotation of the master key; it goes on in the background. Raises CredentialError, StorageFailed."""
        self.rotation.begin()
        self._continue_rotation(self.rotation)

    def _continue_rotation(self, rotation: Rotation) -> None:
        async def work() -> None:
            while True:
                try:
                    return await rotation.run()
                except QkddError as error:  # a full disk: both keys stay loaded, and it is tried again
                    _LOG.error("rotation of the master key waits", **log.error_fields(error))
                    await self._clock.sleep(_ROTATION_AGAIN)

        self._rotating = asyncio.create_task(work())

    async def _tampered(self, reason: str) -> None:
        await self.zeroise(reason)

    async def zeroise(self, reason: str) -> Report:
        """Erase every key file and the store, then end the process; the mark keeps it from starting again."""
        if self.service is not None:
            self.service.zeroised = True
        config, state = self.config, Path(self.config.kms.state_directory)
        keys = [path for file in config.key_files() for path in (file, *siblings(file))]
        report = await asyncio.to_thread(zeroise, state, keys, config.store_files(), reason, self._clock.wall())
        _LOG.critical("zeroised", reason=reason, seconds=report.seconds, erased=report.erased, failed=report.failed)
        if self._audit is not None:
            self._audit.write("zeroised", reason=reason, erased=report.erased, failed=list(report.failed))
            try:
                await asyncio.wait_for(self._audit.settled(), _LAST_WORDS)
            except (QkddError, TimeoutError) as error:
                _LOG.error("the audit log did not take its last line", error=str(error))
        asyncio.get_running_loop().call_later(_LAST_WORDS, self._end, EXIT_ZEROISED)
        return report

    def _store_silent(self, silent: bool) -> None:
        self.meter.set("qkdd_kms_store_silent", float(silent))
        if silent:
            self.meter.add("qkdd_kms_store_silences_total")
            _LOG.error("the key store does not answer", code=StoreAway.code, remedy=StoreAway.default_remedy)
        else:
            _LOG.info("the key store answers again")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            _LOG.error("background work ended", exc_info=task.exception())
            self.failed.set()

    async def _metrics(self, _request: web.Request) -> web.Response:
        for context in self._contexts:
            left = context.material.leaf.not_valid_after_utc.timestamp() - self._clock.wall()
            self.meter.set("qkdd_kms_certificate_expiry_seconds", left, listener=context.profile.name)
        return web.Response(body=self.meter.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _listen(self, name: str, app: web.Application, listen: str, context: TlsContext | None) -> None:
        idle = self.config.limits.idle_timeout
        app.middlewares.insert(0, self._idle.middleware)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=idle, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        self._runners.append(runner)
        if runner.server is not None:
            self._idle.watch(runner.server)
        if context is not None:
            self._contexts.append(context)
        host, port = address(listen)
        site = GatedSite(
            runner,
            (host, port),
            context,
            name=name,
            idle=self._idle,
            limit=self.config.limits.connections,
            clock=self._clock,
            meter=self.meter,
        )
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(f"{name}: cannot listen on {listen}: {error.strerror}") from None
        bound = runner.addresses[0]
        self.addresses[name] = (bound[0], bound[1])

    def reload(self) -> None:
        """Read every certificate, trust file and revocation list again; what cannot be read keeps its old one."""
        for context in self._contexts:
            try:
                context.reload()
            except QkddError as error:
                _LOG.error("certificate not reloaded", listener=context.profile.name, **log.error_fields(error))
            else:
                _LOG.info("certificate reloaded", listener=context.profile.name)

    async def stop(self) -> None:
        """No new connections, requests under way are answered, the store is closed. Idempotent."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.stop()
        rotating, self._rotating = self._rotating, None
        if rotating is not None:
            rotating.cancel()
            await asyncio.wait([rotating])
        runners, self._runners = self._runners, []
        await asyncio.gather(*(runner.cleanup() for runner in runners))
        closing, self._closing = self._closing, []
        for close in closing:
            await close()
        task, self._background = self._background, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        service, self.service = self.service, None
        if service is not None:
            await service.close()
        audit, self._audit = self._audit, None
        if audit is not None:
            audit.close()
