"""Two sessions joined in memory, which record, and change when told to, what goes between them. A mock: never shipped."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import TypeVar

import msgspec
import numpy as np

from qkdd.core.errors import QkddError
from qkdd.distill.blocks import SiftedBlock
from qkdd.distill.config import DistillConfig
from qkdd.distill.packed import PackedBits
from qkdd.distill.pipeline import distil
from qkdd.distill.plan import BlockPlan, plan_block
from qkdd.peer import AuthenticationFailed, Message, PeerAborted, ProtocolError, Seal

M = TypeVar("M", bound=Message)
Tamper = Callable[[str, int, Message], Message]

_END = object()


class Wire:
    """One direction: queue, transcript, and the hand of whoever sits on it."""

    def __init__(self, name: str, tamper: Tamper | None) -> None:
        self.name, self.tamper = name, tamper
        self.queue: asyncio.Queue[object] = asyncio.Queue()
        self.sent: list[Message] = []
        self.sent_digest, self.seen_digest = hashlib.sha256(), hashlib.sha256()

    def put(self, message: Message) -> None:
        self.sent_digest.update(msgspec.msgpack.encode(message))
        index = len(self.sent)
        self.sent.append(message)
        self.queue.put_nowait(message if self.tamper is None else self.tamper(self.name, index, message))


class MemorySession:
    """Implements qkdd.peer.PeerSession. `authentic` False models an attacker who also forges every tag."""

    local_id, peer_id, session_id, mode, rtt, masks_left = "a", "b", bytes(32), "wegman-carter", 0.0, 100

    def __init__(self, role: str, out: Wire, into: Wire, *, authentic: bool) -> None:
        self.role, self._out, self._in, self._authentic = role, out, into, authentic
        self.seals: list[str] = []

    def require_masks(self, seals: int) -> None:
        pass

    async def send(self, message: Message) -> None:
        self._out.put(message)

    async def _next(self) -> object:
        item = await self._in.queue.get()
        if isinstance(item, QkddError):
            raise PeerAborted(item.code)
        return item

    async def receive(self, kind: type[M], *, timeout: float | None = None) -> M:
        message = await self._next()
        if not isinstance(message, Message):
            raise ProtocolError(f"a seal instead of {kind.__name__}")
        self._in.seen_digest.update(msgspec.msgpack.encode(message))
        if not isinstance(message, kind):
            raise ProtocolError(f"{type(message).__name__} instead of {kind.__name__}")
        return message

    async def seal(self, phase: str, block: int) -> Seal:
        self._out.queue.put_nowait((phase, block, self._out.sent_digest.copy().digest()))
        item = await self._next()
        if not isinstance(item, tuple) or item[:2] != (phase, block):
            raise ProtocolError(f"a message instead of the seal {phase}")
        if self._authentic and item[2] != self._in.seen_digest.copy().digest():
            raise AuthenticationFailed(f"seal {phase}")
        self.seals.append(phase)
        return Seal(phase, block, "wegman-carter", 0.0, 0, 0)

    async def abort(self, error: QkddError) -> None:
        self._out.queue.put_nowait(error)

    async def close(self) -> None:
        pass


def pair(tamper: Tamper | None = None, *, authentic: bool = True) -> tuple[MemorySession, MemorySession, Wire, Wire]:
    there, back = Wire("alice", tamper), Wire("bob", tamper)
    alice = MemorySession("alice", there, back, authentic=authentic)
    bob = MemorySession("bob", back, there, authentic=authentic)
    return alice, bob, there, back


def noisy_blocks(m: int, error_rate: float, seed: int, number: int = 7) -> tuple[SiftedBlock, SiftedBlock]:
    """Two blocks with exactly round(m error_rate) differing bits."""
    rng = np.random.default_rng(seed)
    bits, bases = rng.integers(0, 2, m, np.uint8), rng.integers(0, 2, m, np.uint8)
    other = bits.copy()
    other[rng.choice(m, round(m * error_rate), replace=False)] ^= 1
    return (
        SiftedBlock(number, PackedBits.of(bits), bases, 5.0),
        SiftedBlock(number, PackedBits.of(other), bases, 5.0),
    )


async def attempt(block: SiftedBlock, plan: BlockPlan, session: MemorySession, config: DistillConfig) -> object:
    """The distilled block, or the error that came out after the session was told of it."""
    try:
        return await distil(block, plan, session, config)
    except QkddError as error:
        await session.abort(error)
        return error


def run_pair(
    m: int,
    error_rate: float,
    tolerated: float,
    config: DistillConfig,
    *,
    seed: int = 1,
    tamper: Tamper | None = None,
    authentic: bool = True,
    blocks: tuple[SiftedBlock, SiftedBlock] | None = None,
) -> tuple[object, object, Wire, Wire]:
    """Both nodes' results (DistilledBlock or error) and both directions of the wire."""

    async def main() -> tuple[object, object, Wire, Wire]:
        alice, bob, there, back = pair(tamper, authentic=authentic)
        plan = plan_block(m, tolerated, config)
        a, b = blocks if blocks is not None else noisy_blocks(m, error_rate, seed)
        async with asyncio.timeout(60):
            results = await asyncio.gather(attempt(a, plan, alice, config), attempt(b, plan, bob, config))
        return results[0], results[1], there, back

    return asyncio.run(main())
