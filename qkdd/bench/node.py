"""One node of the pipeline benchmark, a process of its own: real sessions, distillation, commit, ledger; sifted bits from a seed.

Reads one JSON object (`Task`) on standard input; prints {"ports": […]} when its ports are open (alice), reads {"ports": […]}
(bob), and prints one JSON object (`Result`) at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qkdd.bench.clocks import Clocks, Split
from qkdd.core import log
from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.memory import keep_large_buffers
from qkdd.core.sealing import load_master_key
from qkdd.core.secret import Secret
from qkdd.distill import DistillConfig, Distiller, SiftedBlock
from qkdd.distill.blocks import DistilledBlock
from qkdd.distill.packed import PackedBits
from qkdd.keys import Committer, LedgerFile, MaskPool, Spool, node_store
from qkdd.peer import Message
from qkdd.peer.config import PeerConfig
from qkdd.peer.link import PeerLink
from qkdd.peer.session import Session
from qkdd.peer.wire import TlsWire
from qkdd.security.ledger import EpsilonLedger

_SPOOL = 1 << 40
_WARM_UP = 2  # blocks before the clock starts: the first is sealed by signatures and fills the masks


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """files: certificate, key, trust, crl, master, state. cores: where it may run; empty: everywhere."""

    role: str
    files: dict[str, str]
    links: int
    block: int
    seconds: float
    qber: float
    delay: float
    reconciler: str
    cores: list[int]


class LinkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one link made while the clock ran."""

    blocks: int
    sifted: int
    secret: int
    counted: int
    refused: list[str]
    f_sec: float
    method: str
    rounds: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """wall: seconds while the clock ran. kernels: CPU seconds by function of the native kernels."""

    role: str
    wall: float
    split: Split
    memory: int
    kernels: dict[str, float]
    links: list[LinkResult]


class Turn(Message, frozen=True, tag="bench.turn"):
    """alice → bob before each block: whether there is one, and whether it counts."""

    more: bool
    counted: bool


class Node:
    """Links of one node; they share its store, as the links of a node do."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.clock, self.meter = SystemClock(), RecordingMeter()
        self.config = DistillConfig(reconciler=task.reconciler)  # type: ignore[arg-type]  # checked by the parent
        self.clocks = Clocks()

    async def run(self) -> Result:
        self.clocks.install()
        links = [await self._open(number) for number in range(self.task.links)]
        if self.task.role == "alice":
            say({"ports": [link.port for link, *_ in links]})
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._link(number, *parts)) for number, parts in enumerate(links)]
            results = [task.result() for task in tasks]
            return Result(
                role=self.task.role,
                wall=self.clocks.wall,
                split=self.clocks.read(),
                memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                kernels={name: spent for name, spent in self.clocks.kernels.cpu.items() if spent > 0},
                links=results,
            )
        finally:
            for link, *_ in links:
                await link.close()

    async def _open(self, number: int) -> tuple[PeerLink, Committer, EpsilonLedger]:
        """Each link has a store of its own: masks and ledger belong to a link."""
        files, alice = self.task.files, self.task.role == "alice"
        master = load_master_key(Path(files["master"]))
        store = node_store(Path(files["state"]) / f"keys-{number}.sqlite")
        await store.open()
        spool = Spool(store, master, self.clock, self.meter, limit_bytes=_SPOOL)
        masks = MaskPool(store, master)
        await masks.open()
        name = f"bench-{number}"
        ledger = await asyncio.to_thread(EpsilonLedger, LedgerFile(store, master, name), now=self.clock.wall())
        where: dict[str, Any] = {"listen": "127.0.0.1:0"} if alice else {"connect": f"127.0.0.1:{ports(self)[number]}"}
        credentials: dict[str, Any] = {name: files[name] for name in ("certificate", "key", "trust", "crl")}
        link = PeerLink(
            PeerConfig(peer_id="bob" if alice else "alice", **credentials, **where),
            role="alice" if alice else "bob",
            local_id=self.task.role,
            link=name,
            shared={"bench": "pipeline"},
            masks=masks,
            clock=self.clock,
            meter=self.meter,
        )
        await link.start()
        committer = Committer(spool, masks, mask_target=64, meter=self.meter)
        return link, committer, ledger

    async def _link(self, number: int, link: PeerLink, committer: Committer, ledger: EpsilonLedger) -> LinkResult:
        session = await (link.accept() if self.task.role == "alice" else link.connect_once())
        await committer.settle(session)
        distiller = Distiller(self.config)
        mine = sifted_bits(self.task, number)
        bases = np.zeros(self.task.block, np.uint8)
        errors = round(self.task.qber * 20_000)
        distiller.seed(errors, 20_000)
        blocks: list[DistilledBlock] = []
        count = 0
        while await self._again(session, count):
            if count == _WARM_UP:
                self.clocks.begin()
            count += 1
            await asyncio.to_thread(ledger.charge, self.config.eps_block, now=self.clock.wall())
            distilled = await distiller.distil(SiftedBlock(count, mine.copy(), bases, 0.0), session)
            await committer.commit(distilled, session)
            if count > _WARM_UP:
                blocks.append(replace(distilled, key=Secret(b"")))  # of its megabytes the spool has what is kept
        return LinkResult(
            blocks=len(blocks),
            sifted=sum(b.sifted for b in blocks),
            secret=sum(b.length for b in blocks),
            counted=sum(min(b.length, b.sifted // 2) for b in blocks),
            refused=[],
            f_sec=float(np.mean([b.f_sec for b in blocks])) if blocks else 0.0,
            method=blocks[-1].method if blocks else "",
            rounds=max((b.rounds for b in blocks), default=0),
        )

    async def _again(self, session: Session, count: int) -> bool:
        """Alice decides: warm-up blocks, then blocks until the time is over."""
        if self.task.role == "bob":
            turn = await session.receive(Turn)
            if not turn.more:
                await session.send(turn)  # so that alice does not hang up before it arrived
                await asyncio.sleep(2 * self.task.delay)
            return turn.more
        over = self.clocks.wall > self.task.seconds
        await session.send(Turn(not over, count >= _WARM_UP))
        if over:
            await session.receive(Turn)
        return not over


def sifted_bits(task: Task, number: int) -> PackedBits:
    """This node's bits: alice's are random, bob's differ in each with probability qber. Both draw them from the link's number."""
    rng = np.random.default_rng(number)
    bits = np.unpackbits(np.frombuffer(rng.bytes((task.block + 7) // 8), np.uint8), count=task.block)
    if task.role == "bob":
        bits ^= (rng.random(task.block, dtype=np.float32) < task.qber).astype(np.uint8)
    return PackedBits.of(bits)


_ports: list[int] = []


def ports(node: Node) -> list[int]:
    """Alice's ports, as the parent tells them to bob."""
    if not _ports and node.task.role == "bob":
        _ports.extend(json.loads(sys.stdin.readline())["ports"])
    return _ports


def say(record: object) -> None:
    print(msgspec.json.encode(record).decode(), flush=True)


def delay_writes(seconds: float) -> None:
    """Every byte that this process sends leaves so much later: half of a round trip on a long line."""
    write = TlsWire.write

    def later(self: TlsWire, *parts: bytes) -> None:
        asyncio.get_running_loop().call_later(seconds, write, self, *parts)

    TlsWire.write = later  # type: ignore[method-assign]


def main() -> None:
    log.configure("warning")
    keep_large_buffers()
    task = msgspec.json.decode(sys.stdin.readline(), type=Task)
    if task.cores:
        os.sched_setaffinity(0, task.cores)
    if task.delay:
        delay_writes(task.delay)
    say(asyncio.run(Node(task).run()))


if __name__ == "__main__":
    main()
