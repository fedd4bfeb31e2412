"""The control socket over real UNIX sockets: roles, forms, stale and live paths, activation, events."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from qkdd.control.config import ControlConfig
from qkdd.control.errors import SocketFailed, SocketInUse
from qkdd.control.routes import ROUTES
from qkdd.control.server import ControlServer
from qkdd.core import audit, audit_check
from qkdd.core.clock import SystemClock
from qkdd.core.config import ConfigRefused, parse
from qkdd.core.local_access import AccessPolicy, PeerUser, Role, group_ids
from qkdd.core.local_socket import activated, bind

_spec = importlib.util.spec_from_file_location("fake_node", Path(__file__).with_name("fake_node.py"))
assert _spec is not None
assert _spec.loader is not None
fake_node = sys.modules.setdefault("fake_node", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(fake_node)


BODIES = {"/v1/log-level": {"level": "debug"}, "/v1/align": {"seconds": 60}, "/v1/zeroise": {"confirm": "alice"}}


class FixedRole(AccessPolicy):
    """Everybody has the role that the test says."""

    def __init__(self, role: Role) -> None:
        super().__init__()
        object.__setattr__(self, "_role", role)

    __slots__ = ("_role",)

    def role_of(self, user: PeerUser) -> Role:
        return self._role  # type: ignore[attr-defined,no-any-return]


@asynccontextmanager
async def running(tmp_path: Path, role: Role | None = None) -> AsyncIterator[tuple[Any, Any, Path]]:
    clock = SystemClock()
    node = fake_node.FakeNode(clock)
    log = audit.AuditLog(tmp_path / "audit.log", clock)
    path = tmp_path / "c.sock"
    server = ControlServer(ControlConfig(socket=str(path)), node, log, clock, None if role is None else FixedRole(role))
    await server.start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client:
            yield client, node, tmp_path / "audit.log"
    finally:
        await server.stop()
        log.close()
    assert not path.exists()


async def ask(client: Any, method: str, route: str, **kwargs: Any) -> tuple[int, Any]:
    async with client.request(method, f"http://qkdd{route}", **kwargs) as reply:
        return reply.status, json.loads(await reply.read())


def test_own_user_is_admin_and_every_route_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (client, node, _):
            for route in ROUTES:
                if route.stream:
                    continue
                body = BODIES.get(route.path, {} if route.body is not None else None)
                status, answer = await ask(client, route.method, route.path.replace("{name}", "tagger"), json=body)
                if route.path in ("/v1/resume", "/v1/firmware/update"):
                    assert (status, answer["code"]) == (409, "QKD-CTL-NOT-NOW")
                else:
                    assert status == 200, (route.path, answer)
            assert [asked for asked in node.asked if not asked.startswith("blocks")] == [
                "advise None", "align 60", "calibrate", "drain", "reload", "level debug", "zeroise alice",
            ]  # fmt: skip
            assert node.asked.count("blocks 20") == 1

    asyncio.run(main())


def test_nobody_gets_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, Role.NONE) as (client, node, _):
            for route in ROUTES:
                status, answer = await ask(client, route.method, route.path.replace("{name}", "tagger"))
                assert (status, answer["code"]) == (403, "QKD-CTL-DENIED")
                assert answer["remedy"]
            status, _answer = await ask(client, "GET", "/v1/no-such-route")
            assert status == 403  # who has no role does not learn which routes exist
            assert node.asked == []

    asyncio.run(main())


def test_viewer_may_look_and_not_change_and_the_attempt_is_audited(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, Role.VIEW) as (client, node, log):
            for route in ROUTES:
                if route.stream:
                    continue
                status, _ = await ask(client, route.method, route.path.replace("{name}", "tagger"))
                assert status == (403 if route.role is Role.ADMIN else 200), route.path
            assert node.asked == ["advise None", "blocks 20", "blocks 60"]
            entries = [json.loads(line) for line in log.read_text().splitlines()]
            assert {e["verdict"] for e in entries} == {"denied"}
            assert {e["route"] for e in entries} == {r.path for r in ROUTES if r.mutating}
            assert all(e["uid"] == os.getuid() and e["pid"] == os.getpid() for e in entries)

    asyncio.run(main())


def test_changes_are_audited_before_they_happen(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (client, _node, log):
            await ask(client, "POST", "/v1/drain")
            await ask(client, "GET", "/v1/status")
            await ask(client, "POST", "/v1/resume")  # refused by the node: asked all the same
        routes = [json.loads(line)["route"] for line in log.read_text().splitlines()]
        assert routes == ["/v1/drain", "/v1/resume"]
        assert audit_check.verify(log).lines == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "route", "body", "status"),
    [
        ("GET", "/v1/blocks?limit=0", None, 400),
        ("GET", "/v1/blocks?limit=many", None, 400),
        ("GET", "/v1/blocks?limit=99999999999999999999", None, 400),
        ("GET", "/v1/blocks?limt=3", None, 400),
        ("POST", "/v1/log-level", b"{", 400),
        ("POST", "/v1/log-level", b'{"level": 3}', 400),
        ("POST", "/v1/log-level", b'{"level": "info", "extra": 1}', 400),
        ("POST", "/v1/log-level", b"\xff\xfe", 400),
        ("POST", "/v1/log-level", b"x" * 100_000, 413),
        ("POST", "/v1/status", None, 405),
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/devices/nobody/fields", None, 404),
    ],
)
def test_bad_requests(tmp_path: Path, method: str, route: str, body: bytes | None, status: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as (client, node, _):
            got, answer = await ask(client, method, route, data=body)
            assert got == status
            assert set(answer) == {"code", "message", "remedy"}
            assert answer["code"].startswith("QKD-CTL-")
            assert node.asked == []

    asyncio.run(main())


def test_a_defect_is_answered_and_the_socket_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (client, node, _):
            node.broken = True
            status, answer = await ask(client, "GET", "/v1/link")
            assert (status, answer["code"]) == (500, "QKD-CORE-INTERNAL")
            assert "a defect" not in answer["message"]  # details go to the log, not to the client
            node.broken = False
            assert (await ask(client, "GET", "/v1/link"))[0] == 200

    with structlog.testing.capture_logs() as lines:
        asyncio.run(main())
    assert any("a defect" in line.get("error", "") for line in lines)


def test_events_stream_replays_follows_and_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (client, node, _):
            node.events.publish("device.up", device="tagger")
            async with client.get("http://qkdd/v1/events?since=0") as reply:
                assert reply.headers["Content-Type"] == "application/x-ndjson"
                first = json.loads(await reply.content.readline())
                assert (first["seq"], first["kind"], first["fields"]) == (1, "device.up", {"device": "tagger"})
                node.events.publish("block.accepted", number=1)
                second = json.loads(await reply.content.readline())
                assert (second["seq"], second["fields"]) == (2, {"number": 1})
                node.events.close()
                assert await reply.content.readline() == b""

    asyncio.run(main())


def test_a_slow_watcher_is_told_what_it_lost() -> None:
    async def main() -> None:
        from qkdd.control.events import EventHub

        hub = EventHub(SystemClock(), backlog=3)
        with hub.watch() as watcher:
            for number in range(5):
                hub.publish("block.accepted", number=number)
            hub.close()
            assert [e.fields["number"] async for e in watcher] == [2, 3, 4]
            assert watcher.lost == 2

    asyncio.run(main())


def test_a_stale_socket_is_replaced_and_a_live_one_refused(tmp_path: Path) -> None:
    config = ControlConfig(socket=str(tmp_path / "c.sock"))
    first = bind(config)
    assert stat.S_IMODE((tmp_path / "c.sock").stat().st_mode) == 0o660
    with pytest.raises(SocketInUse, match="answers"):
        bind(config)
    first.close()  # as after kill -9: the path stays, nobody listens
    second = bind(config)
    second.close()
    (tmp_path / "c.sock").unlink()
    (tmp_path / "c.sock").write_text("a file of the user")
    with pytest.raises(SocketInUse, match="no socket"):
        bind(config)
    assert (tmp_path / "c.sock").read_text() == "a file of the user"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SocketFailed, match="file"):
        bind(ControlConfig(socket=str(tmp_path / "file" / "c.sock")))


def test_the_socket_of_the_service_manager_is_taken(tmp_path: Path) -> None:
    """sd_listen_fds(3), in a child of its own because the descriptors' numbers are fixed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "a.sock"))
    listener.listen()
    code = (
        "import os\n"
        f"os.dup2({listener.fileno()}, 4)\n"
        "from qkdd.core.local_socket import activated\n"
        "env = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '2', 'LISTEN_FDNAMES': 'metrics:control'}\n"
        "s = activated(env)\n"
        "print(s.getsockname(), sorted(env), os.get_inheritable(4))\n"
    )
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code], pass_fds=[listener.fileno()], capture_output=True, text=True, check=True
    )
    listener.close()
    assert done.stdout.strip() == f"{tmp_path / 'a.sock'} [] False"


def test_descriptors_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert activated(environment) is None
    assert environment == {"LISTEN_PID": "1", "LISTEN_FDS": "1"}


def test_roles_come_from_primary_and_supplementary_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    import grp
    import pwd

    class Entry:
        pw_name = "carol"
        gr_gid = 0

    def group(name: str) -> Entry:
        entry = Entry()
        entry.gr_gid = {"qkd-admin": 500, "qkd-view": 501}[name]
        return entry

    def user(uid: int) -> Entry:
        if uid == 4000:
            raise KeyError(uid)
        return Entry()

    monkeypatch.setattr(pwd, "getpwuid", user)
    monkeypatch.setattr(grp, "getgrnam", group)
    members: list[int] = []
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, *members])
    monkeypatch.setattr(os, "geteuid", lambda: 77)
    policy = AccessPolicy("qkd-admin", "qkd-view")
    carol = PeerUser(1, 1234, 1234)
    assert policy.role_of(carol) is Role.NONE
    members[:] = [501]
    assert policy.role_of(carol) is Role.VIEW
    members[:] = [501, 500]
    assert policy.role_of(carol) is Role.ADMIN
    assert policy.role_of(PeerUser(1, 4000, 501)) is Role.VIEW  # unknown to the name service: its primary group counts
    assert policy.role_of(PeerUser(1, 0, 0)) is Role.ADMIN
    assert policy.role_of(PeerUser(1, 77, 77)) is Role.ADMIN
    assert AccessPolicy().role_of(PeerUser(1, 1234, 500)) is Role.NONE  # no groups configured: nobody else
    monkeypatch.setattr(grp, "getgrnam", lambda name: {}[name])
    assert policy.role_of(carol) is Role.NONE  # the group was removed


def test_groups_of_the_real_user() -> None:
    assert os.getgid() in group_ids(PeerUser(os.getpid(), os.getuid(), os.getgid()))


@pytest.mark.parametrize("text", ['socket = "x"\nadmin_group = "no-such-group-here"', f'socket = "{"x" * 120}"'])
def test_configuration_refusals(text: str) -> None:
    with pytest.raises(ConfigRefused) as refusal:
        parse(text, ControlConfig)
    assert all(f.line and f.remedy for f in refusal.value.findings)
