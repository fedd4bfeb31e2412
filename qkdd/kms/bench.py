"""What a draw costs inside the KMS: keys a second without HTTP, and that the size of the pool does not matter."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import uuid
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from qkdd.core.audit import AuditLog
from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.secret import Secret
from qkdd.kms.config import KmsConfig, KmsIdentity, Limits, NodePlane, Pair, Peer, Sae
from qkdd.kms.listener_config import Listener
from qkdd.kms.plane import Announce, Held, Holds, Lent, Noted, Rest, Void, Voided
from qkdd.kms.schema import kms_store
from qkdd.kms.service import KeyService

A = TypeVar("A")
_POOLS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)  # keys
_CHUNK = 65_536  # bytes; a block of half a million secret bits


class _Noting:
    """The other site, as a stub that writes down whatever it hears."""

    up = True

    async def call(self, _name: str, message: msgspec.Struct, answer: type[A]) -> A:
        match message:
            case Holds(chunks):
                said: Any = Held([chunk_id for chunk_id, _ in chunks])
            case Announce():
                said = Noted(True)
            case Rest() | Void():
                said = Voided(True)
            case _:
                said = Lent([])
        return msgspec.convert(said, answer, from_attributes=True)

    async def close(self) -> None:
        """Nothing is open."""


def _config(state: Path, store: str | None) -> KmsConfig:
    nowhere: dict[str, Any] = {"listen": "127.0.0.1:0", "certificate": "", "key": "", "trust": ""}
    return KmsConfig(
        kms=KmsIdentity(id="kms-bench-a", state_directory=str(state), master_key="", store=store),
        node_plane=NodePlane(**nowhere, nodes=("a",)),
        kms_plane=Listener(**nowhere),
        peers={"kms-bench-b": Peer(url="https://localhost", links=("a-b",))},
        sae={},
        saes={"sae-a": Sae()},
        pairs=(Pair(master="sae-a", slave="sae-b", peer="kms-bench-b"),),
        limits=Limits(pool_bytes=1 << 40, max_key_per_request=4096),
    )


class DrawBench:
    """One key service with its store in `folder` (or in a database), the other site a stub in this process."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        config = _config(folder, store)
        self._audit = AuditLog(folder / "audit.log", SystemClock())
        self._service = KeyService(
            config,
            kms_store(config.store_place()),
            Secret(os.urandom(32)),
            {"kms-bench-b": _Noting()},  # type: ignore[dict-item]
            clock=SystemClock(),
            meter=RecordingMeter(),
            audit=self._audit,
        )
        self._index = 0

    async def open(self) -> None:
        await self._service.open()

    async def close(self) -> None:
        await self._service.close()
        self._audit.close()

    async def fill(self, size: int) -> None:
        """Put `size` bytes into the pool, as chunks that this site owns."""
        material = Secret(os.urandom(_CHUNK))
        work = []
        for _ in range(-(-size // _CHUNK)):
            work.append(self._service.ingest("a", str(uuid.uuid4()), "a-b", self._index, material, {"class": "bench"}))
            self._index += 2  # even: ours
            if len(work) == 256:
                await asyncio.gather(*work)
                work.clear()
        await asyncio.gather(*work)
        await self._service.sync_once()

    async def draws(self, count: int, amount: int, concurrency: int) -> tuple[float, float]:
        """`count` draws of `amount` keys of 256 bits; wall and CPU seconds."""

        async def worker(share: int) -> None:
            for _ in range(share):
                await self._service.draw("sae-a", ("sae-b",), amount, 32)

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker(count // concurrency) for _ in range(concurrency)))
        return time.perf_counter() - wall, time.process_time() - cpu


async def run(
    folder: Path, store: str | None, batches: int, amount: int, concurrency: int, largest: int
) -> dict[str, Any]:
    """Keys a second in batches, and the cost of a draw of one key with 10^3 to `largest` keys in the pool; medians of 5."""
    batches = max(1, batches // concurrency) * concurrency
    bench = DrawBench(folder, store)
    await bench.open()
    try:
        rates, costs = [], []
        for _ in range(5):
            await bench.fill(batches * amount * 32)
            wall, cpu = await bench.draws(batches, amount, concurrency)
            rates.append(batches * amount / wall)
            costs.append(cpu / batches)
        sizes = []
        held = 0
        for keys in [n for n in _POOLS if n <= largest]:
            await bench.fill((keys - held) * 32)
            held = keys
            times = [(await bench.draws(64, 1, 1))[1] / 64 for _ in range(5)]
            sizes.append({"pool_keys": keys, "cpu_us_per_draw": round(statistics.median(times) * 1e6, 1)})
            held -= 5 * 64
    finally:
        await bench.close()
    return {
        "keys_per_s": round(statistics.median(rates)),
        "keys_per_cpu_s": round(amount / statistics.median(costs)),
        "batch": amount,
        "concurrency": concurrency,
        "cpu_ms_per_batch": round(statistics.median(costs) * 1e3, 3),
        "pool_sizes": sizes,
    }
