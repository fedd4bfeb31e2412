"""Two key services joined in memory, with a line that loses calls before or after the other side heard them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from qkdd.core import units
from qkdd.core.audit import AuditLog
from qkdd.core.counters import RecordingMeter
from qkdd.core.database import Database, Place
from qkdd.core.secret import Secret
from qkdd.core.sqlite_file import SqliteFile
from qkdd.kms.config import KmsConfig
from qkdd.kms.errors import PeerKmsDown
from qkdd.kms.schema import kms_store
from qkdd.kms.service import KeyService
from qkdd.testing.clock import FakeClock

SITES = ("alice", "bob")


def service_config(site: str, root: Path, **limits: Any) -> KmsConfig:
    other = SITES[1 - SITES.index(site)]
    listener = {"listen": "127.0.0.1:0", "certificate": "", "key": "", "trust": "", "crl": ""}
    tree = {
        "kms": {"id": f"kms-{site}", "state_directory": str(root), "master_key": ""},
        "node_plane": {**listener, "nodes": [site]},
        "kms_plane": listener,
        "peers": {f"kms-{other}": {"url": "https://localhost", "links": ["a-b"]}},
        "sae": {"post-quantum": listener},
        "saes": {f"sae-{site}": {}},
        "pairs": [{"master": f"sae-{site}", "slave": f"sae-{other}", "peer": f"kms-{other}"}],
        "limits": limits,
    }
    return msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook)


class Line:
    """Stands for PeerKms. `script` says for each call: "ok", "before" (lost on the way), "after" (the answer is lost)."""

    def __init__(self, world: World, site: str) -> None:
        self._world, self._site = world, site
        self.up = True
        self.script: list[str] = []
        self.sent: list[Any] = []
        self.change: Callable[[str, bytes], bytes] = lambda _name, data: data  # what a man in the middle does

    async def call(self, name: str, message: Any, answer: Any) -> Any:
        step = self.script.pop(0) if self.script else "ok"
        self.sent.append(message)
        if step == "before" or not self.up:
            raise PeerKmsDown("lost on the way (test)")
        other = self._world.services[SITES[1 - SITES.index(self._site)]]
        serve = {
            "chunks": other.on_holds,
            "allocations": other.on_announce,
            "ownership": other.on_borrow,
            "void": other.on_void,
            "rest": other.on_rest,
            "exchange": other.on_exchange,
            "revoke": other.on_revoke,
            **self._world.answers[SITES[1 - SITES.index(self._site)]],
        }[name]
        heard = msgspec.json.decode(self.change(name, msgspec.json.encode(message)), type=type(message))
        reply = await serve(f"kms-{self._site}", heard)  # type: ignore[operator]
        if step == "after":
            raise PeerKmsDown("the answer was lost (test)")
        return reply

    async def close(self) -> None:
        """Nothing is open."""


class World:
    """`services["alice"]`, `lines["alice"]` (from alice to bob), `chunks` as they were fed."""

    def __init__(self, root: Path, **limits: Any) -> None:
        self.root, self.limits = root, limits
        self.clock = FakeClock()
        self.services: dict[str, KeyService] = {}
        self.databases: dict[str, Database] = {}
        self.lines = {site: Line(self, site) for site in SITES}
        self.meters = {site: RecordingMeter() for site in SITES}
        self.audits: dict[str, AuditLog] = {}
        self.chunks: dict[str, bytes] = {}
        self.answers: dict[str, dict[str, Any]] = {site: {} for site in SITES}  # further calls, by name

    def store(self, site: str) -> Path:
        return self.root / site / "kms.db"

    def place(self, site: str) -> Place:
        return SqliteFile(self.store(site))

    async def start(self, site: str, config: KmsConfig | None = None) -> KeyService:
        self.databases[site] = database = kms_store(self.place(site))
        self.audits[site] = AuditLog(self.root / site / "audit.log", self.clock)
        other = SITES[1 - SITES.index(site)]
        self.services[site] = service = KeyService(
            config or service_config(site, self.root, **self.limits),
            database,
            Secret(bytes(32)),
            {f"kms-{other}": self.lines[site]},  # type: ignore[dict-item]
            clock=self.clock,
            meter=self.meters[site],
            audit=self.audits[site],
        )
        await service.open()
        return service

    async def stop(self, site: str) -> None:
        await self.services[site].close()
        self.audits[site].close()

    async def restart(self, site: str) -> None:
        await self.stop(site)
        await self.start(site)

    async def feed(self, index: int, size: int = 320, sites: tuple[str, ...] = SITES) -> str:
        chunk_id = str(uuid.UUID(bytes=hashlib.sha256(b"id%d" % index).digest()[:16]))
        text = b"".join(hashlib.sha256(f"{index}/{i}".encode()).digest() for i in range(size // 32 + 1))[:size]
        self.chunks[chunk_id] = text
        for site in sites:
            await self.services[site].ingest(site, chunk_id, "a-b", index, Secret(text), {})
        return chunk_id

    async def sync(self) -> None:
        for service in self.services.values():
            await service.sync_once()

    async def draw(self, site: str, amount: int = 1, key_bytes: int = 32) -> dict[str, bytes]:
        other = SITES[1 - SITES.index(site)]
        keys = await self.services[site].draw(f"sae-{site}", (f"sae-{other}",), amount, key_bytes)
        return {k.key_id: k.key for k in keys}

    async def fetch(self, site: str, ids: list[str]) -> dict[str, bytes]:
        """As the application at `site`, keys of the other side's application."""
        other = SITES[1 - SITES.index(site)]
        return {k.key_id: k.key for k in await self.services[site].fetch(f"sae-{site}", f"sae-{other}", ids)}

    async def pools(self) -> dict[str, dict[str, int]]:
        """Site → owner → bytes."""
        return {
            site: await service.pool(f"kms-{SITES[1 - SITES.index(site)]}") for site, service in self.services.items()
        }

    async def agree(self) -> int:
        """Both sites count the same bytes for each owner; returns their sum."""
        pools = await self.pools()
        for owner in ("kms-alice", "kms-bob"):
            assert pools["alice"].get(owner, 0) == pools["bob"].get(owner, 0), pools
        return sum(pools["alice"].values())


@asynccontextmanager
async def world(root: Path, **limits: Any) -> AsyncIterator[World]:
    made = World(root, **limits)
    try:
        for site in SITES:
            await made.start(site)
        yield made
    finally:
        for site in made.services:
            await made.stop(site)
