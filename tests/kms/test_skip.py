"""SKIP (draft-cisco-skip-02) over real TLS: the same key at both ends, hex, once; everything else is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from qkdd.kms.config import SaeListener
from qkdd.peer.pki_demo import DemoPki

from .sites import SITES, Sites


class SkipSites(Sites):
    interfaces = ("skip",)

    async def start(self, site: str) -> Any:
        from msgspec.structs import replace

        from qkdd.kms.server import KmsServer

        from .sites import kms_config

        config = kms_config(self.pki, site, self.root / site, self.ports, **self.limits)
        sae = {name: replace(listener, interfaces=self.interfaces) for name, listener in config.sae.items()}
        self.servers[site] = server = KmsServer(replace(config, sae=sae))
        await server.start()
        return server

    async def get(
        self, site: str, path: str, *, suite: str = "post-quantum", as_: str | None = None
    ) -> tuple[int, Any]:
        host, port = self.servers[site].addresses[f"sae.{suite}"]
        async with self.client(as_ or f"sae-{site}", suite).get(f"https://{host}:{port}{path}") as response:
            assert response.headers["Cache-Control"] == "no-store"
            return response.status, json.loads(await response.read())


def play(pki: DemoPki, root: Path, scenario: Any) -> None:
    async def main() -> None:
        sites = SkipSites(pki, root)
        try:
            for site in SITES:
                await sites.start(site)
            await sites.feed(0)
            await sites.feed(1)
            await scenario(sites)
        finally:
            await sites.close()

    asyncio.run(main())


@pytest.mark.parametrize("suite", ["post-quantum", "classical"])
def test_both_ends_get_the_same_key_once(pki: DemoPki, tmp_path: Path, suite: str) -> None:
    async def scenario(sites: SkipSites) -> None:
        status, capabilities = await sites.get("alice", "/capabilities", suite=suite)
        assert status == 200
        assert capabilities == {
            "entropy": True,
            "key": True,
            "algorithm": "QKD",
            "localSystemID": "sae-alice",
            "remoteSystemID": ["sae-alice", "sae-bob"],
        }
        for size in (None, 128, 512):
            query = "" if size is None else f"&size={size}"
            status, key = await sites.get("alice", f"/key?remoteSystemID=sae-bob{query}", suite=suite)
            assert status == 200
            assert len(key["key"]) == (size or 256) // 4
            assert len(key["keyId"]) == 32
            path = f"/key/{key['keyId'].upper()}?remoteSystemID=sae-alice{query}"
            assert await sites.get("bob", path, suite=suite) == (200, key)
            assert (await sites.get("bob", path, suite=suite))[0] == 404
        service = sites.servers["bob"].meter.text().decode()
        assert 'qkdd_kms_interface_keys_total{interface="skip"} 3.0' in service

    play(pki, tmp_path, scenario)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/key", 400),
        ("/key?remoteSystemID=", 400),
        ("/key?remoteSystemID=nobody", 400),
        ("/key?remoteSystemID=sae-bob&remoteSystemID=sae-bob", 400),
        ("/key?remoteSystemID=sae-bob&size=257", 400),
        ("/key?remoteSystemID=sae-bob&size=-8", 400),
        ("/key?remoteSystemID=sae-bob&size=8", 400),
        ("/key?remoteSystemID=sae-bob&size=999999999999", 400),
        ("/key/xyz?remoteSystemID=sae-bob", 400),
        ("/key/0b5a7f0e-6a43-4a5f-9d8e-2f1c7b9d0a11?remoteSystemID=sae-bob", 400),
        ("/key/00000000000080008000000000000000?remoteSystemID=sae-bob", 404),
        ("/key/00000000000080008000000000000000?remoteSystemID=nobody", 404),
        ("/key/00000000000040008000000000000000?remoteSystemID=sae-bob", 404),
        ("/entropy?minentropy=0", 400),
        ("/entropy?minentropy=x", 400),
        ("/entropy?minentropy=4097", 400),
        ("/api/v1/keys/sae-bob/status", 404),  # this listener speaks SKIP alone
    ],
)
def test_what_is_refused(pki: DemoPki, tmp_path: Path, path: str, status: int) -> None:
    async def scenario(sites: SkipSites) -> None:
        got, answer = await sites.get("alice", path)
        assert got == status, answer
        assert answer["message"]
        service = sites.servers["alice"].service
        assert service is not None
        assert sum((await service.pool("kms-bob")).values()) == 2000  # nothing was drawn

    play(pki, tmp_path, scenario)


def test_a_key_of_others_and_entropy(pki: DemoPki, tmp_path: Path) -> None:
    async def scenario(sites: SkipSites) -> None:
        _, key = await sites.get("alice", "/key?remoteSystemID=sae-bob")
        status, answer = await sites.get("alice", f"/key/{key['keyId']}?remoteSystemID=sae-bob")  # not its slave
        assert (status, "key" in answer) == (404, False)
        seen = set()
        for bits, digits in ((None, 64), (1, 2), (256, 64), (4096, 1024)):
            status, answer = await sites.get("alice", "/entropy" + ("" if bits is None else f"?minentropy={bits}"))
            assert (status, answer["minentropy"], len(answer["randomStr"])) == (200, bits or 256, digits)
            seen.add(answer["randomStr"])
        assert len(seen) == 4
        assert (await sites.get("alice", "/capabilities", as_="kms-bob"))[0] == 401
        await sites.stop("bob")
        assert (await sites.get("alice", "/key?remoteSystemID=sae-bob"))[0] == 503

    play(pki, tmp_path, scenario)


def test_the_setting_is_checked() -> None:
    listener = SaeListener(listen="127.0.0.1:0", certificate="", key="", trust="", interfaces=("smtp",))
    assert [key for key, _, _ in listener.check()] == ["interfaces"]
    assert [
        key for key, _, _ in SaeListener(listen="127.0.0.1:0", certificate="", key="", trust="", interfaces=()).check()
    ]
