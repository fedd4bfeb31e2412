"""What the node answers and does when the operator asks: the control socket, the status page and MQTT all ask here."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from qkdd import __version__, kernels
from qkdd.control import views
from qkdd.control.diagnostics_view import DiagnosticsView
from qkdd.control.errors import BadRequest, NotNow
from qkdd.control.events import EventHub
from qkdd.control.overview import SHOWN_BLOCKS, AlignView, OverviewView, alarms
from qkdd.control.security_views import AdviceView, SecurityView
from qkdd.core import log
from qkdd.core.zeroise import ZeroiseView
from qkdd.node import diagnostics
from qkdd.node.advice import advice_view
from qkdd.node.firmware import FirmwareService, Sight
from qkdd.node.linkrun import PART
from qkdd.node.report import block_view, error_count, keys_view, link_view, part_view
from qkdd.node.security_report import mode_of, security_view
from qkdd.node.supervisor import State

if TYPE_CHECKING:
    from qkdd.node.daemon import Daemon

_LEVELS = ("debug", "info", "warning", "error")


def free_ratio(folder: Path) -> float:
    """Share of a file system that an unprivileged process may still fill."""
    facts = os.statvfs(folder)
    return facts.f_bavail / facts.f_blocks if facts.f_blocks else 0.0


class Control:
    """Implements `NodeControl` over a daemon; holds no state of its own."""

    def __init__(self, node: Daemon) -> None:
        self._node = node

    @property
    def events(self) -> EventHub:
        return self._node.events

    @property
    def firmware(self) -> FirmwareService:
        return self._node.firmware

    def status(self) -> views.StatusView:
        state = self.state()
        return views.StatusView(
            node=self._node.config.node.id,
            version=__version__,
            kernels=kernels.variant(),
            state=state,
            healthy=state in ("running", "drained"),
            uptime_s=self._node.clock.monotonic() - self._node.started,
            started=self._node.started_wall,
            memory_locked=self._node.memory_locked,
            parts=[
                part_view(part, self._node.health, self._node.clock) for part in self._node.supervisor.parts.values()
            ],
            link=self.link(),
            keys=self.keys(),
        )

    def state(self) -> str:
        if self._node.stopping:
            return "stopping"
        if self._node.tripped is not None:
            return "tripped"
        parts = self._node.supervisor.parts.values()
        others_up = all(p.state is State.UP for p in parts if p.name != PART)
        if self._node.link_run.draining and others_up:
            return "draining" if self._node.link_run.active else "drained"
        if any(self._node.health.is_stalled(p.name) for p in parts):
            return "degraded"
        if all(p.state is State.UP for p in parts):
            return "running"
        return "starting" if all(p.error is None for p in parts) else "degraded"

    def status_line(self) -> str:
        link = self._node.link_run.status.snapshot
        qber = "" if link.qber is None else f", QBER {100 * link.qber:.2f} %"
        refused = sum(link.blocks_refused.values())
        return (
            f"{self.state()}; link {link.state.value}{qber}; blocks {link.blocks_accepted} accepted, {refused} refused"
        )

    def devices(self) -> list[views.DeviceView]:
        return self._node.devices.shown()

    async def fields(self, device: str) -> list[views.FieldView]:
        return await self._node.devices.fields(device)

    def link(self) -> views.LinkView:
        run = self._node.link_run
        return link_view(self._node.config.link, run.status.snapshot, run.session, self._node.config.peer.peer_id)

    def blocks(self, limit: int) -> list[views.BlockView]:
        label = mode_of(self._node.config.link.shared).label
        return [
            block_view(block, label) for block in reversed(self._node.link_run.status.snapshot.last_blocks[-limit:])
        ]

    def link_security(self) -> SecurityView:
        return security_view(self._node.config.link, self._node.stock.ledger)

    async def link_advise(self, longest_block_s: int | None) -> AdviceView:
        longest = None if longest_block_s is None else float(longest_block_s)
        snapshot = self._node.link_run.status.snapshot
        return await asyncio.to_thread(advice_view, self._node.config.link, snapshot, self._node.monitor, longest)

    def drained(self) -> bool:
        """For the firmware service: no block is in hand and none begins before `resume`."""
        return self._node.link_run.draining and not self._node.link_run.active

    def sight(self) -> Sight:
        """For the firmware service: what tells whether the link is as it was."""
        link = self._node.link_run.status.snapshot
        return Sight(link.qber, link.clicks_per_s, link.blocks_accepted)

    def keys(self) -> views.KeysView:
        kms = self._node.supervisor.parts.get("kms")
        up = kms is not None and kms.state is State.UP
        return keys_view(self._node.stock, self._node.rooms.masks, self._node.link_run.session, kms_up=up)

    def errors(self) -> list[views.ErrorCount]:
        """The newest first."""
        tally = sorted(self._node.supervisor.tally.items(), key=lambda item: -item[1].time)
        return [error_count(code, entry) for code, entry in tally]

    def overview(self) -> OverviewView:
        status, devices, blocks = self.status(), self.devices(), self.blocks(SHOWN_BLOCKS)
        now = self._node.clock.wall()
        return OverviewView(
            time=now, status=status, devices=devices, detectors=self._node.devices.detectors(), blocks=blocks,
            alarms=alarms(status, devices, blocks, self.errors(), now), align=self.align_view(),
        )  # fmt: skip

    async def diagnostics(self) -> DiagnosticsView:
        self.refresh_metrics()
        free = free_ratio(Path(self._node.config.node.state_directory))
        return DiagnosticsView(
            versions=diagnostics.versions(),
            configuration=diagnostics.plain_config(self._node.config),
            log=log.recent(),
            metrics=self._node.meter.exposition().decode(),
            self_test=await diagnostics.self_test(self._node.config, free, memory_locked=self._node.memory_locked),
        )

    def align_view(self) -> AlignView | None:
        return self._node.link_run.align_view()

    async def align(self, seconds: int) -> views.Done:
        return self._node.link_run.hold_open(seconds)

    async def calibrate_polarization(self) -> views.CalibrationView:
        return await self._node.link_run.calibrate()

    async def drain(self) -> views.Done:
        await self._node.link_run.drain()
        return views.Done(
            message="drained: no block is in hand, no new one begins", details=["`qkdctl resume` goes on"]
        )

    async def resume(self) -> views.Done:
        """Go on after `drain` or after an interlock; try at once whatever waits for its next attempt."""
        self._node.resume()
        return views.Done(message="going on")

    async def reload(self) -> views.Done:
        """Take over what may change while running. Raises ReloadRefused; then nothing was changed but what is named."""
        changed = await self._node.reload()
        return views.Done(message="reloaded; certificates are renewed in a new handshake", details=changed)

    async def zeroise(self, confirm: str) -> ZeroiseView:
        if self._node.zeroiser is None:
            raise NotNow("the node is not open")
        return await self._node.zeroiser.order(confirm)

    def set_log_level(self, level: str) -> views.Done:
        if level not in _LEVELS:
            raise BadRequest(f"there is no log level {level!r}", remedy=f"one of {', '.join(_LEVELS)}")
        log.configure(level, human=self._node.human)
        return views.Done(message=f"log level {level} until the next start or reload")

    def refresh_metrics(self) -> None:
        """Before each scrape: ages and levels that nobody reports by himself."""
        self._node.health.check()
        self._node.rooms.peer.measure()
        self._node.meter.set("qkdd_disk_free_ratio", free_ratio(Path(self._node.config.node.state_directory)))
        self._node.meter.set("qkdd_calibrating", float(self._node.link_run.calibrating))
        for device in self._node.devices.shown():
            if device.name in self._node.config.firmware.wanted and device.firmware:
                old = self._node.config.firmware.is_old(device.name, device.firmware)
                self._node.meter.set("qkdd_device_firmware_old", float(old), device=device.name)
        if self._node.link_run.last_calibration is not None:
            age = self._node.clock.monotonic() - self._node.link_run.last_calibration
            self._node.meter.set("qkdd_time_since_calibration_seconds", age)
        if (ledger := self._node.stock.ledger) is not None:
            self._node.meter.set("qkdd_epsilon_spent_ratio", ledger.fraction)
            if ledger.days_left is not None:
                self._node.meter.set("qkdd_epoch_days_left", ledger.days_left)
