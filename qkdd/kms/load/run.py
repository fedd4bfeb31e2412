"""The measurements of `qkdd-kms load`: each request against the bare handler, in turns, and memory."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qkdd.core.errors import InternalError
from qkdd.kms.load.asker import Asker, Next, Tally, connect, percentile, request
from qkdd.kms.load.setting import Setting

_KEY = 32  # bytes
_OK = 200
_CLIENTS = 4  # applications that ask
_IDLE_AT_ONCE = 50  # handshakes at once
_STOCK = 4096  # keys in one draw of what is fetched later
_STATUS = "/api/v1/keys/sae-bob-0/status"


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """One request against one server: medians of the runs. cpu_us: of the server's process for a request."""

    per_s: float
    per_cpu_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of request, the KMS beside the ceiling. ratio: of requests a second; ratio_cpu: of requests a CPU second."""

    request: str
    keys: int
    answer_bytes: int
    kms: Rate
    bare: Rate
    ratio: float
    ratio_cpu: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes in memory of one KMS with so many registered applications."""

    saes: int
    connections: int
    before: int
    with_connections: int
    per_connection: int


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    rows: list[Row]
    memory: Memory
    concurrency: int
    seconds: float
    runs: int
    pinned: bool


@dataclass(slots=True)
class _Run:
    """A stretch of asking: when it ends no more is asked."""

    following: Callable[[], bytes | None]
    end: float = float("inf")

    def __call__(self) -> bytes | None:
        return self.following() if time.perf_counter() < self.end else None


class Load:
    """`seconds`: of one run; each kind of request has `runs` of them against each server, in turns."""

    def __init__(
        self, *, seconds: float, runs: int, concurrency: int, saes: int, connections: int, say: Callable[[str], None]
    ) -> None:
        self._seconds, self._runs, self._concurrency = seconds, runs, concurrency
        self._saes, self._connections, self._say = max(saes, _CLIENTS), connections, say

    async def run(self) -> LoadReport:
        with tempfile.TemporaryDirectory(prefix="qkdd-load-") as folder:
            async with Setting(Path(folder), self._saes, _CLIENTS) as setting:
                self._say("both KMSs and the bare handler are up")
                await setting.feed(1 << 22)
                pinned = setting.pin()
                await self._ready(setting)
                rows = []
                for keys in (1, 20):
                    rows.append(await self._enc_keys(setting, keys))
                    self._say(_line(rows[-1]))
                    rows.append(await self._dec_keys(setting, keys))
                    self._say(_line(rows[-1]))
                memory = await self._memory(setting)
        return LoadReport(
            rows=rows,
            memory=memory,
            concurrency=self._concurrency,
            seconds=self._seconds,
            runs=self._runs,
            pinned=pinned,
        )

    async def _ready(self, setting: Setting) -> None:
        """Until both sites know that both have the key."""
        for _ in range(600):
            body = (await self._ask(setting, "alice", request(_STATUS)))[0]
            if json.loads(body).get("stored_key_count", 0) > 0:
                return
            await asyncio.sleep(0.1)
        raise InternalError("no key came to the applications")

    async def _ask(self, setting: Setting, site: str, *requests: bytes) -> list[bytes]:
        """Bodies of the answers to single requests of the site's first application."""
        left, tally = list(requests), Tally(keep=True)
        asker = await connect(
            setting.address(site), setting.client(site, 0), lambda: left.pop(0) if left else None, tally
        )
        asker.start()
        await asker.idle
        asker.close()
        return tally.bodies

    async def _enc_keys(self, setting: Setting, keys: int) -> Row:
        path = "/api/v1/keys/sae-bob-{}/enc_keys" + (f"?number={keys}" if keys > 1 else "")
        texts = [request(path.format(number)) for number in range(_CLIENTS)]
        size = len((await self._ask(setting, "alice", texts[0]))[0])

        async def prepare(most_per_s: float) -> list[Next]:
            # key for as many as the bare handler answers: a pool that runs dry would be measured instead
            await setting.feed(int(self._seconds * most_per_s * keys * _KEY))
            return [lambda text=text: text for text in texts]  # type: ignore[misc]

        bare = request(f"/{size}")
        return await self._row(setting, "enc_keys", keys, size, prepare, bare)

    async def _dec_keys(self, setting: Setting, keys: int) -> Row:
        """Bob's applications draw, alice's fetch what was not fetched before."""
        fetches: list[list[bytes]] = [[] for _ in range(_CLIENTS)]

        async def prepare(_most_per_s: float) -> list[Next]:  # when nothing is left to fetch the stretch is over
            await self._stock(setting, keys, fetches)
            return [lambda mine=mine: mine.pop() if mine else None for mine in fetches]  # type: ignore[misc]

        await prepare(0.0)
        example = fetches[0].pop()
        size = len((await self._ask(setting, "alice", example))[0])
        bare = request(f"/{size}", example.partition(b"\r\n\r\n")[2])
        return await self._row(setting, "dec_keys", keys, size, prepare, bare)

    async def _stock(self, setting: Setting, keys: int, fetches: list[list[bytes]]) -> None:
        """Requests for keys that bob's applications have drawn, enough for one run."""
        wanted = int(self._seconds * 4000 / _CLIENTS)
        for number, mine in enumerate(fetches):
            while len(mine) < wanted:
                amount = min(_STOCK, keys * (wanted - len(mine)))
                await setting.feed(amount * _KEY)
                body = msgspec.json.encode({"number": amount, "size": 8 * _KEY})
                ids = await self._draw(setting, number, request(f"/api/v1/keys/sae-alice-{number}/enc_keys", body))
                for start in range(0, len(ids) - keys + 1, keys):
                    named = {"key_IDs": [{"key_ID": one} for one in ids[start : start + keys]]}
                    mine.append(request(f"/api/v1/keys/sae-bob-{number}/dec_keys", msgspec.json.encode(named)))

    async def _draw(self, setting: Setting, number: int, text: bytes) -> list[str]:
        for _ in range(100):
            tally, left = Tally(keep=True), [text]
            asker = await connect(
                setting.address("bob"),
                setting.client("bob", number),
                lambda left=left: left.pop() if left else None,  # type: ignore[misc]
                tally,
            )
            asker.start()
            await asker.idle
            asker.close()
            if tally.statuses.get(_OK):
                return [key["key_ID"] for key in json.loads(tally.bodies[0])["keys"]]
            await asyncio.sleep(0.1)  # the key just fed is not live yet
        raise InternalError(f"bob gives no key: {tally.bodies[0][:200]!r}")

    async def _row(
        self,
        setting: Setting,
        name: str,
        keys: int,
        size: int,
        prepare: Callable[[float], Awaitable[list[Next]]],
        bare: bytes,
    ) -> Row:
        measured: dict[str, list[Rate]] = {"alice": [], "bare": []}
        for _ in range(self._runs):
            measured["bare"].append(await self._stretch(setting, "bare", [lambda: bare]))
            followings = await prepare(measured["bare"][-1].per_s)
            measured["alice"].append(await self._stretch(setting, "alice", followings))
        kms, ceiling = _median(measured["alice"]), _median(measured["bare"])
        return Row(
            request=name,
            keys=keys,
            answer_bytes=size,
            kms=kms,
            bare=ceiling,
            ratio=round(kms.per_s / ceiling.per_s, 3),
            ratio_cpu=round(kms.per_cpu_s / ceiling.per_cpu_s, 3),
        )

    async def _stretch(self, setting: Setting, name: str, followings: list[Next]) -> Rate:
        """`concurrency` connections that ask until the time is over. Every answer has to be 200."""
        tally = Tally()
        runs = [_Run(following) for following in followings]
        address = setting.address("alice", "bare" if name == "bare" else "sae.classical")
        askers = [
            await connect(address, setting.client("alice", n % len(runs)), runs[n % len(runs)], tally)
            for n in range(self._concurrency)
        ]
        cpu, began = setting.cpu(name), time.perf_counter()
        for run in runs:
            run.end = began + self._seconds
        for asker in askers:
            asker.start()
        await asyncio.gather(*(asker.idle for asker in askers))
        wall, cpu = time.perf_counter() - began, setting.cpu(name) - cpu
        for asker in askers:
            asker.close()
        if set(tally.statuses) != {_OK}:
            raise InternalError(f"{name} answered {tally.statuses}")
        count = len(tally.seconds)
        return Rate(
            per_s=count / wall,
            per_cpu_s=count / cpu,
            cpu_us=1e6 * cpu / count,
            p50_ms=1e3 * percentile(tally.seconds, 0.5),
            p99_ms=1e3 * percentile(tally.seconds, 0.99),
        )

    async def _memory(self, setting: Setting) -> Memory:
        """Each connection has asked once and stays open."""
        before, tally, context = setting.memory("alice"), Tally(), setting.client("alice", 0)
        text = request(_STATUS)
        askers: list[Asker] = []
        while len(askers) < self._connections:
            share = min(_IDLE_AT_ONCE, self._connections - len(askers))
            lists = [[text] for _ in range(share)]
            new = await asyncio.gather(
                *(
                    connect(setting.address("alice"), context, lambda left=left: left.pop() if left else None, tally)  # type: ignore[misc]
                    for left in lists
                )
            )
            for asker in new:
                asker.start()
            await asyncio.gather(*(asker.idle for asker in new))
            askers += new
        after = setting.memory("alice")
        for asker in askers:
            asker.close()
        if tally.statuses != {_OK: self._connections}:
            raise InternalError(f"of {self._connections} connections were answered {tally.statuses}")
        return Memory(
            saes=self._saes,
            connections=self._connections,
            before=before,
            with_connections=after,
            per_connection=(after - before) // max(1, self._connections),
        )


def _median(rates: list[Rate]) -> Rate:
    names = Rate.__struct_fields__
    return Rate(**{name: round(statistics.median(getattr(rate, name) for rate in rates), 2) for name in names})


def _line(row: Row) -> str:
    def said(rate: Rate) -> str:
        return f"{rate.per_s:>7,.0f}/s, p50 {rate.p50_ms:.1f} ms, p99 {rate.p99_ms:.1f} ms, {rate.cpu_us:,.0f} us CPU"

    ratios = f"ratio {row.ratio:.2f}, by CPU {row.ratio_cpu:.2f}"
    return f"{row.request} of {row.keys:>2}: {said(row.kms)}; bare {said(row.bare)}; {ratios}"


def lines(report: LoadReport) -> list[str]:
    """For a reader."""
    memory = report.memory
    return [
        *map(_line, report.rows),
        f"memory with {memory.saes:,} registered applications: {memory.before / 2**20:.0f} MiB; with {memory.connections:,} open "
        f"connections {memory.with_connections / 2**20:.0f} MiB ({memory.per_connection / 1024:.1f} KiB each)",
    ]
