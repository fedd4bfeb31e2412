"""The daemon: all rooms of one node, wired together; its life from start to SIGTERM."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path

from qkdd import __version__, kernels
from qkdd.control.errors import NotNow
from qkdd.control.events import EventHub
from qkdd.control.server import ControlServer
from qkdd.control.status_page import PageServer
from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.endpoint import Endpoint
from qkdd.core.errors import QkddError
from qkdd.core.syslog import SyslogSink
from qkdd.device import Driver
from qkdd.distill import Distiller
from qkdd.keys import HandOver, tls_profile
from qkdd.link.session import LinkSession
from qkdd.link.status import LinkStatus
from qkdd.node.boards import boards_of
from qkdd.node.config import NodeConfig
from qkdd.node.control import Control
from qkdd.node.decoy_monitor import DecoyMonitor
from qkdd.node.devices import Devices
from qkdd.node.errors import ReloadRefused
from qkdd.node.firmware import FirmwareService
from qkdd.node.health import HEARTBEAT_S, Health, ServiceManager, beating
from qkdd.node.linkrun import PART, PATIENCE_S, LinkRun, RunningLink
from qkdd.node.mqtt_part import MqttFeed
from qkdd.node.reload import read_changes
from qkdd.node.report import Stock
from qkdd.node.rooms import Rooms, open_rooms
from qkdd.node.supervisor import State, Supervisor
from qkdd.node.zeroise import Zeroiser
from qkdd.peer import PeerSession
from qkdd.peer.tls import client_context
from qkdd.telemetry.meter import PrometheusMeter
from qkdd.telemetry.server import MetricsServer

DRAIN_ON_STOP_S = 20.0  # for the block in hand; then it is discarded on both nodes
FLUSH_ON_STOP_S = 2.0  # for the last lines to the syslog collector
PEER_PATIENCE_S = 60.0
_log = log.get("node")


class Daemon:
    """One node. The constructor does no I/O; a `start` that fails leaves nothing behind."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        *,
        source: Path | None = None,
        jitter: Callable[[], float] = random.random,
        memory_locked: bool = False,
        human: bool = False,
    ) -> None:
        self.config, self.clock = config, clock
        self.meter = PrometheusMeter()
        self.events = EventHub(clock)
        self.health = Health(clock, self.meter)
        self.manager = ServiceManager(clock, self.health)
        publish = self.events.publish
        self.supervisor = Supervisor(clock, self.meter, self.health, publish, jitter, config.node.backoff)
        self.supervisor.on_interlock = self.trip
        self.devices = Devices(
            config.devices, config.node.counts, clock, self.meter, self.health, self.supervisor, publish,
            config.node.allowed_drivers,
        )  # fmt: skip
        self._source, self.human, self.memory_locked = source, human, memory_locked
        self._rooms: Rooms | None = None
        self._link: LinkRun | None = None
        self._firmware: FirmwareService | None = None
        self._feed: MqttFeed | None = None
        self._syslog: SyslogSink | None = None
        self._hand_over: HandOver | None = None
        self._stack = AsyncExitStack()
        self.control = Control(self)
        self.zeroiser: Zeroiser | None = None
        self.end: Callable[[int], object] = os._exit  # how the process ends once it was zeroised
        self.page: Endpoint | None = None  # where the status page is served, once it is
        self._tasks: set[asyncio.Task[None]] = set()
        self.stock = Stock({})
        self.monitor = DecoyMonitor(config.link.name, self.meter)
        self.tripped: QkddError | None = None
        self.stopping = self._peer_started = False
        self.started, self.started_wall = clock.monotonic(), clock.wall()

    @property
    def rooms(self) -> Rooms:
        if self._rooms is None:
            raise NotNow("the node is not open")
        return self._rooms

    @property
    def firmware(self) -> FirmwareService:
        if self._firmware is None:
            raise NotNow("the node is not open")
        return self._firmware

    @property
    def link_run(self) -> LinkRun:
        if self._link is None:
            raise NotNow("the node is not open")
        return self._link

    # --- life ------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open stores and sockets and begin to supervise. Devices, peer and KMS may come later: their absence is no failure.

        Raises what is refused at once: StateInUse, CredentialError, SocketInUse, MetricsListenFailed, StorageFailed, …
        """
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _open(self) -> None:
        config = self.config
        self.started, self.started_wall = self.clock.monotonic(), self.clock.wall()
        if config.syslog is not None:  # first of all: it hears what the others say when they open
            self._syslog = SyslogSink(config.syslog, self.clock, self.meter)
            self._syslog.open()
            self._stack.callback(self._syslog.close)
        self._rooms = await open_rooms(config, self.clock, self.meter, self._wake_hand_over, self._stack)
        self._link = LinkRun(
            config.link, config.calibration, self.devices, self._make_link, self.clock, self.meter,
            self.health, self.supervisor, self.events.publish,
        )  # fmt: skip
        for block in await self._rooms.spool.recent(1):
            self._link.status.last_number = block.number
        boards = boards_of(self.devices.slots, self.devices.build)
        self._firmware = FirmwareService(
            config.firmware, boards, self.control, self.clock, self._rooms.audit, self.events.publish
        )
        self.meter.set("qkdd_build_info", 1, version=__version__, kernels=kernels.variant())
        self.meter.set("qkdd_start_time_seconds", self.started_wall)
        self.meter.set("qkdd_memory_locked", float(self.memory_locked))
        self.meter.set("qkdd_draining", 0)
        if config.telemetry is not None:
            metrics = MetricsServer(config.telemetry.listen, self.meter, self.control.refresh_metrics)
            await metrics.start()
            self._stack.push_async_callback(metrics.stop)
        control = ControlServer(config.control, self.control, self._rooms.audit, self.clock)
        await control.start()
        self._stack.push_async_callback(control.stop)
        if config.control.page is not None:
            page = PageServer(config.control.page, self.control, self.clock)
            self.page = await page.start()
            self._stack.push_async_callback(page.stop)
        if config.telemetry is not None and config.telemetry.mqtt is not None:
            state = Path(config.node.state_directory)
            self._feed = MqttFeed(config.telemetry.mqtt, config.node.id, self.control, state, self.clock, self.meter)
            await self._feed.open()
            self._stack.push_async_callback(self._feed.close)
        self._rooms.audit.write("daemon started", node=config.node.id, version=__version__)
        self.zeroiser = Zeroiser(config, self.clock, self.meter, self._rooms.audit, self.devices.safe, self.end)
        self._supervise()
        self._spawn(self.zeroiser.watch())
        self.manager.ready()
        _log.info("daemon started", node=config.node.id, link=config.link.name, role=config.link.role)

    def _supervise(self) -> None:
        """What is added last is stopped first."""
        self.supervisor.add("store", "store", self._store_life)
        self._add_kms()
        self.devices.start()
        self.supervisor.add("peer", "peer", self._peer_life, patience=PEER_PATIENCE_S + self.config.peer.opening)
        self.supervisor.add(PART, "link", self.link_run.life, patience=PATIENCE_S)
        if self._feed is not None:
            self.supervisor.add("telemetry", "telemetry", self._telemetry_life, patience=7200.0)
            self.supervisor.add("mqtt", "mqtt", self._mqtt_life)
        if self._syslog is not None:
            self.supervisor.add("syslog", "syslog", self._syslog_life)
        self._spawn(self.manager.watch())

    def _add_kms(self) -> None:
        self.supervisor.add("kms", "kms", self._kms_life, patience=60.0 + self.config.keys.answer_deadline)

    async def stop(self) -> None:
        """Finish the block in hand, or discard it on both nodes; then close everything in the reverse order."""
        self.stopping = True
        self.manager.stopping()
        if self._feed is not None:
            await self._feed.goodbye()
        try:
            async with self.clock.deadline(DRAIN_ON_STOP_S):
                await self.link_run.drain()
        except TimeoutError:
            _log.warning("the block in hand was not finished in time and is discarded", after=DRAIN_ON_STOP_S)
        if self._syslog is not None:
            await self._syslog.flushed(FLUSH_ON_STOP_S)
        await self.supervisor.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.events.publish("node.stopped", node=self.config.node.id)
        self.events.close()
        self.rooms.audit.write("daemon stopped", node=self.config.node.id)
        await self._stack.aclose()
        _log.info("daemon stopped", node=self.config.node.id)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- lives of the parts ----------------------------------------------------------------------------------------------

    async def _store_life(self, up: Callable[[], None]) -> None:
        """Ask the store for its stock every second: what a full or dying disk shows itself by."""
        while True:
            await self.stock.refresh(self.rooms.spool)
            self.stock.ledger = self.rooms.ledger.view(
                now=self.clock.wall(), eps_block=self.config.link.shared.eps_block
            )
            up()
            self.health.beat("store")
            self.manager.status(self.control.status_line())
            await self.clock.sleep(HEARTBEAT_S)

    async def _peer_life(self, up: Callable[[], None]) -> None:
        """One session with the other node, from its hello to its end."""
        peer, beat = self.rooms.peer, self.health.beater("peer")
        if not self._peer_started:
            await peer.start()
            self._peer_started = True
        if self.config.peer.connect is not None:
            session = await peer.connect_once()
        else:
            session = await beating(peer.accept(), beat, self.clock)
        self.link_run.offer(session)
        up()
        try:
            raise await beating(session.wait_ended(), beat, self.clock)
        finally:
            self.link_run.withdraw(session)
            await session.close()

    async def _kms_life(self, up: Callable[[], None]) -> None:
        """Hand over what waits, as long as the KMS takes it."""
        keys, beat = self.config.keys, self.health.beater("kms")
        hand_over = HandOver(
            keys,
            self.rooms.spool,
            node_id=self.config.node.id,
            peer_id=self.config.peer.peer_id,
            link=self.config.link.name,
            context=None if keys.sinks else client_context(tls_profile(keys), self.clock),
            clock=self.clock,
            meter=self.meter,
            audit=self.rooms.audit,
        )
        self._hand_over = hand_over
        try:
            while True:
                while count := await hand_over.push_once():
                    beat()
                    self.events.publish("keys.delivered", kms=keys.target, chunks=count)
                up()  # with nothing to hand over the KMS is not asked: no news is good news
                await beating(hand_over.wait_for_work(), beat, self.clock)
        finally:
            self._hand_over = None
            await hand_over.close()

    async def _telemetry_life(self, up: Callable[[], None]) -> None:
        """Collect what the MQTT broker is told, whether it is there or not."""
        if self._feed is not None:
            await self._feed.collect(self.events, up, self.health.beater("telemetry"))

    async def _mqtt_life(self, up: Callable[[], None]) -> None:
        """One connection to the MQTT broker."""
        if self._feed is not None:
            await beating(self._feed.life(up), self.health.beater("mqtt"), self.clock)

    async def _syslog_life(self, up: Callable[[], None]) -> None:
        """One connection to the syslog collector."""
        if self._syslog is not None:
            await beating(self._syslog.life(up), self.health.beater("syslog"), self.clock)

    def _wake_hand_over(self) -> None:
        if self._hand_over is not None:
            self._hand_over.notify()

    def _make_link(
        self, tagger: Driver, session: PeerSession, status: LinkStatus, heartbeat: Callable[[], None]
    ) -> RunningLink:
        """A fresh distiller for each session: both nodes' trackers of the error rate start from the same stretch."""
        config = self.config.link
        return LinkSession(
            config,
            config.role,
            tagger,  # type: ignore[arg-type]  # the configuration check saw the role
            session,
            Distiller(config.shared, self.monitor.observe),
            self.rooms.committer,
            self.rooms.ledger,
            self.clock,
            self.meter,
            status=status,
            heartbeat=heartbeat,
        )

    # --- interlock -------------------------------------------------------------------------------------------------------

    def trip(self, error: QkddError) -> None:
        """Hook of safety interlocks: stop the link, bring every device into its safe state, wait for the operator."""
        if self.tripped is None and not self.stopping:
            self.tripped = error
            self.supervisor.note("interlock", error)
            _log.error("interlock tripped", **log.error_fields(error))
            self.events.publish("interlock.tripped", code=error.code, message=error.message)
            self._spawn(self._make_safe())

    async def _make_safe(self) -> None:
        await self.supervisor.stop(PART)
        self.supervisor.forget(PART)
        await self.devices.safe()

    # --- what the operator orders ----------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on after a drain or an interlock; try at once whatever waits for its next attempt."""
        if self.tripped is not None:
            self.tripped = None
            self.devices.start()
            self.supervisor.add(PART, "link", self.link_run.life, patience=PATIENCE_S)
        self.link_run.resume()
        self.supervisor.kick(*(p.name for p in self.supervisor.parts.values() if p.state is not State.UP))

    async def reload(self) -> list[str]:
        """Take over what may change while running; returns the keys that did. Raises ReloadRefused."""
        if self._source is None:
            raise ReloadRefused("the daemon was not started from a file")
        self.manager.reloading()
        try:
            new, changed = await asyncio.to_thread(read_changes, self._source, self.config)
            self.rooms.peer.config = new.peer
            if self._peer_started:
                try:
                    self.rooms.peer.reload()
                except QkddError as error:
                    self.rooms.peer.config = self.config.peer
                    raise ReloadRefused(f"certificates are not taken over: {error}") from None
            self.config = new
        finally:
            self.manager.ready()
        self.link_run.calibration = new.calibration
        await self.supervisor.stop("kms")
        self.supervisor.forget("kms")
        self._add_kms()
        self.supervisor.kick("peer")
        log.configure(new.node.log_level, human=self.human)
        _log.info("configuration reloaded", changed=", ".join(changed) or "nothing but certificates")
        self.events.publish("node.reloaded", changed=", ".join(changed))
        return changed
