"""Two whole agents over real TLS with keys of two real KMSs; WireGuard is a stand-in for the UAPI socket of one interface."""

from __future__ import annotations

import asyncio
import base64
import http.client
import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qkdd_hil.drills import pages

from qkdd.core import config as config_files
from qkdd.core.clock import SystemClock
from qkdd.peer.pki import Authority
from qkdd.peer.tls import TlsProfile, client_context
from qkdd.psk.config import PskConfig
from qkdd.psk.line import Offer, encode
from qkdd.psk.service import PskService, status_file
from qkdd.testing.patience import PATIENCE_S

from .real import ENDS, PROGRAM, Bed, bed, free_port


class Interface:
    """One interface with one peer, as wireguard-go's UAPI shows it."""

    def __init__(self, path: Path) -> None:
        self.path, self.peer, self.psk = path, os.urandom(32), bytes(32).hex()
        self.sets: list[dict[str, str]] = []
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = (await reader.readuntil(b"\n\n")).decode()
        fields = dict(line.split("=", 1) for line in question.split())
        if "set" in fields:
            self.sets.append(fields)
            self.psk = fields["preshared_key"]
            writer.write(b"errno=0\n\n")
        else:
            peer = f"public_key={self.peer.hex()}\npreshared_key={self.psk}\nallowed_ip=10.0.0.0/8\n"
            writer.write(f"private_key=00\n{peer}errno=0\n\n".encode())
        await writer.drain()
        writer.close()

    def section(self) -> str:
        peer = base64.b64encode(self.peer).decode()
        return f'[wireguard]\ninterface = "wg0"\npeer = "{peer}"\nuapi = "{self.path}"\n'


class Pair:
    """Both services in this process."""

    def __init__(self, folder: Path, place: Bed, **settings: str) -> None:
        self.place = place
        self.metrics = free_port()
        self.interfaces = {end: Interface(folder / f"{end}.sock") for end in ENDS}
        self.services: dict[str, PskService] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.settings = settings

    def config(self, end: str) -> PskConfig:
        more = {"metrics": f"127.0.0.1:{self.metrics}"} if end == "bob" else {}
        file = self.place.write(end, self.interfaces[end].section(), **self.settings, **more)
        return config_files.load(file, PskConfig)

    async def start(self, end: str) -> None:
        service = PskService(self.config(end))
        await service.start()
        self.services[end] = service
        self.tasks.append(asyncio.create_task(service.run()))

    async def until_agreed(self, other_than: str | None = None) -> str:
        def ids() -> set[str | None]:
            return {service.agent.status().key_id for service in self.services.values()}

        def good() -> bool:
            agreed = all(service.agent.status().agreed for service in self.services.values())
            return agreed and len(ids()) == 1 and ids() != {other_than}

        await self.until(good)
        return str(ids().pop())

    async def until(self, good: Callable[[], bool]) -> None:
        async def look() -> bool:
            return good()

        await self.place.until(look)

    async def __aenter__(self) -> Pair:
        for interface in self.interfaces.values():
            await interface.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for service in self.services.values():
            await service.stop()
        for interface in self.interfaces.values():
            await interface.close()


def page(port: int) -> str:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        line.request("GET", "/metrics")
        return line.getresponse().read().decode()
    finally:
        line.close()


def test_two_agents(tmp_path: Path) -> None:
    async def main() -> None:
        async with bed(tmp_path, "wireguard") as place, Pair(tmp_path, place, period="1 s", heartbeat="1 s") as pair:
            await pair.start("bob")
            await strangers(pair, tmp_path)
            await pair.start("alice")
            first = await pair.until_agreed()
            assert pair.interfaces["alice"].psk == pair.interfaces["bob"].psk != bytes(32).hex()
            second = await pair.until_agreed(first)
            assert second != first
            # somebody takes the key away: it comes back
            held = pair.interfaces["alice"]
            held.psk = bytes(32).hex()
            await pair.until(lambda: held.psk != bytes(32).hex())
            # a new process finds its state and agrees again
            pair.tasks[0].cancel()
            await pair.services.pop("bob").stop()
            await pair.start("bob")
            await pair.until_agreed(second)
            async with asyncio.timeout(PATIENCE_S):  # between two keys the gauge is 0 until both ends have said so
                text = ""
                while "qkdd_psk_agreed 1.0" not in text:
                    text = await asyncio.to_thread(page, pair.metrics)
            assert held.psk not in text
        for end in ENDS:
            said = await asyncio.to_thread(status_file(pair.config(end)).read_text)
            assert '"purpose":"wireguard"' in said
            assert held.psk not in said

    asyncio.run(main())


@pytest.mark.slow
def test_the_runbook_of_a_tunnel_that_was_torn_down(tmp_path: Path) -> None:
    """Its commands as they stand, at both ends, from the symptom to the end."""
    runbook = pages.read(Path(__file__).parents[2] / "docs/runbooks/QkddPskTunnelDown.md")

    async def follow(steps: tuple[pages.Step, ...], end: str) -> int:
        """Exit code of the agent's commands; the service manager's are not ours, and the KMS is another machine's."""
        code = 0
        for step in steps:
            if isinstance(step, pages.Command) and step.words[0] == "qkd-psk":
                words = [str(tmp_path / f"{end}.toml") if word == "PSK-CONFIG" else word for word in step.words[1:]]
                code = (
                    await asyncio.to_thread(subprocess.run, [PROGRAM, *words], capture_output=True, check=False)
                ).returncode
        return code

    async def main() -> None:
        policy = {"period": "1 s", "max_age": "3 s", "heartbeat": "1 s", "on_old_key": "tear-down"}
        async with bed(tmp_path, "wireguard") as place, Pair(tmp_path, place, **policy) as pair:
            await place.stop_kms()
            for end in ENDS:
                await pair.start(end)
            await pair.until(lambda: all(one.agent.status().torn_down for one in pair.services.values()))
            assert [await follow(runbook.look, end) for end in ENDS] == [3, 3]
            text = await asyncio.to_thread(page, pair.metrics)
            assert "qkdd_psk_torn_down 1.0" in text
            assert "qkdd_psk_period_seconds 0.0" in text  # bob listens
            [by_hand] = runbook.heal["key"]
            assert isinstance(by_hand, pages.ByHand)
            await place.start_kms()

            async def over() -> bool:
                return [await follow(runbook.verify, end) for end in ENDS] == [0, 0]

            await place.until(over)

    asyncio.run(main())


async def strangers(pair: Pair, folder: Path) -> None:
    """Another agent of the same PKI, an application's certificate, no certificate, and nonsense from the right one."""
    pki = pair.place.pair.directory / "pki"
    Authority(pki / "pq-ca").issue("agent", "agent-mallory").write(folder / "mallory.pem", folder / "mallory.key")
    bob = pair.services["bob"]
    assert bob.address is not None
    host, port = bob.address

    async def call(context: ssl.SSLContext, data: bytes) -> bytes:
        """What comes back before the line is closed."""
        try:
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="x")
            writer.write(data)
            answer = await reader.read()
            writer.close()
        except OSError:
            return b""
        return answer

    def own(certificate: Path, key: Path) -> Any:
        trust = pki / "pq-ca/trust.pem"
        profile = TlsProfile(
            certificate=certificate, key=key, trust=trust, crl=pki / "pq-ca/crl.pem", identity="agent-bob"
        )
        return client_context(profile, SystemClock())

    offer = encode(Offer("00000000-0000-0000-0000-000000000000"))
    assert not await call(own(folder / "mallory.pem", folder / "mallory.key"), offer)
    assert not await call(own(pki / "sae-alice.pem", pki / "sae-alice.key"), offer)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    assert not await call(bare, offer)
    right = own(folder / "agent-alice.pem", folder / "agent-alice.key")
    for nonsense in (b"\xff\xff\xff\xff", b"\0\0\0\2{}", encode(Offer("x"))):
        assert b'"hello"' in await call(right, nonsense)  # and then the line is closed
    assert bob.agent.status().last_failure in ("QKD-PSK-LINE", "QKD-PSK-PARTNER")
    assert pair.interfaces["bob"].sets == []
