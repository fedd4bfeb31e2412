"""One connection to the broker: birth, status with last will, telemetry, events, and a canary that proves delivery.

A broker that forbids a topic acknowledges the message all the same and delivers it to nobody; so the node subscribes to a
topic of its own, and a canary that does not come back ends the connection with QKD-TEL-MQTT-DENIED. The supervisor reconnects.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable
from typing import Any

import aiomqtt
from aiomqtt import ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from qkdd.core.client_tls import mutual_context
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.endpoint import Endpoint
from qkdd.telemetry.errors import MqttDenied, MqttDown
from qkdd.telemetry.mqtt_config import MqttConfig
from qkdd.telemetry.mqtt_messages import TREE
from qkdd.telemetry.outbox import Outbox

_BATCH = 64
_KEEP_ALIVE = 15
_ANSWER_S = 10.0


class _Context(ssl.SSLContext):
    """Remembers its sockets: after a handshake that failed the MQTT library leaves its own open."""

    sockets: list[ssl.SSLSocket]

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        made = super().wrap_socket(*arguments, **options)
        self.sockets.append(made)
        return made

    def close(self) -> None:
        for made in self.sockets:
            made.close()
        self.sockets.clear()


def tls_context(config: MqttConfig) -> _Context:
    """TLS 1.3 with our certificate; the broker's name is checked. Raises CredentialError."""
    context = mutual_context("telemetry.mqtt", config, _Context)
    context.sockets = []
    return context


class MqttLine:
    """What one daemon sends. `publish` and `letter` may be called whether or not a broker is there."""

    def __init__(self, config: MqttConfig, node: str, outbox: Outbox, clock: Clock, meter: Meter) -> None:
        self._config, self._node, self._outbox = config, node, outbox
        self._clock, self._meter = clock, meter
        self._wake = asyncio.Event()
        self._client: aiomqtt.Client | None = None
        self._nonce, self._echo = b"", asyncio.Event()

    def topic(self, rest: str) -> str:
        return f"{TREE}/{self._config.site}/{self._node}/{rest}"

    async def post(self, rest: str, payload: bytes) -> None:
        """Put a message into the outbox: it is sent when the broker is there, in order. Raises StorageFull, StorageFailed."""
        await self._outbox.put(self.topic(rest), payload, self._clock.wall() + self._config.expiry)
        self._wake.set()

    async def retain(self, rest: str, payload: bytes) -> None:
        """Publish what the broker keeps for those who come later; nothing happens without a connection. Raises MqttDown."""
        if self._client is None:
            return
        try:
            await self._client.publish(self.topic(rest), payload, qos=1, retain=True)
        except aiomqtt.MqttError as error:
            raise MqttDown(f"broker {self._config.server}: {error}") from None

    async def run(self, will: bytes, greet: Callable[[], list[tuple[str, bytes]]], up: Callable[[], None]) -> None:
        """One connection until it ends. greet: retained messages for its begin. Raises MqttDown, MqttDenied, CredentialError."""
        server, context = Endpoint.parse(self._config.server), tls_context(self._config)
        try:
            async with aiomqtt.Client(
                server.host,
                server.port,
                identifier=f"qkdd-{self._config.site}-{self._node}",
                protocol=ProtocolVersion.V5,
                tls_context=context,
                will=aiomqtt.Will(self.topic("status"), will, qos=1, retain=True),
                keepalive=_KEEP_ALIVE,
                timeout=_ANSWER_S,
            ) as client:
                await self._converse(client, greet, up)
        except aiomqtt.MqttError as error:
            raise MqttDown(f"broker {server}: {error}") from None
        except OSError as error:
            raise MqttDown(f"broker {server}: {error}") from None
        finally:
            context.close()

    async def _converse(
        self, client: aiomqtt.Client, greet: Callable[[], list[tuple[str, bytes]]], up: Callable[[], None]
    ) -> None:
        await client.subscribe(self.topic("canary"), qos=1)
        tasks = [asyncio.create_task(self._listen(client))]
        try:
            await self._fly(client)
            self._client = client
            for rest, payload in greet():
                await self.retain(rest, payload)
            up()
            tasks += [asyncio.create_task(self._send(client)), asyncio.create_task(self._canaries(client))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self._client = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            if message.payload == self._nonce:
                self._echo.set()

    async def _fly(self, client: aiomqtt.Client) -> None:
        """One canary there and back."""
        self._nonce = secrets.token_hex(8).encode()
        self._echo.clear()
        await client.publish(self.topic("canary"), self._nonce, qos=1)
        try:
            async with self._clock.deadline(_ANSWER_S):
                await self._echo.wait()
        except TimeoutError:
            self._meter.add("qkdd_mqtt_canaries_lost_total")
            raise MqttDenied(f"a message to {self.topic('canary')} was accepted and did not come back") from None

    async def _canaries(self, client: aiomqtt.Client) -> None:
        while True:
            await self._clock.sleep(self._config.canary)
            await self._fly(client)

    async def _send(self, client: aiomqtt.Client) -> None:
        """The outbox, oldest first; a message leaves it when the broker has acknowledged it."""
        while True:
            self._wake.clear()
            while letters := await self._outbox.oldest(_BATCH, self._clock.wall()):
                for letter in letters:
                    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
                    properties.MessageExpiryInterval = max(1, round(letter.until - self._clock.wall()))
                    await client.publish(letter.topic, letter.payload, qos=1, properties=properties)
                    await self._outbox.sent(letter)
                    self._meter.add("qkdd_mqtt_messages_total")
            await self._wake.wait()
