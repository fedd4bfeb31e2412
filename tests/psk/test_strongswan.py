"""`qkd-psk strongswan` with two real charons (charon-systemd) in network namespaces: PPKs over vici, RFC 8784.

ESP is done in user space (kernel-libipsec over a TUN device), so the kernel's own IPsec does not matter. Needs root,
charon-systemd, libcharon-extra-plugins, iproute2.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qkdd.core.clock import SystemClock
from qkdd.psk.errors import TargetFailed
from qkdd.psk.vici import Vici
from qkdd.testing.patience import PATIENCE_S

from .real import ENDS, bed, missing, run

WHY_NOT = missing("charon-systemd", "ip", "unshare")

CONF = """
charon-systemd {{
  load_modular = no
  load = random nonce openssl pem pkcs1 pubkey hmac kdf sha2 aes curve25519 gcm kernel-libipsec kernel-netlink socket-default vici
  plugins {{ vici {{ socket = unix://{folder}/{end}.vici }} }}
  filelog {{ log {{ path = {folder}/{end}.charon
    flush_line = yes
    default = 1
    ike = 2 }} }}
  journal {{ default = -1 }}
  install_routes = no
}}
"""


class Ipsec:
    """Two charons joined by a cable."""

    def __init__(self, folder: Path) -> None:
        tag = f"{os.getpid() % 100000}"
        self.folder = folder
        self.spaces = {end: f"qks{end[0]}{tag}" for end in ENDS}
        self.cables = {end: f"ck{end[0]}{tag}" for end in ENDS}
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        for end in ENDS:
            run("ip", "netns", "add", self.spaces[end])
        a, b = ENDS
        words = ["link", "add", self.cables[a], "type", "veth", "peer", self.cables[b], "netns", self.spaces[b]]
        run("ip", "-n", self.spaces[a], *words)
        for number, end in enumerate(ENDS, start=1):
            run("ip", "-n", self.spaces[end], "addr", "add", f"192.0.2.{number}/24", "dev", self.cables[end])
            run("ip", "-n", self.spaces[end], "link", "set", self.cables[end], "up")
            run("ip", "-n", self.spaces[end], "addr", "add", f"10.98.{number}.1/24", "dev", "lo")
            run("ip", "-n", self.spaces[end], "link", "set", "lo", "up")
            (self.folder / f"{end}.conf").write_text(CONF.format(folder=self.folder, end=end))
            self.start(end)

    def start(self, end: str) -> None:
        environment = {**os.environ, "STRONGSWAN_CONF": str(self.folder / f"{end}.conf")}
        Path(self.socket(end)).unlink(missing_ok=True)
        command = ["ip", "netns", "exec", self.spaces[end], "charon-systemd"]
        with (self.folder / f"{end}.out").open("ab") as out:
            self.children[end] = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        limit = time.monotonic() + PATIENCE_S
        while not Path(self.socket(end)).exists():
            assert self.children[end].poll() is None, (self.folder / f"{end}.out").read_text()
            assert time.monotonic() < limit, self.log(end)
            time.sleep(0.05)
        asyncio.run(self.credentials(end))

    async def credentials(self, end: str) -> None:
        """What swanctl would load: the classical secret, and at the answering end the connection."""
        vici = Vici(self.socket(end), SystemClock())
        secret = {"id": "psk", "type": "ike", "data": "a classical secret", "owners": list(ENDS)}
        await vici.order("load-shared", secret)

    def kill(self, end: str) -> None:
        self.children[end].kill()
        self.children[end].wait()

    def down(self) -> None:
        for child in self.children.values():
            child.kill()
            child.wait()
        for space in self.spaces.values():
            run("ip", "netns", "delete", space, check=False)

    def socket(self, end: str) -> str:
        return str(self.folder / f"{end}.vici")

    def log(self, end: str) -> str:
        return (self.folder / f"{end}.charon").read_text() if (self.folder / f"{end}.charon").exists() else ""

    def section(self, end: str) -> str:
        other = ENDS[1 - ENDS.index(end)]
        number = {"alice": 1, "bob": 2}
        renew = "renew = true\n" if end == "alice" else ""
        return (
            f'[strongswan]\nsocket = "{self.socket(end)}"\nname = "site"\n{renew}'
            f"[strongswan.connection]\nversion = 2\n"
            f'local_addrs = ["192.0.2.{number[end]}"]\nremote_addrs = ["192.0.2.{number[other]}"]\n'
            'proposals = ["aes256-sha256-x25519"]\nencap = "yes"\n'
            f'local-1 = {{ auth = "psk", id = "{end}" }}\nremote-1 = {{ auth = "psk", id = "{other}" }}\n'
            f'[strongswan.connection.children.net]\nlocal_ts = ["10.98.{number[end]}.0/24"]\n'
            f'remote_ts = ["10.98.{number[other]}.0/24"]\nesp_proposals = ["aes256gcm16-x25519"]\n'
        )


@pytest.fixture
def ipsec(tmp_path: Path) -> Iterator[Ipsec]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    made = Ipsec(tmp_path)
    try:
        made.up()
        yield made
    finally:
        made.down()


async def associations(ipsec: Ipsec, end: str) -> list[dict[str, Any]]:
    events = await Vici(ipsec.socket(end), SystemClock()).stream("list-sas", {"ike": "site"}, "list-sa")
    return [sa for event in events for sa in event.values()]


@pytest.mark.slow
def test_ppk_between_two_charons(tmp_path: Path, ipsec: Ipsec) -> None:
    async def main() -> None:
        async with bed(tmp_path, "strongswan") as place:
            for end in ENDS:
                place.write(
                    end, ipsec.section(end), period="3 s", max_age="8 s", on_old_key="tear-down", heartbeat="1 s"
                )
                place.start(end)
            status = await place.until_status("bob", lambda code, _: code == 0)
            alice = Vici(ipsec.socket("alice"), SystemClock())
            await alice.order("initiate", {"child": "net", "ike": "site", "timeout": 10000}, 12.0)
            [first] = await associations(ipsec, "alice")
            assert (first["state"], first["ppk"]) == ("ESTABLISHED", "yes")
            # rotated: a new IKE_SA under the new key, the old one ended, at most two keys left in charon
            key = status["key_id"]

            async def renewed() -> bool:
                found = await associations(ipsec, "alice")
                numbers = {sa["uniqueid"] for sa in found if sa.get("ppk") == "yes"}
                return bool(numbers) and first["uniqueid"] not in numbers

            await place.until(renewed, ipsec.log("alice"))
            for end in ENDS:
                keys = (await Vici(ipsec.socket(end), SystemClock()).ask("get-shared", {}))["keys"]
                assert 1 <= len([name for name in keys if name.startswith("qkd-psk/site/")]) <= 3
            # charon dies and knows nothing any more: key and connection come back
            await asyncio.to_thread(ipsec.kill, "bob")
            await asyncio.to_thread(ipsec.start, "bob")
            await place.until_status("alice", lambda code, s: code == 0 and s["key_id"] != key)

            async def again() -> bool:
                if not await associations(ipsec, "alice"):
                    await alice.ask("initiate", {"child": "net", "ike": "site", "timeout": 5000}, 7.0)
                return any(sa.get("ppk") == "yes" for sa in await associations(ipsec, "bob"))

            await place.until(again, ipsec.log("bob"))
            # no KMS: the key grows old, the association ends and no other can be made
            await place.stop_kms()
            for end in ENDS:
                await place.until_status(end, lambda code, _: code == 3)
            with pytest.raises(TargetFailed):
                await alice.order("initiate", {"child": "net", "ike": "site", "timeout": 4000}, 6.0)
            assert not [sa for sa in await associations(ipsec, "alice") if sa["state"] == "ESTABLISHED"]

    asyncio.run(main())
    assert "using PPK" in ipsec.log("alice")


@pytest.mark.slow
def test_without_the_right_ppk_there_is_no_association(ipsec: Ipsec) -> None:
    """The negative control: other bytes under the same ID, and no key at all."""

    async def main() -> None:
        other = {"alice": "bob", "bob": "alice"}
        for end in ENDS:
            vici = Vici(ipsec.socket(end), SystemClock())
            connection = {
                "version": "2",
                "local_addrs": [f"192.0.2.{1 + ENDS.index(end)}"],
                "remote_addrs": [f"192.0.2.{2 - ENDS.index(end)}"],
                "proposals": ["aes256-sha256-x25519"],
                "encap": True,
                "ppk_id": "one",
                "ppk_required": True,
                "local-1": {"auth": "psk", "id": end},
                "remote-1": {"auth": "psk", "id": other[end]},
                "children": {
                    "net": {
                        "local_ts": [f"10.98.{1 + ENDS.index(end)}.0/24"],
                        "remote_ts": [f"10.98.{2 - ENDS.index(end)}.0/24"],
                        "esp_proposals": ["aes256gcm16-x25519"],
                    }
                },
            }
            await vici.order("load-conn", {"site": connection})
            ppk = {"id": "ppk", "type": "ppk", "data": b"\1" * 32, "owners": ["one"]}
            if end == "bob":
                ppk["data"] = b"\2" * 32
            await vici.order("load-shared", ppk)
        alice = Vici(ipsec.socket("alice"), SystemClock())
        with pytest.raises(TargetFailed):
            await alice.order("initiate", {"child": "net", "ike": "site", "timeout": 5000}, 7.0)
        await Vici(ipsec.socket("bob"), SystemClock()).order(
            "load-shared", {"id": "ppk", "type": "ppk", "data": b"\1" * 32, "owners": ["one"]}
        )
        await alice.order("initiate", {"child": "net", "ike": "site", "timeout": 8000}, 10.0)
        assert json.dumps(await associations(ipsec, "alice")).count('"ppk": "yes"') == 1

    asyncio.run(main())
