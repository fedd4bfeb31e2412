"""MQTT against a real mosquitto: what a subscriber sees, what happens without a broker, what a forbidding broker costs."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import CredentialError
from qkdd.core.units import Seconds
from qkdd.telemetry.errors import MqttDenied, MqttDown
from qkdd.telemetry.mqtt import MqttLine, tls_context
from qkdd.telemetry.mqtt_config import MqttConfig
from qkdd.telemetry.mqtt_messages import BODIES, Status, schemas
from qkdd.telemetry.outbox import Outbox
from qkdd.testing.patience import PATIENCE_S

from .broker import Broker, Pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("mqtt-pki"))


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker", pki)
    made.start()
    yield made
    made.stop()


def config(pki: Pki, broker: Broker, **changes: Any) -> MqttConfig:
    certificate, key = pki.issue("alice")
    return MqttConfig(
        server=f"localhost:{broker.port}",
        site="lab",
        certificate=str(certificate),
        key=str(key),
        trust=str(pki.trust),
        canary=Seconds(changes.pop("canary", 30.0)),
        **changes,
    )


@asynccontextmanager
async def line(
    tmp_path: Path, settings: MqttConfig, meter: RecordingMeter | None = None
) -> AsyncIterator[tuple[MqttLine, Callable[[], Any]]]:
    """A line, and what starts one connection and returns when it is up."""
    outbox = Outbox(tmp_path / "outbox.sqlite", settings.spool_bytes, meter or RecordingMeter())
    await outbox.open()
    made = MqttLine(settings, "alice", outbox, SystemClock(), meter or RecordingMeter())
    tasks: list[asyncio.Task[None]] = []

    async def connect() -> asyncio.Task[None]:
        up = asyncio.Event()
        tasks.append(asyncio.create_task(made.run(b"gone", lambda: [("birth", b"born"), ("status", b"here")], up.set)))
        waiting = asyncio.create_task(up.wait())
        await asyncio.wait({tasks[-1], waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return tasks[-1]

    try:
        yield made, connect
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await outbox.close()


@asynccontextmanager
async def observer(pki: Pki, broker: Broker) -> AsyncIterator[Callable[[int], Any]]:
    """Reads everything under qkd/v1; `await heard(n)` gives the next n (topic, payload, retained)."""
    certificate, key = pki.issue("observer")
    context = ssl.create_default_context(cafile=str(pki.trust))
    context.load_cert_chain(certificate, key)
    async with aiomqtt.Client("localhost", broker.port, tls_context=context) as client:
        await client.subscribe("qkd/v1/#", qos=1)
        messages = aiter(client.messages)

        async def heard(count: int) -> list[tuple[str, bytes, bool]]:
            async with asyncio.timeout(PATIENCE_S):
                found = []
                while len(found) < count:
                    message = await anext(messages)
                    if not str(message.topic).endswith("/canary"):
                        found.append((str(message.topic), bytes(message.payload), bool(message.retain)))
                return found

        yield heard


def test_what_a_subscriber_sees_and_the_last_will(tmp_path: Path, pki: Pki, broker: Broker) -> None:
    async def main() -> None:
        async with observer(pki, broker) as heard, line(tmp_path, config(pki, broker)) as (made, connect):
            task = await connect()
            assert [m[:2] for m in await heard(2)] == [
                ("qkd/v1/lab/alice/birth", b"born"), ("qkd/v1/lab/alice/status", b"here"),
            ]  # fmt: skip
            for number in range(3):
                await made.post("event/block.accepted", b"%d" % number)
            assert [m[1] for m in await heard(3)] == [b"0", b"1", b"2"]
            async with observer(pki, broker) as late:
                assert {m[0].rsplit("/", 1)[1] for m in await late(2)} == {"birth", "status"}
            client = made._client
            assert client is not None
            client._client.socket().shutdown(socket.SHUT_RDWR)  # the line breaks without a goodbye
            assert ("qkd/v1/lab/alice/status", b"gone") in [m[:2] for m in await heard(1)]
            with pytest.raises(MqttDown):
                await task

    asyncio.run(main())


def test_without_a_broker_messages_wait_on_disk_and_come_in_order(tmp_path: Path, pki: Pki) -> None:
    async def main() -> None:
        broker = Broker(tmp_path / "broker", pki)
        settings = config(pki, broker)
        async with line(tmp_path, settings) as (made, connect):
            for number in range(5):
                await made.post("event/x", b"%d" % number)
            with pytest.raises(MqttDown):
                await (await connect())
        broker.start()  # and the process was started anew
        try:
            async with observer(pki, broker) as heard, line(tmp_path, settings) as (made, connect):
                await connect()
                found = [m for m in await heard(7) if m[0].endswith("event/x")]
                assert [m[1] for m in found] == [b"0", b"1", b"2", b"3", b"4"]
        finally:
            broker.stop()

    asyncio.run(main())


def test_a_broker_that_forbids_is_found_out(tmp_path: Path, pki: Pki) -> None:
    async def main() -> None:
        broker = Broker(tmp_path / "broker", pki, acl="pattern readwrite qkd/v1/elsewhere/%u/#\n")
        broker.start()
        meter = RecordingMeter()
        clock_patch = pytest.MonkeyPatch()
        clock_patch.setattr("qkdd.telemetry.mqtt._ANSWER_S", 0.5)
        try:
            async with line(tmp_path, config(pki, broker), meter) as (_, connect):
                with pytest.raises(MqttDenied):
                    await (await connect())
        finally:
            clock_patch.undo()
            broker.stop()

    asyncio.run(main())


def test_wrong_authority_and_open_key(tmp_path: Path, pki: Pki, broker: Broker) -> None:
    async def main() -> None:
        other = Pki(tmp_path / "other")
        settings = msgspec.structs.replace(config(pki, broker), trust=str(other.trust))
        async with line(tmp_path, settings) as (_, connect):
            with pytest.raises(MqttDown, match="certificate"):
                await (await connect())

    asyncio.run(main())
    settings = config(pki, broker)
    Path(settings.key).chmod(0o644)
    with pytest.raises(CredentialError, match="others"):
        tls_context(settings)
    with pytest.raises(CredentialError, match="no file"):
        tls_context(msgspec.structs.replace(settings, trust="/absent"))


def test_the_outbox_is_bounded_and_forgets_the_old(tmp_path: Path) -> None:
    async def main() -> None:
        meter = RecordingMeter()
        box = Outbox(tmp_path / "box", 1000, meter)
        await box.open()
        for number in range(20):
            await box.put("t", bytes([number]) * 99, until=100.0)
        letters = await box.oldest(64, now=0.0)
        assert [letter.payload[0] for letter in letters] == list(range(10, 20))
        await box.sent(letters[0])
        await box.put("t", b"young", until=200.0)
        assert [letter.payload for letter in await box.oldest(64, now=150.0)] == [b"young"]
        await box.close()
        again = Outbox(tmp_path / "box", 1000, meter)
        await again.open()
        assert len(await again.oldest(64, now=150.0)) == 1
        assert again._bytes == len(b"young") + 1
        await again.close()

    asyncio.run(main())


def test_bodies_fit_their_schemas() -> None:
    made = schemas()
    assert set(made) == {f"{name}.schema.json" for name in BODIES}
    status = json.loads(made["status.schema.json"])
    body = Status(site="lab", node="alice", boot="0", seq=1, time=0.0, state="running", healthy=True)
    definition = status["$defs"]["Status"]
    assert set(definition["required"]) <= set(msgspec.to_builtins(body))
    assert set(msgspec.to_builtins(body)) == set(definition["properties"])


def test_configuration_is_checked(pki: Pki) -> None:
    bad = MqttConfig(server="nowhere", site="a/b", certificate="", key="", trust="", period=Seconds(0.1), spool_bytes=1)
    assert {key for key, _, _ in bad.check()} == {"server", "site", "period", "spool_bytes"}
