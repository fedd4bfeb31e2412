"""Two sessions joined in memory, masks in memory, and a wire that tampers: for tests of everything above the TLS layer."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import secrets
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.asymmetric import mldsa

from qkdd.core.clock import Clock, SystemClock
from qkdd.core.counters import Meter, RecordingMeter
from qkdd.core.errors import QkddError
from qkdd.core.secret import Secret
from qkdd.peer.contract import ALICE_TO_BOB, BOB_TO_ALICE, DIRECTIONS, HASH_KEY_BYTES, MASK_BYTES, Role
from qkdd.peer.errors import PeerClosed
from qkdd.peer.opening import LinkIdentity, SessionSettings
from qkdd.peer.session import Session
from qkdd.peer.wire import ChannelFacts, Connection, OnBytes, OnLost

Tamper = Callable[[bytes], bytes | None]


class MemoryWire:
    """One end of a pair. `tamper` sees every piece before the other end does and may change it, or swallow it (None)."""

    def __init__(self) -> None:
        self.other: MemoryWire | None = None
        self.tamper: Tamper | None = None
        self.sent: list[bytes] = []
        self._on_bytes: OnBytes | None = None
        self._on_lost: OnLost | None = None
        self._early: list[bytes] = []
        self._closed = False

    @classmethod
    def pair(cls) -> tuple[MemoryWire, MemoryWire]:
        left, right = cls(), cls()
        left.other, right.other = right, left
        return left, right

    def attach(self, on_bytes: OnBytes, on_lost: OnLost) -> None:
        self._on_bytes, self._on_lost = on_bytes, on_lost
        for data in self._early:
            on_bytes(data)

    def write(self, *parts: bytes) -> None:
        data: bytes | None = b"".join(parts)
        if self._closed or self.other is None or data is None:
            return
        self.sent.append(data)
        if self.tamper is not None:
            data = self.tamper(data)
        if data:
            asyncio.get_running_loop().call_soon(self.other.deliver, data)

    def deliver(self, data: bytes) -> None:
        """Bytes from the other end, or from a test."""
        if self._closed:
            return
        if self._on_bytes is None:
            self._early.append(data)
        else:
            self._on_bytes(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        self._end(PeerClosed("this end of the memory wire was closed"))
        if self.other is not None:
            error = PeerClosed("the other end of the memory wire was closed")
            asyncio.get_running_loop().call_soon(self.other._end, error)

    drop = close

    def _end(self, error: QkddError) -> None:
        if not self._closed:
            self._closed = True
            if self._on_lost is not None:
                self._on_lost(error)


class MemoryMasks:
    """A MaskStore without durability. `crash()` gives the store as a restart would find it."""

    def __init__(self, seed: bytes | None = None, masks: int = 0) -> None:
        self._key: Secret | None = None
        self._pools: dict[str, list[bytes]] = {direction: [] for direction in DIRECTIONS}
        self._next = dict.fromkeys(DIRECTIONS, 0)
        self._wiped = dict.fromkeys(DIRECTIONS, 0)
        self._established = False
        if seed is not None:
            self.fill(seed, masks)

    def fill(self, seed: bytes, masks: int) -> None:
        """Add `masks` masks to each direction, drawn from `seed`; both nodes call it with the same seed."""
        data = hashlib.shake_256(seed).digest(HASH_KEY_BYTES + 2 * masks * MASK_BYTES)
        if self._key is None:
            self._key = Secret(data[:HASH_KEY_BYTES])
        rest = data[HASH_KEY_BYTES:]
        for direction, start in ((ALICE_TO_BOB, 0), (BOB_TO_ALICE, masks * MASK_BYTES)):
            part = rest[start : start + masks * MASK_BYTES]
            self._pools[direction] += [part[i : i + MASK_BYTES] for i in range(0, len(part), MASK_BYTES)]

    def hash_key(self) -> Secret | None:
        return self._key

    def available(self, direction: str) -> int:
        return len(self._pools[direction]) - max(self._next[direction], self._wiped[direction])

    def reserve(self, direction: str, count: int) -> range:
        start = max(self._next[direction], self._wiped[direction])
        stop = min(start + count, len(self._pools[direction]))
        self._next[direction] = stop
        self._established = self._established or stop > start
        return range(start, stop)

    def mask(self, direction: str, index: int) -> Secret:
        if not self._wiped[direction] <= index < len(self._pools[direction]):
            raise KeyError(index)
        return Secret(self._pools[direction][index])

    def spent(self, direction: str, index: int) -> None:
        self._established = True
        self._wiped[direction] = max(self._wiped[direction], index + 1)

    @property
    def established(self) -> bool:
        return self._established

    def rebootstrap(self) -> None:
        self.__init__()  # type: ignore[misc]  # back to the state of a new store

    def crash(self) -> MemoryMasks:
        """What stands after a crash: reservations hold, everything that was only in memory is gone."""
        other = MemoryMasks()
        other._key, other._established = self._key, self._established
        other._pools = {direction: list(pool) for direction, pool in self._pools.items()}
        other._next = dict(self._next)
        return other


@functools.cache
def _keys(name: str) -> mldsa.MLDSA65PrivateKey:
    return mldsa.MLDSA65PrivateKey.generate()


def memory_connections(
    exporter: bytes | None = None,
) -> tuple[tuple[MemoryWire, ChannelFacts], tuple[MemoryWire, ChannelFacts]]:
    """Two ends (alice, bob) of a memory wire with facts as TLS would give them."""
    alice_key, bob_key = _keys("alice"), _keys("bob")
    exporter = exporter or secrets.token_bytes(32)
    left, right = MemoryWire.pair()
    binding = b"memory wire " + exporter
    return (
        (left, ChannelFacts("bob", binding, exporter, alice_key, bob_key.public_key())),
        (right, ChannelFacts("alice", binding, exporter, bob_key, alice_key.public_key())),
    )


def link_identity(role: Role, shared: Mapping[str, str] | None = None, link: str = "a-b") -> LinkIdentity:
    peer = "bob" if role == "alice" else "alice"
    return LinkIdentity(
        role=role, local_id=role, peer_id=peer, link=link, shared=shared or {"protocol": "bbm92"}, boot_id=bytes(16)
    )


async def session_pair(
    *,
    masks: tuple[MemoryMasks, MemoryMasks] | None = None,
    clock: Clock | None = None,
    meter: Meter | None = None,
    settings: SessionSettings | None = None,
    tamper: tuple[Tamper | None, Tamper | None] = (None, None),
) -> tuple[Session, Session]:
    """Two open sessions (alice, bob) that talk to each other in memory. Close both when done."""
    (left, left_facts), (right, right_facts) = memory_connections()
    left.tamper, right.tamper = tamper
    stores = masks or (MemoryMasks(), MemoryMasks())
    clock, meter = clock or SystemClock(), meter or RecordingMeter()
    settings = settings or SessionSettings()
    alice, bob = await asyncio.gather(
        Session.open(Connection(left, left_facts), link_identity("alice"), stores[0], settings, clock, meter),
        Session.open(Connection(right, right_facts), link_identity("bob"), stores[1], settings, clock, meter),
    )
    return alice, bob
