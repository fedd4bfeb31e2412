"""The status page over HTTP: headers, roles, Host check, the stream, what counts as an alarm."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import json
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from qkdd.control import views
from qkdd.control.config import ControlConfig
from qkdd.control.errors import PageListenFailed
from qkdd.control.overview import OverviewView, alarms
from qkdd.control.server import ControlServer
from qkdd.control.status_page import MAX_READERS, PageServer
from qkdd.core import audit
from qkdd.core.clock import SystemClock
from qkdd.core.config import ConfigRefused, parse
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S

_spec = importlib.util.spec_from_file_location("fake_node", Path(__file__).with_name("fake_node.py"))
assert _spec is not None
assert _spec.loader is not None
fake_node = sys.modules.setdefault("fake_node", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(fake_node)


@asynccontextmanager
async def serving(healthy: bool = True) -> AsyncIterator[tuple[aiohttp.ClientSession, str, Any]]:
    node = fake_node.FakeNode(FakeClock(), healthy)
    server = PageServer("127.0.0.1:0", node, SystemClock())
    endpoint = await server.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield client, f"http://{endpoint}", node
    finally:
        await server.stop()


async def first_state(reply: aiohttp.ClientResponse) -> OverviewView:
    async for line in reply.content:
        if line.startswith(b"data: "):
            return msgspec.json.decode(line[6:], type=OverviewView)
    raise AssertionError("the stream ended")


def test_the_page_needs_nothing_from_elsewhere_and_its_policy_admits_nothing_else() -> None:
    async def main() -> None:
        async with serving() as (client, url, _node), client.get(url + "/") as reply:
            assert reply.status == 200
            policy = reply.headers["Content-Security-Policy"]
            html = await reply.text()
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        for tag in ("script", "style"):
            (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert not re.findall(r"""(?:src|href)=["'](?!#)""", html)
        assert set(re.findall(r"https?://[^\"'\s]+", html)) == {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in html  # names and messages come from outside: text nodes only

    asyncio.run(main())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", ""])
@pytest.mark.parametrize("path", ["/", "/events", "/v1/status"])
def test_another_host_name_is_refused(host: str, path: str) -> None:
    async def main() -> None:
        async with serving() as (client, url, _node), client.get(url + path, headers={"Host": host}) as reply:
            assert reply.status == 421

    asyncio.run(main())


def test_localhost_is_a_name_of_it_and_nothing_can_be_changed() -> None:
    async def main() -> None:
        async with serving() as (client, url, node):
            port = url.rpartition(":")[2]
            async with client.get(url + "/", headers={"Host": f"localhost:{port}"}) as reply:
                assert reply.status == 200
            for method in ("POST", "PUT", "DELETE"):
                async with client.request(method, url + "/") as reply:
                    assert reply.status == 405
            async with client.post(url + "/v1/drain") as reply:
                assert reply.status == 404
            assert node.asked == ["blocks 60"] * len(node.asked)

    asyncio.run(main())


def test_the_stream_starts_with_the_state_and_goes_on_each_second() -> None:
    async def main() -> None:
        async with serving(healthy=False) as (client, url, node), client.get(url + "/events") as reply:
            assert reply.headers["Content-Type"] == "text/event-stream"
            state = await first_state(reply)
            assert state.status.node == "alice"
            assert state.align is None
            assert [a.code for a in state.alarms] == ["QKD-DEV-OFFLINE"]
            await node.align(60)
            assert (await first_state(reply)).align is not None

    asyncio.run(main())


def test_readers_are_limited_and_leave_their_place() -> None:
    async def main() -> None:
        async with serving() as (_client, url, node):
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
                replies = [await client.get(url + "/events") for _ in range(MAX_READERS)]
                async with client.get(url + "/events") as one_more:
                    assert one_more.status == 503
                for reply in replies:
                    reply.close()
            async with aiohttp.ClientSession() as client:
                for _ in range(round(PATIENCE_S / 0.02)):
                    async with client.get(url + "/events") as reply:
                        if reply.status == 200:
                            break
                    await asyncio.sleep(0.02)
                assert reply.status == 200
            node.events.close()

    asyncio.run(main())


def test_a_taken_port_is_said() -> None:
    async def main() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            server = PageServer(f"127.0.0.1:{other.getsockname()[1]}", fake_node.FakeNode(FakeClock()), FakeClock())
            with pytest.raises(PageListenFailed, match="cannot listen"):
                await server.start()
            await server.stop()

    asyncio.run(main())


def test_the_control_socket_serves_the_page_and_its_stream(tmp_path: Path) -> None:
    async def main() -> None:
        clock = SystemClock()
        node = fake_node.FakeNode(clock)
        log = audit.AuditLog(tmp_path / "audit.log", clock)
        path = str(tmp_path / "c.sock")
        server = ControlServer(ControlConfig(socket=path), node, log, clock)
        await server.start()
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as client:
                async with client.get("http://qkdd/") as reply:
                    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
                async with client.get("http://qkdd/events") as reply:
                    assert (await first_state(reply)).status.link.name == "a-b"
        finally:
            await server.stop()
            log.close()

    asyncio.run(main())


def test_only_loopback_addresses_are_taken() -> None:
    for text in ("0.0.0.0:9102", "192.0.2.1:9102", "example.org:9102", "9102"):
        with pytest.raises(ConfigRefused, match="page"):
            parse(f'socket = "c.sock"\npage = "{text}"\n', ControlConfig)
    for text in ("127.0.0.1:9102", "[::1]:9102", "localhost:0"):
        assert parse(f'socket = "c.sock"\npage = "{text}"\n', ControlConfig).page == text


def _status(**changes: Any) -> views.StatusView:
    if "node_state" in changes:
        tripped = changes.pop("node_state")
        return msgspec.structs.replace(_status(**changes), state=tripped)
    link = {name: changes.pop(name) for name in list(changes) if name in msgspec.structs.asdict(fake_node.LINK)}
    keys = {name: changes.pop(name) for name in list(changes) if name in msgspec.structs.asdict(fake_node.KEYS)}
    status = fake_node.FakeNode(FakeClock()).status()
    return msgspec.structs.replace(
        status,
        link=msgspec.structs.replace(fake_node.LINK, **link),
        keys=msgspec.structs.replace(fake_node.KEYS, **keys),
        **changes,
    )


@pytest.mark.parametrize(
    ("changes", "severity", "words"),
    [
        ({"node_state": "tripped"}, "critical", "interlock"),
        ({"qber": 0.04, "tolerated_error": 0.03}, "critical", "4.00%"),
        ({"epsilon_spent_ratio": 0.95}, "warning", "95%"),
        ({"epsilon_spent_ratio": 1.0}, "critical", "spent"),
        ({"masks_bob_to_alice": 3}, "warning", "3 masks"),
    ],
)
def test_alarms(changes: dict[str, Any], severity: str, words: str) -> None:
    (alarm,) = alarms(_status(**changes), [], [], [], 1.79e9)
    assert alarm.severity == severity
    assert words in alarm.title


def test_alarm_of_a_lost_or_open_link_and_of_refused_blocks_comes_with_what_to_do() -> None:
    lost = msgspec.structs.replace(_status(), link=msgspec.structs.replace(fake_node.LINK, state="lost"))
    (alarm,) = alarms(lost, [], [], [], 1.79e9)
    assert alarm.severity == "critical"
    opened = msgspec.structs.replace(_status(), link=msgspec.structs.replace(fake_node.LINK, state="aligning (open)"))
    (alarm,) = alarms(opened, [], [], [], 1.79e9)
    assert "--off" in alarm.remedy
    bad = fake_node.FakeNode(FakeClock()).blocks(2)[1]
    assert alarms(_status(), [], [bad, bad], [], 1.79e9) == []
    (alarm,) = alarms(_status(), [], [bad, bad, bad], [], 1.79e9)
    assert alarm.code == "QKD-BLK-QBER"


def test_old_errors_are_no_alarms_and_the_worst_comes_first() -> None:
    node = fake_node.FakeNode(FakeClock(), healthy=False)
    errors = node.errors()
    fresh = [msgspec.structs.replace(errors[0], code="QKD-PEER-SILENT")]
    assert len(alarms(_status(), [], [], fresh, 1.79e9 + 5)) == 1
    assert alarms(_status(), [], [], fresh, 1.79e9 + 3600) == []
    both = alarms(node.status(), node.devices(), [], fresh, 1.79e9)
    assert [a.severity for a in both] == ["critical", "warning"]


def test_nothing_secret_has_a_place_in_the_overview() -> None:
    (schema,), components = msgspec.json.schema_components([OverviewView])
    names = set(re.findall(r'"([a-z_0-9]+)": \{', json.dumps([schema, components])))
    assert not {n for n in names if re.search(r"secret(?!_bits)|password|token|seed|private|master", n)}
