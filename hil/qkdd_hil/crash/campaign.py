"""Order of events: start everything, kill -9 one process a round, let it heal, in the end compare everything."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qkdd_hil.crash import stores
from qkdd_hil.crash.draws import Direction, Ledger
from qkdd_hil.demo.applications import pairs
from qkdd_hil.demo.children import Child, Children
from qkdd_hil.demo.layout import SIDES, Layout
from qkdd_hil.demo.options import Options
from qkdd_hil.demo.watch import NodeWatch

START = 60.0  # s until the first key
HEAL = 90.0  # s after the last crash until the nodes make key again
FLUSH = 60.0  # s until everything that was made has reached both KMSs
PAUSE = (0.0, 4.0)  # s before a crash: inside a start, an alignment, a block, a commit, a hand-over
IN_SERVICE = (
    0.5  # share of the crashes that wait until the system delivers keys again; the others hit it while it heals
)


class CampaignFailed(Exception):
    """A promise was broken; the text says which."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a campaign. All of `differing`, `twice`, `lost`, `disagreements` must be empty or zero."""

    rounds: int
    victims: dict[str, int]
    keys_drawn: int
    keys_delivered: int
    differing: int
    twice: int
    lost: int
    refused: dict[str, int]
    unanswered: int
    blocks_held: int
    blocks_voided: int
    disagreements: list[str]
    seconds: float

    @property
    def good(self) -> bool:
        return (
            not (self.differing or self.twice or self.lost or self.refused or self.disagreements)
            and self.keys_delivered > 0
        )


@dataclass
class _Process:
    command: list[str]
    child: Child
    starts: int = 1


class Campaign:
    """`rounds` crashes, victims and moments drawn from `seed`."""

    def __init__(
        self, rounds: int, seed: int, directory: Path | None = None, say: Callable[[str], None] = print
    ) -> None:
        self._rounds = rounds
        self._random = random.Random(seed)
        self._options = Options(block="1 s", redelivery_window="60 s", directory=directory, live=False, seed=seed)
        self._say = say
        self._processes: dict[str, _Process] = {}
        self._ledger = Ledger()
        self._nodes: list[NodeWatch] = []

    async def run(self) -> Report:
        """Raises CampaignFailed when the system does not start or does not heal."""
        layout = await asyncio.to_thread(Layout.make, self._options)
        began = time.monotonic()
        victims: Counter[str] = Counter()
        keep = True
        try:
            async with Children(layout.logs) as children:
                await self._start(children, layout)
                self._nodes = [NodeWatch(side, layout.control_socket(side), lambda *_: None) for side in SIDES]
                follow = [asyncio.create_task(node.follow()) for node in self._nodes]
                directions = self._directions(layout)
                drawing = [asyncio.create_task(direction.run()) for direction in directions]
                try:
                    await self._until(lambda: self._ledger.delivered > 0, START, "no first key")
                    for number in range(1, self._rounds + 1):
                        if self._random.random() < IN_SERVICE:
                            await self._delivering(layout)
                        await asyncio.sleep(self._random.uniform(*PAUSE))
                        victim = self._random.choice(sorted(self._processes))
                        victims[victim] += 1
                        await self._crash(children, victim)
                        self._say(
                            f"round {number}/{self._rounds}: kill -9 {victim}; keys delivered {self._ledger.delivered}"
                        )
                    await self._delivering(layout)
                    await self._flush(layout, directions)
                    await asyncio.wait_for(asyncio.gather(*drawing), FLUSH)
                finally:
                    for task in (*follow, *drawing):
                        task.cancel()
                    await asyncio.gather(*follow, *drawing, return_exceptions=True)
            report = self._report(layout, victims, time.monotonic() - began)
            keep = not report.good
            return report
        except TimeoutError:
            raise CampaignFailed(f"the slaves did not get all keys in {FLUSH:.0f} s; logs in {layout.logs}") from None
        finally:
            layout.remove(keep_logs=keep)

    async def _start(self, children: Children, layout: Layout) -> None:
        bench = await children.start(
            "bench", [sys.executable, "-m", "qkdd_hil.bench", "--config", layout.write_bench(self._options)], piped=True
        )
        if bench.process.stdout is None:
            raise CampaignFailed("the bench has no output")
        addresses = json.loads(await asyncio.wait_for(bench.process.stdout.readline(), START))
        scripts = Path(sys.executable).parent
        for side in SIDES:
            await self._spawn(
                children, f"kms-{side}", [scripts / "qkdd-kms", "run", layout.write_kms(side, self._options)]
            )
        for side in SIDES:
            await self._spawn(
                children, side, [scripts / "qkdd", "run", layout.write_node(side, addresses[side], self._options)]
            )

    async def _spawn(self, children: Children, name: str, command: list[Path | str]) -> None:
        words = [str(word) for word in command]
        self._processes[name] = _Process(words, await children.start(f"{name}.0", words))

    async def _crash(self, children: Children, name: str) -> None:
        process = self._processes[name]
        if process.child.process.returncode is None:
            process.child.process.send_signal(signal.SIGKILL)
        elif process.child.process.returncode != -signal.SIGKILL:
            raise CampaignFailed(
                f"{name} ended by itself with {process.child.process.returncode}:\n{process.child.tail()}"
            )
        await process.child.process.wait()
        process.child = await children.start(f"{name}.{process.starts}", process.command)
        process.starts += 1

    def _directions(self, layout: Layout) -> list[Direction]:
        classical, post_quantum = pairs(layout.ports, layout.pki.classical, layout.pki.post_quantum)
        return [
            Direction(self._ledger, classical.alice, classical.bob),
            Direction(self._ledger, post_quantum.bob, post_quantum.alice),
        ]

    async def _delivering(self, layout: Layout) -> None:
        """Wait for a block that became key after now, and for a key that was delivered after that."""

        def held() -> int:
            return sum(state in stores.HELD for state in stores.blocks(layout.node_store("alice")).values())

        blocks = held()
        await self._until(lambda: held() > blocks, HEAL, "no new block")
        keys = self._ledger.delivered
        await self._until(lambda: self._ledger.delivered > keys, HEAL, "no new key")

    async def _until(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                states = ", ".join(
                    f"{n.name} {n.status.get('state', 'not up')}/{n.link.get('state', '-')}" for n in self._nodes
                )
                raise CampaignFailed(f"{otherwise} within {seconds:.0f} s ({states})")
            await asyncio.sleep(0.1)

    async def _flush(self, layout: Layout, directions: list[Direction]) -> None:
        """Stop making key, let both nodes hand over what they hold, let both slaves fetch what their masters drew."""
        for node in self._nodes:
            await node.post("/v1/drain")
        for direction in directions:
            direction.drawing = False

        def settled() -> bool:
            found = [stores.blocks(layout.node_store(side)) for side in SIDES]
            return all(state in ("released", "voided") for side in found for state in side.values())

        await self._until(settled, FLUSH, "blocks stay with the nodes")

    def _report(self, layout: Layout, victims: Counter[str], seconds: float) -> Report:
        nodes = [stores.blocks(layout.node_store(side)) for side in SIDES]
        kms = [stores.chunks(layout.kms_store(side)) for side in SIDES]
        ledger = self._ledger
        return Report(
            rounds=self._rounds,
            victims=dict(victims),
            keys_drawn=len(ledger.masters),
            keys_delivered=ledger.delivered,
            differing=ledger.differing,
            twice=ledger.twice,
            lost=ledger.lost,
            refused=dict(ledger.refused),
            unanswered=ledger.unanswered,
            blocks_held=sum(state in stores.HELD for state in nodes[0].values()),
            blocks_voided=sum(state == "voided" for state in nodes[0].values()),
            disagreements=[*stores.disagreements(*nodes), *stores.missing_chunks(*kms)],
            seconds=round(seconds, 1),
        )
