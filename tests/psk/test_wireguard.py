"""`qkd-psk wireguard` with wireguard-go: two tunnels' ends in network namespaces of their own, keys of two real KMSs.

One end is controlled through `wg`, the other through the UAPI socket. Needs root, wireguard-go, wireguard-tools, iproute2.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qkdd.core.clock import SystemClock
from qkdd.core.secret import Secret
from qkdd.psk.config import WireguardConfig
from qkdd.psk.errors import TargetFailed
from qkdd.psk.keys import AgreedKey
from qkdd.psk.wireguard import WireguardTarget

from .real import ENDS, Bed, bed, missing, run

WHY_NOT = missing("wireguard-go", "wg", "ip", "unshare")

ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.99.7.2", 7))
print("ready", flush=True)
while True:
    data, where = s.recvfrom(100)
    s.sendto(data, where)
"""
PING = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5)
for _ in range(int(sys.argv[1])):
    try:
        s.sendto(b"ping", ("10.99.7.2", 7))
        if s.recv(100) == b"ping":
            sys.exit(0)
    except OSError:
        pass
sys.exit(1)
"""


class Tunnel:
    """wireguard-go in two namespaces, joined by a cable; a UDP echo at bob's end of the tunnel."""

    def __init__(self) -> None:
        tag = f"{os.getpid() % 100000}"
        self.spaces = {end: f"qkd-{end[0]}{tag}" for end in ENDS}
        self.interfaces = {end: f"wg{end[0]}{tag}" for end in ENDS}
        self.private = {end: run("wg", "genkey") for end in ENDS}
        self.public = {end: run("wg", "pubkey", data=self.private[end]).strip() for end in ENDS}
        self.children: list[subprocess.Popen[str]] = []

    def up(self) -> None:
        for end in ENDS:
            run("ip", "netns", "add", self.spaces[end])
        cable = {end: f"v{self.interfaces[end]}" for end in ENDS}
        a, b = ENDS
        run(
            "ip",
            "-n",
            self.spaces[a],
            "link",
            "add",
            cable[a],
            "type",
            "veth",
            "peer",
            cable[b],
            "netns",
            self.spaces[b],
        )
        for number, end in enumerate(ENDS, start=1):
            space, interface, other = self.spaces[end], self.interfaces[end], ENDS[2 - number]
            run("ip", "-n", space, "addr", "add", f"192.0.2.{number}/24", "dev", cable[end])
            run("ip", "-n", space, "link", "set", cable[end], "up")
            command = ["ip", "netns", "exec", space, "wireguard-go", "--foreground", interface]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self.children.append(child)
            while not Path(self.socket(end)).exists():
                assert child.poll() is None, child.stderr.read() if child.stderr else ""
            words = ["set", interface, "listen-port", "51820", "private-key", "/dev/stdin", "peer", self.public[other]]
            words += ["allowed-ips", "10.99.7.0/24", "endpoint", f"192.0.2.{3 - number}:51820"]
            run("wg", *words, data=self.private[end])
            run("ip", "-n", space, "addr", "add", f"10.99.7.{number}/24", "dev", interface)
            run("ip", "-n", space, "link", "set", interface, "up")
        echo = ["ip", "netns", "exec", self.spaces["bob"], sys.executable, "-c", ECHO]
        self.children.append(subprocess.Popen(echo, stdout=subprocess.PIPE, text=True))
        assert self.children[-1].stdout is not None
        assert self.children[-1].stdout.readline() == "ready\n"

    def down(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            for stream in (child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
        for space in self.spaces.values():
            run("ip", "netns", "delete", space, check=False)
        for end in ENDS:
            Path(self.socket(end)).unlink(missing_ok=True)

    def socket(self, end: str) -> str:
        return f"/var/run/wireguard/{self.interfaces[end]}.sock"

    def ping(self, times: int = 20) -> bool:
        command = ["ip", "netns", "exec", self.spaces["alice"], sys.executable, "-c", PING, str(times)]
        return subprocess.run(command, check=False, timeout=120).returncode == 0

    def forget_session(self) -> None:
        """The next packet needs a handshake, under the keys of this moment."""
        for end in ENDS:
            for state in ("down", "up"):
                run("ip", "-n", self.spaces[end], "link", "set", self.interfaces[end], state)

    def psk(self, end: str) -> str:
        return run("wg", "show", self.interfaces[end], "preshared-keys").split()[1]

    def section(self, end: str) -> str:
        other = ENDS[1 - ENDS.index(end)]
        uapi = f'uapi = "{self.socket(end)}"\n' if end == "bob" else ""
        return f'[wireguard]\ninterface = "{self.interfaces[end]}"\npeer = "{self.public[other]}"\n{uapi}'


@pytest.fixture
def tunnel() -> Iterator[Tunnel]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    made = Tunnel()
    try:
        made.up()
        yield made
    finally:
        made.down()


async def passes(place: Bed, tunnel: Tunnel) -> None:
    async def look() -> bool:
        return await asyncio.to_thread(tunnel.ping)

    await place.until(look, "no packet comes through the tunnel")


@pytest.mark.slow
def test_tunnel_through_rotations_and_mishaps(tmp_path: Path, tunnel: Tunnel) -> None:
    async def main() -> None:
        async with bed(tmp_path, "wireguard") as place:
            for end in ENDS:
                settings = {"period": "2 s", "max_age": "8 s", "on_old_key": "tear-down", "heartbeat": "1 s"}
                place.write(end, tunnel.section(end), **settings)
                run(sys.executable, "-m", "qkdd.psk", "check-config", str(tmp_path / f"{end}.toml"))
            assert await asyncio.to_thread(tunnel.ping), "before the agents: no pre-shared key at either end"
            place.start("bob")
            place.start("alice")
            # agreed, and through at least two rotations
            seen = set()
            for _ in range(2):
                status = await place.until_status("bob", lambda code, s: code == 0 and s["key_id"] not in seen)
                seen.add(status["key_id"])
                await passes(place, tunnel)
                await asyncio.to_thread(tunnel.forget_session)
                await passes(place, tunnel)
            assert tunnel.psk("alice") != "(none)"
            # somebody sets another key by hand: without the agent nothing would pass any more
            run("wg", "set", tunnel.interfaces["alice"], "peer", tunnel.public["bob"], "preshared-key", "/dev/null")
            await asyncio.to_thread(tunnel.forget_session)
            await passes(place, tunnel)
            # one end dies at a moment of its own, comes back with its state, and goes on
            place.kill("bob")
            place.start("bob")
            await place.until_status("alice", lambda code, s: code == 0 and s["key_id"] not in seen)
            await asyncio.to_thread(tunnel.forget_session)
            await passes(place, tunnel)
            # no KMS: the key grows old, and then nothing passes, not even in the session that stands
            await place.stop_kms()
            for end in ENDS:
                await place.until_status(end, lambda code, s: code == 3 and s["torn_down"])
            assert not await asyncio.to_thread(tunnel.ping, 4)
            await place.start_kms()
            for end in ENDS:
                await place.until_status(end, lambda code, _: code == 0)
            await passes(place, tunnel)

    asyncio.run(main())
    for file in (*tmp_path.glob("*.log"), *tmp_path.glob("state-*/status.json")):
        assert tunnel.psk("alice") not in file.read_text()


@pytest.mark.slow
def test_one_rotation_by_command(tmp_path: Path, tunnel: Tunnel) -> None:
    async def main() -> None:
        async with bed(tmp_path, "wireguard") as place:
            for end in ENDS:
                place.write(end, tunnel.section(end))
            place.start("bob")
            command = [sys.executable, "-m", "qkdd.psk", "wireguard", "--once", str(tmp_path / "alice.toml")]
            for _ in range(2):
                before = tunnel.psk("alice")
                done = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
                assert await done.wait() == 0
                assert tunnel.psk("alice") == tunnel.psk("bob") != before
            await asyncio.to_thread(tunnel.forget_session)
            await passes(place, tunnel)
            await place.stop_kms()
            done = await asyncio.create_subprocess_exec(*command, "--wait", "2", stderr=asyncio.subprocess.DEVNULL)
            assert await done.wait() == 1
            assert tunnel.psk("alice") == tunnel.psk("bob")

    asyncio.run(main())


def test_what_the_interface_says(tunnel: Tunnel) -> None:
    """Both ways to an interface see and set the same; a block keeps endpoint and networks."""

    async def main() -> None:
        interface, peer = tunnel.interfaces["alice"], tunnel.public["bob"]
        key = AgreedKey("x", Secret(os.urandom(32)), None, 0.0)
        for uapi in (None, tunnel.socket("alice")):
            target = WireguardTarget(WireguardConfig(interface=interface, peer=peer, uapi=uapi), SystemClock())
            await target.prepare(key)
            assert not await target.holds(key)
            await target.use(key, None)
            assert await target.holds(key)
            before = run("wg", "show", interface, "allowed-ips") + run("wg", "show", interface, "endpoints")
            await target.block()
            assert await target.blocked()
            assert not await target.holds(key)
            assert run("wg", "show", interface, "allowed-ips") + run("wg", "show", interface, "endpoints") == before
            stranger = WireguardConfig(interface=interface, peer=tunnel.public["alice"], uapi=uapi)
            with pytest.raises(TargetFailed, match="no peer"):
                await WireguardTarget(stranger, SystemClock()).prepare(key)
            gone = WireguardConfig(interface="wgnone", peer=peer, uapi=None if uapi is None else "/nowhere.sock")
            with pytest.raises(TargetFailed):
                await WireguardTarget(gone, SystemClock()).prepare(key)

    asyncio.run(main())
