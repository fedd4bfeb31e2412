"""Two KMSs in one process on loopback with real TLS, and clients with real certificates."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from qkdd.core import units
from qkdd.core.ports import free_port
from qkdd.kms.config import KmsConfig
from qkdd.kms.server import KmsServer
from qkdd.peer.pki_demo import CredentialPaths, DemoPki
from qkdd.peer.tls import TlsProfile, client_context

SITES = ("alice", "bob")


def _listener(paths: CredentialPaths, listen: str) -> dict[str, Any]:
    return {
        "listen": listen,
        "certificate": str(paths.certificate),
        "key": str(paths.key),
        "trust": str(paths.trust),
        "crl": str(paths.crl),
    }


def kms_tree(pki: DemoPki, site: str, state: Path, ports: dict[str, int], **limits: Any) -> dict[str, Any]:
    other = SITES[1 - SITES.index(site)]
    own = f"kms-{site}"
    return {
        "kms": {"id": own, "state_directory": str(state), "master_key": str(pki.master_keys[own])},
        "node_plane": {**_listener(pki.post_quantum[own], "127.0.0.1:0"), "nodes": [site]},
        "kms_plane": _listener(pki.post_quantum[own], f"127.0.0.1:{ports[site]}"),
        "peers": {f"kms-{other}": {"url": f"https://127.0.0.1:{ports[other]}", "links": ["a-b"]}},
        "sae": {
            "post-quantum": _listener(pki.post_quantum[own], "127.0.0.1:0"),
            "classical": _listener(pki.classical[own], "127.0.0.1:0"),
        },
        "saes": {f"sae-{site}": {}},
        "pairs": [
            {"master": f"sae-{site}", "slave": f"sae-{other}", "peer": f"kms-{other}"},
            {"master": f"sae-{site}", "slave": f"sae-{site}", "peer": f"kms-{other}"},
        ],
        "limits": limits,
    }


def kms_config(pki: DemoPki, site: str, state: Path, ports: dict[str, int], **limits: Any) -> KmsConfig:
    return msgspec.convert(kms_tree(pki, site, state, ports, **limits), KmsConfig, dec_hook=units.dec_hook)


def _profile(paths: CredentialPaths, suite: str = "post-quantum") -> TlsProfile:
    return TlsProfile(
        certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl, suite=suite, name="test"
    )


class Sites:
    """`servers["alice"]`, and calls as an SAE or as a node."""

    def __init__(self, pki: DemoPki, root: Path, **limits: Any) -> None:
        self.pki, self.root, self.limits = pki, root, limits
        self.ports = {site: free_port() for site in SITES}
        self.servers: dict[str, KmsServer] = {}
        self.chunks: dict[str, bytes] = {}
        self._clients: dict[tuple[str, str], aiohttp.ClientSession] = {}

    async def start(self, site: str) -> KmsServer:
        config = kms_config(self.pki, site, self.root / site, self.ports, **self.limits)
        self.servers[site] = server = KmsServer(config)
        await server.start()
        return server

    async def stop(self, site: str) -> None:
        await self.servers[site].stop()

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        for server in self.servers.values():
            await server.stop()

    def client(self, name: str, suite: str = "post-quantum") -> aiohttp.ClientSession:
        if (name, suite) not in self._clients:
            paths = (self.pki.post_quantum if suite == "post-quantum" else self.pki.classical)[name]
            context = client_context(_profile(paths, suite))
            connector = aiohttp.TCPConnector(ssl=context, limit=16)
            self._clients[name, suite] = aiohttp.ClientSession(connector=connector)
        return self._clients[name, suite]

    async def push(self, site: str, chunk_id: str, index: int, material: bytes, **changes: Any) -> tuple[int, Any]:
        body = {
            "keys": [
                {
                    "key_id": chunk_id,
                    "value": base64.b64encode(material).decode(),
                    "extension": {"E0_qkdd_chunk": {"link": "a-b", "index": index, "class": "its"}},
                }
            ],
            "initiator_sae_id": site,
            "target_sae_ids": ["other"],
            "extension_mandatory": {"E0_qkdd_chunk": {}},
            **changes,
        }
        host, port = self.servers[site].addresses["node_plane"]
        data = io.BytesIO(json.dumps(body).encode())
        async with self.client(site).post(f"https://{host}:{port}/kmapi/v1/ext_keys", data=data) as response:
            return response.status, await response.json(content_type=None)

    async def feed(self, index: int, size: int = 1000, sites: tuple[str, ...] = SITES) -> str:
        """The same chunk into both KMSs, and both know that the other has it."""
        chunk_id = str(uuid.uuid4())
        material = b"".join(hashlib.sha256(f"{chunk_id}{i}".encode()).digest() for i in range(size // 32 + 1))[:size]
        self.chunks[chunk_id] = material
        for site in sites:
            status, answer = await self.push(site, chunk_id, index, material)
            assert (status, answer[0]["ack_status"]) == (200, "relayed")
        if sites == SITES:
            for site in sites:
                await self.servers[site].service.sync_once()  # type: ignore[union-attr]
        return chunk_id

    async def sae(
        self,
        site: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        suite: str = "post-quantum",
        as_: str | None = None,
    ) -> tuple[int, Any, Any]:
        """A request of the site's SAE to its own KMS; body: JSON value, or bytes as they are."""
        host, port = self.servers[site].addresses[f"sae.{suite}"]
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = f"https://{host}:{port}/api/v1/keys/{path}"
        async with self.client(as_ or f"sae-{site}", suite).request(method, url, data=data) as response:
            text = await response.read()
            return response.status, json.loads(text), response.headers


@asynccontextmanager
async def two_sites(pki: DemoPki, root: Path, **limits: Any) -> AsyncIterator[Sites]:
    sites = Sites(pki, root, **limits)
    try:
        for site in SITES:
            await sites.start(site)
        yield sites
    finally:
        await sites.close()


Scenario = Callable[[Sites], Awaitable[None]]
