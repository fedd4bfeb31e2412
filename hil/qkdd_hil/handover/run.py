"""Blocks go through a node's spool (a file, every step synced) and the real hand-over.

For each place two runs: blocks one behind the other give the place's own rate; blocks at even distances at half of that rate
give the latency. For the KMS the clock stops when an application at the KMS of this site has been given the block's keys, over
TLS (ETSI GS QKD 014), after both sites have the block; for every other place when all keys of the block are stored there.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from qkdd.core import units
from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.ports import free_port
from qkdd.core.sealing import create_master_key, load_master_key
from qkdd.core.secret import Secret
from qkdd.keys import HandOver, KeysConfig, MaskPool, Spool, node_store, tls_profile
from qkdd.kms.config import KmsConfig
from qkdd.kms.server import KmsServer
from qkdd.peer.pki_demo import CredentialPaths, DemoPki
from qkdd.peer.tls import TlsProfile, client_context

SITES = ("alice", "bob")
KEY_BYTES = 32
_POLL = 0.005  # s between two requests for keys that are not there yet
_LEAST = 4  # blocks for a rate
_SHARE = 0.25  # s that a block may take at the place's own rate
_AT_ONCE = 8  # blocks under way while the rate of the KMS is measured


class Row(msgspec.Struct, frozen=True):
    """Rates in keys a second, latencies in seconds. keys: in a block of the second run. `missing`: why there is no figure."""

    place: str
    missing: str = ""
    keys: int = 0
    rate: float = 0.0
    offered: float = 0.0
    blocks: int = 0
    p50: float = 0.0
    p99: float = 0.0
    worst: float = 0.0


class Node:
    """One site's spool and hand-over."""

    def __init__(self, site: str, config: KeysConfig, folder: Path) -> None:
        self._clock = SystemClock()
        create_master_key(folder / f"{site}.key")
        master = load_master_key(folder / f"{site}.key")
        self._store, self.meter = node_store(folder / f"{site}.db"), RecordingMeter()
        self._spool, self._masks = Spool(self._store, master, self._clock, self.meter), MaskPool(self._store, master)
        context: ssl.SSLContext | None = client_context(tls_profile(config)) if config.kms_url else None
        other = SITES[1 - SITES.index(site)]
        self._hand_over = HandOver(
            config,
            self._spool,
            node_id=site,
            peer_id=other,
            link="a-b",
            context=context,
            clock=self._clock,
            meter=self.meter,
        )
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> Node:
        await self._store.open()
        self._task = asyncio.create_task(self._hand_over.run(lambda n: min(1.0, 0.05 * 2**n)))
        return self

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._store.close()

    async def accept(self, number: int, block_id: bytes, block: bytes) -> None:
        """One block, from its key to `sealed`; the hand-over hears of it."""
        about: dict[str, str | float | int | None] = {"eps": 1e-12, "proof": "synthetic", "auth": "none"}
        await self._spool.prepare(
            sequence=number, block_id=block_id, number=number, key=Secret(block), first=False, masks=0, details=about
        )
        await self._spool.accept(block_id, self._masks.fill)
        self._hand_over.notify()

    async def handed_over(self, blocks: int) -> None:
        """Until so many blocks have gone in all. Raises what the hand-over failed with."""
        while self.meter.total("qkdd_keys_handed_over_total") < blocks:
            if self._task is not None and self._task.done():
                self._task.result()
            failures = {key[1] for key, count in self.meter.counters.items() if "failures" in key[0] and count > 3}
            if failures:
                raise RuntimeError(f"the hand-over fails: {failures}")
            await asyncio.sleep(_POLL)


async def measure_sink(name: str, config: KeysConfig, folder: Path, keys: int, seconds: float) -> Row:
    """A place that is no KMS. The latency is what the node itself counts (`qkdd_key_hand_over_seconds`)."""
    clock, node = SystemClock(), await Node("alice", config, folder).open()
    try:
        number = 0

        async def block() -> None:
            nonlocal number
            number += 1
            await node.accept(number, number.to_bytes(16, "big"), _material(keys))

        await block()  # connections and processes are made with the first one
        await node.handed_over(1)
        begun = clock.monotonic()
        while clock.monotonic() < begun + seconds or number < 1 + _LEAST:
            await block()
            await node.handed_over(number)
        rate = (number - 1) * keys / (clock.monotonic() - begun)
        # a link that makes so few keys has blocks of as few: one every half second at least
        keys = max(1, min(keys, int(rate * _SHARE)))
        done, pause = number, keys / (rate / 2)
        begun = clock.monotonic()
        count = max(_LEAST, round(2 * seconds / pause))
        for index in range(count):
            await asyncio.sleep(max(0.0, begun + index * pause - clock.monotonic()))
            await block()
        await node.handed_over(number)
    finally:
        await node.close()
    latencies = node.meter.observations["qkdd_key_hand_over_seconds", ()][done:]
    return row(name, keys, rate, latencies)


async def measure_kms(folder: Path, pki: DemoPki, keys: int, seconds: float) -> Row:
    """Two KMSs and two nodes in this process; applications draw over TLS what was made."""
    clock = SystemClock()
    ports = {site: free_port() for site in SITES}
    servers = {site: KmsServer(_kms_config(pki, site, ports, folder)) for site in SITES}
    clients: dict[str, aiohttp.ClientSession] = {}
    nodes: dict[str, Node] = {}
    latencies: list[float] = []
    number = 0
    try:
        for server in servers.values():
            await server.start()
        for site in SITES:
            host, port = servers[site].addresses["node_plane"]
            paths = _files(pki.post_quantum[site])
            tree = {"kms_url": f"https://{host}:{port}", "kms_id": f"kms-{site}", **paths}
            config = msgspec.convert(tree, KeysConfig, dec_hook=units.dec_hook)
            nodes[site] = await Node(site, config, folder).open()
            own = pki.post_quantum[f"sae-{site}"]
            profile = TlsProfile(
                certificate=own.certificate, key=own.key, trust=own.trust, crl=own.crl, identity=f"kms-{site}"
            )
            context = client_context(profile)
            connector = aiohttp.TCPConnector(ssl=context, limit=4)
            clients[site] = aiohttp.ClientSession(connector=connector)

        async def accept() -> int:
            """At both nodes, as after a commit."""
            nonlocal number
            number += 1
            material = _material(keys)
            for site in SITES:
                await nodes[site].accept(number, number.to_bytes(16, "big"), material)
            return number

        async def draw(block: int, accepted: float) -> None:
            site = SITES[block % 2]  # who owns a chunk by its index draws from it
            host, port = servers[site].addresses["sae.post-quantum"]
            url = f"https://{host}:{port}/api/v1/keys/sae-{SITES[1 - SITES.index(site)]}/enc_keys"
            # asked for before both sites have it, a KMS would borrow another block from the other one
            await asyncio.gather(*(node.handed_over(block) for node in nodes.values()))
            while True:
                async with clients[site].post(url, json={"number": keys, "size": 8 * KEY_BYTES}) as answer:
                    body: Any = await answer.json()
                    if answer.status == 200:
                        got = [base64.b64decode(key["key"]) for key in body["keys"]]
                        if len(got) != keys:
                            raise RuntimeError(f"{len(got)} keys of {keys} came")
                        latencies.append(clock.monotonic() - accepted)
                        return
                    if answer.status != 503:
                        raise RuntimeError(f"the KMS answers {answer.status}: {body}")
                await asyncio.sleep(_POLL)

        await draw(await accept(), clock.monotonic())
        begun, first = clock.monotonic(), number
        async with asyncio.TaskGroup() as group:
            room = asyncio.Semaphore(_AT_ONCE)

            async def in_turn(block: int) -> None:
                await draw(block, clock.monotonic())
                room.release()

            while clock.monotonic() < begun + seconds or number < first + _LEAST:
                await room.acquire()
                group.create_task(in_turn(await accept()))
        rate = (number - first) * keys / (clock.monotonic() - begun)
        latencies.clear()
        begun, pause = clock.monotonic(), keys / (rate / 2)
        async with asyncio.TaskGroup() as group:
            for index in range(max(_LEAST, round(2 * seconds / pause))):
                await asyncio.sleep(max(0.0, begun + index * pause - clock.monotonic()))
                block = await accept()
                group.create_task(draw(block, clock.monotonic()))
    finally:
        for client in clients.values():
            await client.close()
        for node in nodes.values():
            await node.close()
        for server in servers.values():
            await server.stop()
    return row("kms", keys, rate, latencies)


def row(name: str, keys: int, rate: float, latencies: list[float]) -> Row:
    """Nearest-rank percentiles."""
    ordered = sorted(latencies)

    def rank(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Row(
        place=name,
        keys=keys,
        rate=round(rate, 1),
        offered=round(rate / 2, 1),
        blocks=len(ordered),
        p50=round(rank(0.5), 4),
        p99=round(rank(0.99), 4),
        worst=round(ordered[-1], 4),
    )


def _material(keys: int) -> bytes:
    return ssl.RAND_bytes(keys * KEY_BYTES)


def _files(paths: CredentialPaths) -> dict[str, str]:
    return {name: str(getattr(paths, name)) for name in ("certificate", "key", "trust", "crl")}


def _kms_config(pki: DemoPki, site: str, ports: dict[str, int], folder: Path) -> KmsConfig:
    other, own = SITES[1 - SITES.index(site)], f"kms-{site}"
    files = _files(pki.post_quantum[own])
    tree = {
        "kms": {"id": own, "state_directory": str(folder / own), "master_key": str(pki.master_keys[own])},
        "node_plane": {"listen": "127.0.0.1:0", "nodes": [site], **files},
        "kms_plane": {"listen": f"127.0.0.1:{ports[site]}", **files},
        "peers": {f"kms-{other}": {"url": f"https://127.0.0.1:{ports[other]}", "links": ["a-b"]}},
        "sae": {"post-quantum": {"listen": "127.0.0.1:0", **files}},
        "saes": {f"sae-{site}": {}},
        "pairs": [{"master": f"sae-{site}", "slave": f"sae-{other}", "peer": f"kms-{other}"}],
    }
    return msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook)
