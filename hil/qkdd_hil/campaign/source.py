"""Synthetic key through the real hand-over: each site has a spool as a node has, and pushes to its KMS by TLS.

The campaign knows every 256-bit piece of the key that it made, by a digest, so that a key that comes out can be traced to the one
place it may come from.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from pathlib import Path

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.database import Database
from qkdd.core.sealing import create_master_key, load_master_key
from qkdd.core.secret import Secret
from qkdd.keys import HandOver, KeysConfig, MaskPool, Spool, node_store, tls_profile
from qkdd.peer.tls import client_context
from qkdd_hil.campaign.sites import LINK, SITES, CampaignFailed, Sites

KEY_BYTES = 32
_KEYS_IN_A_CHUNK = (64, 2048)
_SLOWEST = 1.0  # s between two attempts of the hand-over


class Source:
    """`feed(n)` makes at least n keys more at both sites; `place` of a key says where it was made, or None."""

    def __init__(self, sites: Sites, folder: Path, seed: int) -> None:
        self._sites, self._folder = sites, folder
        self._random = random.Random(seed)
        self._places: dict[bytes, int] = {}
        self._spools: dict[str, Spool] = {}
        self._masks: dict[str, MaskPool] = {}
        self._stores: list[Database] = []
        self._hand_overs: list[HandOver] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._sequence = 0

    @property
    def made(self) -> int:
        """Keys."""
        return len(self._places)

    def place(self, key: bytes) -> int | None:
        return self._places.get(_digest(key))

    async def open(self) -> None:
        for site in SITES:
            self._folder.mkdir(exist_ok=True)
            file = self._folder / f"{site}-master.key"
            await asyncio.to_thread(create_master_key, file)
            master, clock = load_master_key(file), SystemClock()
            store = node_store(self._folder / f"{site}.db")
            await store.open()
            self._stores.append(store)
            self._masks[site] = MaskPool(store, master)
            self._spools[site] = spool = Spool(store, master, clock, RecordingMeter())
            paths = self._sites.pki.post_quantum[site]
            config = KeysConfig(
                kms_url=self._sites.node_url(site),
                kms_id=f"kms-{site}",
                certificate=str(paths.certificate),
                key=str(paths.key),
                trust=str(paths.trust),
                crl=str(paths.crl),
            )
            hand_over = HandOver(
                config,
                spool,
                node_id=site,
                peer_id=SITES[1 - SITES.index(site)],
                link=LINK,
                context=client_context(tls_profile(config)),
                clock=clock,
                meter=RecordingMeter(),
            )
            self._hand_overs.append(hand_over)
            self._tasks.append(asyncio.create_task(hand_over.run(lambda n: min(_SLOWEST, 0.05 * 2**n))))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for store in self._stores:
            await store.close()

    async def feed(self, keys: int) -> None:
        """Blocks of random sizes until at least `keys` more are on their way."""
        target = self.made + keys
        while self.made < target:
            count = self._random.randint(*_KEYS_IN_A_CHUNK)
            block, block_id = secrets.token_bytes(count * KEY_BYTES), secrets.token_bytes(16)
            for number in range(count):
                self._places[_digest(block[number * KEY_BYTES : (number + 1) * KEY_BYTES])] = len(self._places)
            self._sequence += 1
            for site in SITES:
                await self._spools[site].prepare(
                    sequence=self._sequence,
                    block_id=block_id,
                    number=self._sequence,
                    key=Secret(block),
                    first=False,
                    masks=0,
                    details={"eps": 1e-12, "proof": "synthetic", "auth": "none"},
                )
                await self._spools[site].accept(block_id, self._masks[site].fill)
        for hand_over in self._hand_overs:
            hand_over.notify()

    async def handed_over(self) -> bool:
        """Whether both KMSs acknowledged everything."""
        for site in SITES:
            if await self._spools[site].waiting(1):
                return False
        return True

    def failure(self) -> BaseException | None:
        """What ended a hand-over, which never ends by itself."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                return task.exception() or CampaignFailed("a hand-over ended")
        return None


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()
