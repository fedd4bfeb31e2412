"""The node's MQTT feed: which of its views become which message."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from qkdd import __version__, kernels
from qkdd.control.events import EventHub
from qkdd.control.views import NodeControl
from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.telemetry.catalogue import METRICS
from qkdd.telemetry.errors import MqttDown
from qkdd.telemetry.mqtt import MqttLine
from qkdd.telemetry.mqtt_config import MqttConfig
from qkdd.telemetry.mqtt_messages import (
    Birth,
    Body,
    DeviceFact,
    DeviceState,
    DevicesTelemetry,
    EventMessage,
    KeysTelemetry,
    LinkTelemetry,
    MetricFact,
    Status,
)
from qkdd.telemetry.outbox import Outbox

_LOG = log.get("node")


class MqttFeed:
    """`open`, then `collect` as a task of its own and `life` under the supervisor; `close` in the end."""

    def __init__(
        self, config: MqttConfig, node_id: str, node: NodeControl, state: Path, clock: Clock, meter: Meter
    ) -> None:
        self._config, self._id, self._node, self._clock = config, node_id, node, clock
        self._outbox = Outbox(state / "mqtt.sqlite", config.spool_bytes, meter)
        self._line = MqttLine(config, node_id, self._outbox, clock, meter)
        self._boot, self._seq = secrets.token_hex(8), 0
        self._shown = ("", False)
        self._last_event = 0

    async def open(self) -> None:
        """Raises StorageFailed."""
        await self._outbox.open()

    async def close(self) -> None:
        await self._outbox.close()

    def _body(self, body: type[Body], /, **fields: Any) -> bytes:
        self._seq += 1
        head: dict[str, Any] = {"site": self._config.site, "node": self._id, "boot": self._boot, "seq": self._seq}
        return msgspec.json.encode(body(**head, time=round(self._clock.wall(), 3), **fields))

    async def collect(self, events: EventHub, up: Callable[[], None], beat: Callable[[], None]) -> None:
        """Events and telemetry into the outbox, whether the broker is there or not; for the supervisor, ends never."""
        up()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events(events))
            group.create_task(self._telemetry(beat))

    async def _events(self, events: EventHub) -> None:
        with events.watch(self._last_event) as watcher:
            async for event in watcher:
                await self._post(f"event/{event.kind}", self._body(EventMessage, kind=event.kind, fields=event.fields))
                self._last_event = event.seq
                await self._show_status()

    async def _telemetry(self, beat: Callable[[], None]) -> None:
        while True:
            await self._clock.sleep(self._config.period)
            for rest, body in self._measured():
                await self._post(rest, body)
            await self._show_status()
            beat()

    async def _post(self, rest: str, body: bytes) -> None:
        try:
            await self._line.post(rest, body)
        except QkddError as error:  # a full disk costs telemetry, not the link
            _LOG.warning("an MQTT message is lost", topic=rest, **log.error_fields(error))

    async def life(self, up: Callable[[], None]) -> None:
        """One connection to the broker, for the supervisor."""
        await self._line.run(self._body(Status, state="offline", healthy=False), self._greeting, up)

    async def goodbye(self) -> None:
        """The daemon stops in order: a clean disconnect sends no will."""
        await self._retain(self._body(Status, state="offline", healthy=False))

    async def _retain(self, status: bytes) -> bool:
        try:
            await self._line.retain("status", status)
        except MqttDown as error:  # the connection is about to end, and the next one begins with the status
            _LOG.info("the status could not be shown", **log.error_fields(error))
            return False
        return True

    def _greeting(self) -> list[tuple[str, bytes]]:
        link = self._node.link()
        birth = self._body(
            Birth,
            version=__version__,
            kernels=kernels.variant(),
            link=link.name,
            role=link.role,
            peer=link.peer,
            devices=[DeviceFact(name=d.name, driver=d.driver, roles=d.roles) for d in self._node.devices()],
            metrics=[MetricFact(name=m.name, kind=m.kind, unit=m.unit, help=m.help) for m in METRICS.values()],
        )
        return [("birth", birth), ("status", self._status())]

    def _status(self) -> bytes:
        status = self._node.status()
        self._shown = status.state, status.healthy
        code = next((part.error.code for part in status.parts if part.error is not None), None)
        return self._body(Status, state=status.state, healthy=status.healthy, code=None if status.healthy else code)

    async def _show_status(self) -> None:
        status = self._node.status()
        if (status.state, status.healthy) == self._shown:
            return
        if not await self._retain(self._status()):
            self._shown = ("", False)

    def _measured(self) -> list[tuple[str, bytes]]:
        link, keys = self._node.link(), self._node.keys()
        waiting = [s for s in keys.spool if s.state in ("sealed", "offered")]
        return [
            (
                "telemetry/link",
                self._body(
                    LinkTelemetry,
                    link=link.name,
                    state=link.state,
                    protocol=link.protocol,
                    proof=link.proof,
                    qber=link.qber,
                    visibility_z=link.visibility_z,
                    visibility_x=link.visibility_x,
                    clicks_per_s=link.clicks_per_s,
                    coincidences_per_s=link.coincidences_per_s,
                    sifted_bits_per_s=link.sifted_bits_per_s,
                    secret_bits_per_s=link.secret_bits_per_s,
                    blocks_accepted=link.blocks_accepted,
                    blocks_refused=link.blocks_refused,
                    refusals={refusal.code: refusal.count for refusal in link.refusals},
                ),
            ),
            (
                "telemetry/keys",
                self._body(
                    KeysTelemetry,
                    waiting_chunks=sum(s.chunks for s in waiting),
                    waiting_bits=sum(s.bits for s in waiting),
                    handed_over_chunks=keys.handed_over,
                    kms_up=keys.kms_up,
                    masks_alice_to_bob=keys.masks_alice_to_bob,
                    masks_bob_to_alice=keys.masks_bob_to_alice,
                    epsilon_spent_ratio=keys.epsilon_spent_ratio,
                    epoch_days_left=keys.epoch_days_left,
                ),
            ),
            (
                "telemetry/devices",
                self._body(
                    DevicesTelemetry,
                    devices=[
                        DeviceState(name=d.name, state=d.state, code=d.error.code if d.error is not None else None)
                        for d in self._node.devices()
                    ],
                ),
            ),
        ]
