"""Bad input at the level of two composed daemons over real TLS: its code, its counter, its healing. docs/bad-input.md."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from qkdd.core.clock import SystemClock
from qkdd.node.config import load_node
from qkdd.node.daemon import Daemon
from qkdd.peer import Message, hello
from qkdd.peer.pki import Authority, CredentialPaths
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S

_spec = importlib.util.spec_from_file_location("node_support", Path(__file__).with_name("support.py"))
assert _spec is not None
assert _spec.loader is not None
support = sys.modules.setdefault("node_support", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(support)

DAY = 86_400.0


class Site:
    """An authority, and certificates for both nodes in files that can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "ca", "ml-dsa-65", "site")
        self.paths: dict[str, CredentialPaths] = {}
        for name in ("alice", "bob"):
            self.paths[name] = CredentialPaths(
                folder / f"{name}.pem", folder / f"{name}.key", self.authority.trust_file, self.authority.crl_file
            )
            self.issue(name)

    def issue(self, name: str, *, identity: str = "", role: Any = "node", authority: Authority | None = None) -> None:
        """Write a certificate for `identity` (default: the node itself) into the node's files."""
        credential = (authority or self.authority).issue(role, identity or name, dns=("localhost",))
        credential.write(self.paths[name].certificate, self.paths[name].key)

    def issue_expired(self, name: str) -> None:
        """A certificate that was good for a day, a week ago."""
        last_week = Authority(self.folder / "ca", FakeClock(wall=SystemClock().wall() - 7 * DAY))
        last_week.issue("node", name, dns=("localhost",), days=1).write(
            self.paths[name].certificate, self.paths[name].key
        )

    def revoke(self, name: str) -> None:
        leaf = x509.load_pem_x509_certificate(self.paths[name].certificate.read_bytes())
        self.authority.revoke(leaf.serial_number)

    def node(self, name: str, port: int = 0) -> Path:
        """The node's configuration with these files."""
        path: Path = support.write_node(self.folder / f"node-{name}", me=name, port=port)
        files = self.paths[name]
        for placeholder, real in (
            ("node.pem", files.certificate), ("node.key", files.key), ("ca.pem", files.trust), ("ca.crl", files.crl),
        ):  # fmt: skip
            path.write_text(path.read_text().replace(f'"{placeholder}"', f'"{real}"'))
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(load_node(path), SystemClock(), source=path)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


@asynccontextmanager
async def two(site: Site) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Alice and bob as daemons; devices and KMS are absent, the channel between them is real."""
    async with running(site.node("alice")) as alice:
        await until(lambda: alice.rooms.peer._server is not None)
        async with running(site.node("bob", alice.rooms.peer.port)) as bob:
            yield alice, bob


async def until(condition: Any, seconds: float = PATIENCE_S) -> None:
    """Let real sockets work until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in several rooms and real sockets
            await asyncio.sleep(0.02)


def seen(daemon: Daemon, code: str) -> str:
    """The last message with this code from the peer's part; "" when there is none."""
    return next((e.message for e in daemon.control.errors() if e.code == code and e.part == "peer"), "")


def counted(daemon: Daemon, code: str) -> bool:
    """Whether the scrape shows the code as a failure of the peer's part."""
    text = daemon.meter.exposition().decode()
    return f'qkdd_part_failures_total{{code="{code}",part="peer"}}' in text


def linked(alice: Daemon, bob: Daemon) -> bool:
    sessions = alice.link_run.session, bob.link_run.session
    return all(s is not None for s in sessions) and sessions[0].session_id == sessions[1].session_id  # type: ignore[union-attr]


async def healed(alice: Daemon, bob: Daemon) -> None:
    """An operator reloads both nodes after the repair; nothing is restarted."""
    await alice.reload()
    await bob.reload()
    await until(lambda: linked(alice, bob))
    assert alice.supervisor.parts["peer"].error is None
    assert bob.supervisor.parts["peer"].error is None


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("expired", "QKD-PEER-CERT-EXPIRED"),
        ("revoked", "QKD-PEER-CERT-REVOKED"),
        ("another authority", "QKD-PEER-CERT-UNKNOWN-CA"),
        ("another role", "QKD-PEER-CERT-PURPOSE"),
    ],
)
def test_a_node_with_a_bad_certificate_says_so_itself_and_heals_by_reload(site: Site, fault: str, code: str) -> None:
    """Its self-test at the start judges its own certificate by the rules of the other end."""

    async def main() -> None:
        match fault:
            case "expired":
                site.issue_expired("bob")
            case "revoked":
                site.revoke("bob")
            case "another authority":
                site.issue("bob", authority=Authority.create(site.folder / "other-ca", "ml-dsa-65", "other"))
            case "another role":
                site.issue("bob", role="sae")
        async with two(site) as (alice, bob):
            await until(lambda: seen(bob, code))
            assert counted(bob, code)
            assert bob.link_run.session is None
            assert alice.link_run.session is None
            site.issue("bob")
            await healed(alice, bob)

    asyncio.run(main())


def test_a_certificate_of_somebody_else_is_refused_by_the_other_node(site: Site) -> None:
    async def main() -> None:
        site.issue("bob", identity="mallory")
        async with two(site) as (alice, bob):
            await until(lambda: seen(alice, "QKD-PEER-CERT-IDENTITY") and seen(bob, "QKD-PEER-CERT-REFUSED"))
            assert counted(alice, "QKD-PEER-CERT-IDENTITY")
            assert counted(bob, "QKD-PEER-CERT-REFUSED")
            site.issue("bob")
            await healed(alice, bob)

    asyncio.run(main())


def test_a_certificate_revoked_while_the_session_stands_ends_it(site: Site) -> None:
    async def main() -> None:
        async with two(site) as (alice, bob):
            await until(lambda: linked(alice, bob))
            site.revoke("bob")
            await alice.reload()
            await until(lambda: alice.link_run.session is None and bob.link_run.session is None)
            await until(lambda: seen(alice, "QKD-PEER-CERT-REVOKED") and seen(bob, "QKD-PEER-CERT-REFUSED"))
            assert counted(alice, "QKD-PEER-CERT-REVOKED")
            site.issue("bob")
            await healed(alice, bob)

    asyncio.run(main())


def test_another_configuration_names_the_first_key_that_differs_with_both_values(site: Site) -> None:
    async def main() -> None:
        async with running(site.node("alice")) as alice:
            await until(lambda: alice.rooms.peer._server is not None)
            path = site.node("bob", alice.rooms.peer.port)
            support.edit(path, 'window = "6 ns"', 'window = "7 ns"\nqber_max = 0.04')
            async with running(path) as bob:
                for daemon in (alice, bob):
                    await until(lambda daemon=daemon: seen(daemon, "QKD-PEER-CONFIG-MISMATCH"))
                    message = seen(daemon, "QKD-PEER-CONFIG-MISMATCH")
                    assert "qber_max" in message
                    assert "0.05" in message
                    assert "0.04" in message
                    assert "window" not in message  # one thing at a time
                    assert counted(daemon, "QKD-PEER-CONFIG-MISMATCH")
            support.edit(path, 'window = "7 ns"\nqber_max = 0.04', 'window = "6 ns"')
            async with running(path) as bob:
                await healed(alice, bob)

    asyncio.run(main())


def test_an_older_protocol_version_is_named_and_heals_with_the_upgrade(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_encode = hello.encode

    def encode(said: hello.Hello) -> bytes:
        if said.role == "bob":
            said = msgspec.structs.replace(said, protocol_min=0, protocol_max=0, software="qkdd 0.0.1")
        return true_encode(said)

    async def main() -> None:
        monkeypatch.setattr(hello, "encode", encode)
        async with two(site) as (alice, bob):
            await until(lambda: seen(alice, "QKD-PEER-VERSION"))
            assert "qkdd 0.0.1" in seen(alice, "QKD-PEER-VERSION")
            assert counted(alice, "QKD-PEER-VERSION")
            await until(lambda: bob.supervisor.parts["peer"].error is not None)
            assert alice.link_run.session is None
            assert bob.link_run.session is None
            monkeypatch.undo()
            await healed(alice, bob)

    asyncio.run(main())


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(4096), b"\x16\x03\x03\xff\xff" + bytes(100)])
def test_garbage_at_the_port_is_counted_and_leaves_the_session_alone(site: Site, garbage: bytes) -> None:
    async def main() -> None:
        async with two(site) as (alice, bob):
            await until(lambda: linked(alice, bob))
            session = alice.link_run.session
            _, writer = await asyncio.open_connection("127.0.0.1", alice.rooms.peer.port)
            writer.write(garbage)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            await until(lambda: alice.rooms.peer.last_failure is not None)
            failure = alice.rooms.peer.last_failure
            assert failure is not None
            assert failure.code in ("QKD-PEER-TLS", "QKD-PEER-TLS-NEGOTIATION")
            assert f'result="{failure.code}"' in alice.meter.exposition().decode()
            assert alice.link_run.session is session
            assert linked(alice, bob)

    asyncio.run(main())


class Proxy:
    """A middle box on TCP: passes everything on, and once flips a bit of what goes the chosen way."""

    def __init__(self, port: int) -> None:
        self.to, self.port = port, 0
        self.flip = ""  # "up" (bob to alice) or "down"; cleared when it was done
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pass(reader, far_writer, "up"), self._pass(far_reader, writer, "down"))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        try:
            while data := await reader.read(65536):
                if self.flip == way:
                    self.flip = ""
                    data = data[:-1] + bytes([data[-1] ^ 1])
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # one end hung up, as it shall after a bad record
        writer.close()


class Note(Message, tag="test.bad-input.note"):
    text: str


@asynccontextmanager
async def two_over_a_proxy(site: Site) -> AsyncIterator[tuple[Daemon, Daemon, Proxy]]:
    async with running(site.node("alice")) as alice:
        await until(lambda: alice.rooms.peer._server is not None)
        async with Proxy(alice.rooms.peer.port) as proxy, running(site.node("bob", proxy.port)) as bob:
            await until(lambda: linked(alice, bob))
            yield alice, bob, proxy


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_flipped_bit_on_the_wire_ends_the_session_and_a_new_one_comes_by_itself(site: Site, way: str) -> None:
    async def main() -> None:
        async with two_over_a_proxy(site) as (alice, bob, proxy):
            first = alice.link_run.session
            sender = (bob if way == "up" else alice).link_run.session
            assert first is not None
            assert sender is not None
            proxy.flip = way
            await sender.send(Note("whatever"))
            await until(lambda: linked(alice, bob) and alice.link_run.session is not first)
            assert proxy.flip == ""
            codes = {error.code for daemon in (alice, bob) for error in daemon.control.errors() if error.part == "peer"}
            assert codes
            assert codes <= {"QKD-PEER-TLS", "QKD-PEER-CLOSED"}
            assert any(counted(daemon, code) for daemon in (alice, bob) for code in codes)

    asyncio.run(main())


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_flipped_bit_in_a_new_handshake_is_counted_and_the_session_stands(site: Site, way: str) -> None:
    async def main() -> None:
        async with two_over_a_proxy(site) as (alice, bob, proxy):
            first = alice.link_run.session
            proxy.flip = way
            await bob.reload()  # bob begins a handshake on a new connection
            await until(lambda: 'result="QKD-PEER-' in bob.meter.exposition().decode())
            assert proxy.flip == ""
            assert alice.link_run.session is first
            assert linked(alice, bob)

    asyncio.run(main())
