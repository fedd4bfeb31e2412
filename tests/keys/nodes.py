"""A node's key room on a real store, and a pair of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from qkdd.core.counters import RecordingMeter
from qkdd.core.secret import Secret
from qkdd.keys import BlockRecord, Committer, MaskPool, Spool, node_store
from qkdd.keys.schema import BLOCKS, CHUNKS
from qkdd.keys.spool import _place
from qkdd.peer import DIRECTIONS, Role
from qkdd.testing.clock import FakeClock

from .wire import FakeSession, Wire

MASTER = bytes(range(32))
TARGET = 8


@dataclass
class Block:
    number: int
    key: Secret
    length: int


def text(number: int, size: int = 700) -> bytes:
    whole = b"".join(hashlib.sha256(f"{number}/{i}".encode()).digest() for i in range(size // 32 + 1))
    return whole[:size]


def block(number: int, size: int = 700) -> Block:
    return Block(number, Secret(text(number, size)), size * 8)


class Node:
    def __init__(self, path: Path, role: Role, limit: int = 1 << 30) -> None:
        self.role = role
        self.database = node_store(path)
        self.meter = RecordingMeter()
        self.spool = Spool(self.database, Secret(MASTER), FakeClock(), self.meter, limit_bytes=limit)
        self.masks = MaskPool(self.database, Secret(MASTER))
        self.accepted = 0
        self.committer = Committer(
            self.spool, self.masks, mask_target=TARGET, meter=self.meter, on_accept=self._accepted
        )

    def _accepted(self) -> None:
        self.accepted += 1

    async def open(self) -> Node:
        await self.database.open()
        await self.masks.open()
        return self

    async def close(self) -> None:
        await self.database.close()

    async def chunks(self) -> dict[str, bytes]:
        """What waits for the KMS, by chunk id."""

        def work(connection: sa.Connection) -> dict[str, bytes]:
            kept = sa.select(BLOCKS.c.id, BLOCKS.c.sequence, CHUNKS.c.sealed).join(
                CHUNKS, CHUNKS.c.sequence == BLOCKS.c.sequence
            )
            rows = connection.execute(kept.where(BLOCKS.c.state.in_(["sealed", "offered"])))
            opened = {}
            for row in rows:
                secret = self.spool._sealer.open(row.sealed, _place("chunk", row.sequence, row.id))
                opened[row.id.hex()] = bytes(secret.reveal())
            return opened

        return await self.database.run(work)

    def mask_bytes(self) -> dict[tuple[str, int], bytes]:
        found = {}
        for direction in DIRECTIONS:
            for index in range(self.masks.total):
                try:
                    found[direction, index] = bytes(self.masks.mask(direction, index).reveal())
                except KeyError:
                    continue
        return found


async def pair(root: Path) -> tuple[Node, Node]:
    return await Node(root / "a.db", "alice").open(), await Node(root / "b.db", "bob").open()


async def both(wire: Wire, a: Node, b: Node, call: Callable[[Node, FakeSession], Any]) -> list[Any]:
    """Run `call` on both ends; exceptions are results."""
    return await asyncio.gather(
        call(a, FakeSession(wire, "alice")), call(b, FakeSession(wire, "bob")), return_exceptions=True
    )


async def settled(a: Node, b: Node) -> list[Any]:
    results = await both(Wire(), a, b, lambda n, s: n.committer.settle(s))
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def committed(a: Node, b: Node, number: int, size: int = 700) -> list[Any]:
    """Settle and commit one block in a fresh session."""

    async def work(node: Node, session: FakeSession) -> BlockRecord:
        await node.committer.settle(session)
        return await node.committer.commit(block(number, size), session)

    return await both(Wire(), a, b, work)


async def check_equal(a: Node, b: Node) -> int:
    """Both nodes hold the same chunks, the same masks and nothing in doubt; returns how many chunks."""
    assert await a.spool.in_doubt() == []
    assert await b.spool.in_doubt() == []
    chunks = await a.chunks()
    assert chunks == await b.chunks()
    assert a.masks.total == b.masks.total
    ours, theirs = a.mask_bytes(), b.mask_bytes()
    for place in ours.keys() & theirs.keys():
        assert ours[place] == theirs[place]
    keys = (a.masks.hash_key(), b.masks.hash_key())
    assert (keys[0] is None) == (keys[1] is None)
    if keys[0] is not None and keys[1] is not None:
        assert keys[0].same_as(keys[1])
    return len(chunks)
