"""The KMS itself, without HTTP: chunks in, keys out, each key once, nothing that the other site does not hold."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Concatenate, ParamSpec, TypeVar, overload

import msgspec
import sqlalchemy as sa

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.database import Database, Upsert
from qkdd.core.errors import QkddError
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.core.zeroise import Zeroised
from qkdd.kms import allocations, chunks, revoke, voiding
from qkdd.kms.allocation import UNKNOWN, Allocation, Conflict, Fetched, FetchRefused, Origin
from qkdd.kms.classes import ClassPolicy, Fallback, KeyClass
from qkdd.kms.config import KmsConfig
from qkdd.kms.errors import (
    ExchangeRefused,
    KeysNotFound,
    NotEnoughKey,
    NotEntitled,
    PeerDisagrees,
    RequestRefused,
    StoreMismatch,
)
from qkdd.kms.exchange import MAX_DERIVED, Bundle
from qkdd.kms.hybrid import STALE, Hybrid
from qkdd.kms.key_ids import key_id
from qkdd.kms.plane import (
    Announce,
    Borrow,
    Exchange,
    Held,
    Holds,
    Lent,
    Noted,
    PeerKms,
    Revoke,
    RevokedThere,
    Void,
    Voided,
)
from qkdd.kms.schema import META

P = ParamSpec("P")
T = TypeVar("T")

_LOG = log.get("kms")
_ATTEMPTS = 4  # draws that meet conflicts with a restored store
_BATCH = 256
_SYNC_PERIOD = 2.0
_ABANDONED = 10.0  # seconds after which a reservation that no request takes goes back to the pool
_JANITOR_PERIOD = 10.0


def _check_kind(connection: sa.Connection, synthetic: bool) -> None:
    """A store holds synthetic key or real key for all its life. Raises StoreMismatch."""
    known = connection.execute(sa.select(META.c.value).where(META.c.name == "synthetic")).scalar()
    if known is None:
        used = connection.execute(sa.select(sa.func.count()).select_from(META)).scalar_one()
        used += connection.execute(sa.text("SELECT count(*) FROM (SELECT 1 FROM chunks LIMIT 1) AS one")).scalar_one()
        known = 0.0 if used else float(synthetic)
        connection.execute(META.insert().values(name="synthetic", value=known))
    if bool(known) != synthetic:
        kinds = ("real", "synthetic (insecure)")
        raise StoreMismatch(f"the store is for {kinds[bool(known)]} key, this program serves {kinds[synthetic]} key")


_REMEMBER = Upsert(META, ("name",), lambda _, new: {"value": new.value})


def _service_time(connection: sa.Connection, own: float) -> float:
    """The largest service time that any process of this KMS has reached, `own` included; remembered."""
    known = connection.execute(sa.select(META.c.value).where(META.c.name == "service_seconds")).scalar()
    now = max(own, known or 0.0)
    _REMEMBER(connection, {"name": "service_seconds", "value": now})
    return now


@dataclass(frozen=True, slots=True)
class Key:
    """One key for an application; `slaves` are those who may fetch it."""

    key_id: str
    key: bytes = field(repr=False)
    slaves: tuple[str, ...]
    synthetic: bool = False  # from `qkdd-kms dev-pair`: no secret
    key_class: KeyClass = KeyClass.ITS
    origin: Origin = UNKNOWN


class KeyBatch(Sequence[Key]):
    """The keys of one draw; a key's id is made when it is asked for."""

    def __init__(self, allocation: Allocation, text: bytes, synthetic: bool, origin: Origin = UNKNOWN) -> None:
        """text: the keys one behind the other."""
        self._allocation, self._text, self._synthetic = allocation, text, synthetic
        self._origin = origin

    def __len__(self) -> int:
        return self._allocation.amount

    @overload
    def __getitem__(self, index: int) -> Key: ...

    @overload
    def __getitem__(self, index: slice) -> list[Key]: ...

    def __getitem__(self, index: int | slice) -> Key | list[Key]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        size = self._allocation.key_bytes
        key = self._text[number * size : (number + 1) * size]
        allocation = self._allocation
        return Key(
            key_id(allocation.id, number), key, allocation.slaves, self._synthetic, allocation.key_class, self._origin
        )

    def __repr__(self) -> str:
        return f"KeyBatch({len(self)} keys of {8 * self._allocation.key_bytes} bits)"


class KeyService:
    """Opens with `open`, then `run_background` keeps chunks in step with the other sites. `peers` by KMS id."""

    def __init__(
        self,
        config: KmsConfig,
        database: Database,
        master: Secret,
        peers: dict[str, PeerKms],
        *,
        clock: Clock,
        meter: Meter,
        audit: AuditLog,
        synthetic: bool = False,
    ) -> None:
        self._synthetic = synthetic
        self.config = config
        self.own = config.kms.id
        self._database, self._sealer = database, Sealer(master, "kms")
        self.zeroised = False
        self._peers, self._clock, self._meter, self._audit = peers, clock, meter, audit
        self._links = {link: name for name, peer in config.peers.items() for link in peer.links}
        self._pairs: dict[tuple[str, str], str] = {}
        for pair in config.pairs:
            self._pairs[pair.master, pair.slave] = pair.peer
            if not pair.one_way:
                self._pairs[pair.slave, pair.master] = pair.peer
        classes = {(pair.master, pair.slave): pair.classes for pair in config.pairs}
        back = {(p.slave, p.master): p.classes for p in config.pairs if not p.one_way}
        self._policy, self._fallback = ClassPolicy(back | classes), Fallback(meter, audit)
        self._hybrid = Hybrid(config.hybrid, self.own, self._now)
        self._wake = asyncio.Event()
        self._stuck: set[bytes] = set()  # reservations that could not be set free: the disk was full
        self._borrowing = {name: asyncio.Lock() for name in peers}
        self._time_base, self._time_start = 0.0, clock.monotonic()

    async def open(self) -> None:
        """Open the store. Reservations that a crash left never left this KMS: they are free for the next request."""
        await self._database.open()
        await self._run(_check_kind, self._synthetic)
        self._time_base, self._time_start = 0.0, self._clock.monotonic()
        self._time_base = await self._run(_service_time, 0.0)
        await self._run(allocations.unclaim_dead)

    async def close(self) -> None:
        for peer in self._peers.values():
            await peer.close()
        await self._database.close()

    async def _run(self, work: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.zeroised:
            raise Zeroised("all key was erased a moment ago")
        return await self._database.run(lambda c: work(c, *args, **kwargs))

    @property
    def database(self) -> Database:
        return self._database

    @property
    def fallback_pairs(self) -> int:
        """Pairs that get `pqc-only` keys now for want of quantum key."""
        return self._fallback.pairs

    def peer_up(self, name: str) -> bool:
        """Whether the other KMS answered when it was last asked."""
        return self._peers[name].up

    @property
    def sealer(self) -> Sealer:
        return self._sealer

    def _now(self) -> float:
        """Seconds this KMS has ever run, in any of its processes: lifetimes do not change when the wall clock is stepped."""
        return self._time_base + self._clock.monotonic() - self._time_start

    # chunks in

    def peer_of_link(self, link: str) -> str:
        """The KMS at the other end of a link. Raises NotEntitled for a link that is not configured."""
        if link not in self._links:
            raise NotEntitled(f"link {link!r} is not in the configuration", link=link)
        return self._links[link]

    async def ingest(
        self, node: str, chunk_id: str, link: str, index: int, material: Secret, about: dict[str, object]
    ) -> None:
        """Store one chunk of a node durably; idempotent by id. Raises ChunkConflict, PoolFull, StorageFull."""
        new = chunks.NewChunk(self.peer_of_link(link), chunk_id, link, index, material, about)
        limit = self.config.limits.pool_bytes
        fresh = await self._database.run(lambda c: chunks.ingest(c, self.own, new, self._sealer, limit))
        if fresh:
            self._meter.add("qkdd_kms_chunks_total", link=link)
            self._audit.write("chunk stored", chunk=chunk_id, link=link, node=node, bytes=len(material))
        self._wake.set()

    async def sync_once(self) -> int:
        """Bring every other KMS in step; returns how many chunks went live.

        Raises what the first failing one raised (PeerKmsDown, StorageFull), after all were tried.
        """
        await self._free_stuck()
        live, failure = 0, None
        for name, peer in self._peers.items():
            try:
                live += await self._sync_with(name, peer)
                await self._give_back(name, peer)
            except QkddError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return live

    async def _sync_with(self, name: str, peer: PeerKms) -> int:
        """Tell one KMS of the chunks that it is not known to hold."""
        live = after = 0
        while rows := await self._run(chunks.waiting, name, after, _BATCH):
            held = await peer.call("chunks", Holds([(chunk_id, size) for _, chunk_id, size in rows]), Held)
            sizes = {chunk_id: size for _, chunk_id, size in rows}
            known = [(i, sizes[i]) for i in held.chunks if i in sizes]
            live += len(await self._run(chunks.confirm, name, known))
            after = rows[-1][0]
        return live

    async def _give_back(self, name: str, peer: PeerKms) -> None:
        """Reservations that no request took again go back to the pool, once the other site has forgotten them."""
        before = self._now() - _ABANDONED
        for abandoned in await self._run(voiding.begin, name, before, _BATCH):
            voided = await peer.call("void", Void(abandoned.id.hex(), list(abandoned.pieces)), Voided)
            size = await self._run(voiding.end, self.own, name, abandoned, voided.reusable)
            self._audit.write("draw abandoned", peer=name, returned=size)
            if size:
                self._meter.add("qkdd_kms_returned_bits_total", 8 * size, peer=name)

    async def _free_stuck(self) -> None:
        for allocation_id in list(self._stuck):
            await self._run(allocations.unclaim, allocation_id)
            self._stuck.discard(allocation_id)

    async def _abandon(self, allocation_id: bytes) -> None:
        """A request failed: what it reserved is free for the next one."""
        self._stuck.add(allocation_id)
        try:
            await asyncio.shield(self._run(allocations.unclaim, allocation_id))
        except QkddError as error:
            _LOG.warning("a reservation is set free later", **log.error_fields(error))
        else:
            self._stuck.discard(allocation_id)

    async def run_background(self) -> None:
        """Synchronise with the other sites and clean up, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sync())
            group.create_task(self._janitor())

    async def _sync(self) -> None:
        down = False
        while True:
            self._wake.clear()
            try:
                await self.sync_once()
                if down:
                    _LOG.info("the other KMS is back")
                down = False
            except QkddError as error:
                if not down:
                    _LOG.warning("chunks wait for the other KMS", **log.error_fields(error))
                down = True
            if down:
                await self._clock.sleep(_SYNC_PERIOD)
                continue
            try:
                async with self._clock.deadline(_SYNC_PERIOD):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _janitor(self) -> None:
        while True:
            await self._clock.sleep(_JANITOR_PERIOD)
            try:
                await self.clean()
            except QkddError as error:
                _LOG.warning("clean-up failed", **log.error_fields(error))

    async def clean(self) -> None:
        """Erase what was fetched and what has expired; remember the service time."""
        limits = self.config.limits
        own = self._now()
        now = await self._run(_service_time, own)
        self._time_base += now - own  # another process of this KMS has run for longer
        await self._run(allocations.unclaim_dead)
        await self._run(self._hybrid.expire)
        _, expired = await self._run(allocations.expire, now, limits.key_lifetime, limits.redelivery_window)
        if expired:
            self._meter.add("qkdd_kms_expired_total", expired)
            self._audit.write("allocations expired", count=expired)
        for name in self._peers:
            for owner, amount in (await self.pool(name)).items():
                self._meter.set("qkdd_kms_pool_bits", amount * 8, peer=name, owner=owner)

    # keys out

    def pair(self, master: str, slave: str) -> str:
        """The KMS whose link pays for keys from `master` to `slave`. Raises NotEntitled when they are no pair."""
        if (master, slave) not in self._pairs:
            raise NotEntitled(f"{master} may not draw keys for {slave}")
        return self._pairs[master, slave]

    def partners(self, sae: str) -> list[str]:
        """Those with whom an application may share keys, in either direction, sorted."""
        return sorted({b for a, b in self._pairs if a == sae} | {a for a, b in self._pairs if b == sae})

    async def pool(self, peer: str) -> dict[str, int]:
        """Owner → bytes that can still be drawn."""
        return await self._database.run(lambda c: chunks.pool_bytes(c, peer))

    async def stored_keys(self, peer: str) -> int:
        """Keys of the default size that a master of this site gets now: what we own, having borrowed if that is nothing.

        Zero while the other KMS does not answer. Raises PeerKmsDown when it goes in this moment.
        """
        if not self._peers[peer].up:
            return 0
        size = self.config.limits.key_size
        amount = (await self.pool(peer)).get(self.own, 0)
        if amount * 8 < size and await self._borrow(peer, self.config.limits.max_key_per_request * size // 8):
            amount = (await self.pool(peer)).get(self.own, 0)
        return min(amount * 8 // size, self.config.limits.max_key_count)

    async def draw(
        self, master: str, slaves: tuple[str, ...], amount: int, key_bytes: int, key_class: KeyClass | None = None
    ) -> KeyBatch:
        """`amount` new keys for `master`; each slave may fetch each of them once.

        key_class: what the application insists on; else the first of its pairs' classes for which there is key.
        The other site has written them down before this returns. Raises NotEntitled, ClassRefused, NotEnoughKey, PeerKmsDown,
        PeerDisagrees, ExchangeRefused, StorageFull, StorageFailed; then no key left, and what was reserved can be drawn again.
        """
        paying = {self.pair(master, slave) for slave in slaves}
        if len(paying) != 1:
            raise NotEntitled("the slaves are served over different links")
        peer = paying.pop()
        choices = self._policy.choices(master, slaves, key_class)
        for choice in choices:
            try:
                batch = await self._draw(peer, Allocation(b"", master, slaves, key_bytes, amount, (), choice))
            except NotEnoughKey:
                if choice is choices[-1]:
                    raise
                continue
            if key_class is None:
                self._fallback.note(
                    peer, master, slaves[0], fallen=choice is KeyClass.PQC_ONLY and choice is not choices[0]
                )
            return batch
        raise AssertionError("a policy without classes")

    async def _draw(self, peer: str, shape: Allocation) -> KeyBatch:
        """shape: an allocation without id and pieces."""
        master, slaves, amount, key_bytes = shape.master, shape.slaves, shape.amount, shape.key_bytes
        if shape.key_class is not KeyClass.ITS and key_bytes > MAX_DERIVED:
            raise RequestRefused("size is above the limit of derived keys", max_key_size=8 * MAX_DERIVED)
        expected = amount * sum(slave in self.config.saes for slave in slaves)
        for _ in range(_ATTEMPTS):
            wanted = replace(shape, id=secrets.token_bytes(12))
            if shape.key_class is not KeyClass.ITS:
                offer, mix = await self._hybrid.offer(peer, self._peers[peer], self._sealer, wanted.id)
                wanted = replace(wanted, offer=offer, mix=mix)
            allocation = await self._run(allocations.reserve, self.own, peer, wanted, expected, self._now())
            if allocation is None:
                if await self._borrow(peer, key_bytes * amount):
                    continue
                raise NotEnoughKey("not enough key in the pool", bits=8 * key_bytes * amount)
            try:
                conflict = await self._announce(peer, allocation)
                if conflict is None:
                    text, origin = await self._run(allocations.deliver, self._sealer, self.own, peer, allocation)
                elif conflict is STALE:
                    self._hybrid.forget(peer)
                    await self._run(allocations.give_up, allocation.id)
                else:
                    self._meter.add("qkdd_kms_conflicts_total")
                    _LOG.warning("the other KMS refuses a range", peer=peer, **conflict.facts)
                    await self._run(allocations.burn, self.own, peer, allocation, conflict)
            except BaseException:  # also a cancelled request
                await self._abandon(allocation.id)
                raise
            if conflict is None:
                first = key_id(allocation.id, 0)
                self._audit.write(
                    "keys drawn",
                    master=master,
                    slave=slaves[0],
                    count=amount,
                    bits=8 * key_bytes,
                    first=first,
                    key_class=shape.key_class,
                )
                await self._audit.settled()
                self._meter.add("qkdd_kms_keys_drawn_total", amount)
                self._meter.add("qkdd_kms_class_keys_total", amount, key_class=shape.key_class)
                return KeyBatch(allocation, text, self._synthetic, origin)
        if conflict is STALE:
            raise ExchangeRefused(f"{peer} opens none of our offers", peer=peer)
        raise NotEnoughKey("not enough key in the pool that both sites agree on", bits=8 * key_bytes * amount)

    async def _announce(self, peer: str, allocation: Allocation) -> Conflict | None:
        message = Announce(
            allocation.id.hex(),
            allocation.master,
            list(allocation.slaves),
            allocation.key_bytes,
            allocation.amount,
            list(allocation.pieces),
            allocation.key_class,
            allocation.offer,
            self._hybrid.confirmation(self._sealer, peer, allocation),
        )
        noted = await self._peers[peer].call("allocations", message, Noted)
        if not noted.configured:
            raise PeerDisagrees(f"{peer} refuses the draw: {noted.conflict}", peer=peer)
        if noted.stale:
            return STALE
        return None if noted.recorded else Conflict(noted.chunk_id, noted.conflict, noted.cursor)

    async def _borrow(self, peer: str, need: int) -> bool:
        """Ask the other site for untouched chunks; one request at a time. False if it gave none."""
        async with self._borrowing[peer]:
            if (await self.pool(peer)).get(self.own, 0) >= need:
                return True  # the request before ours brought enough
            lent = await self._peers[peer].call("ownership", Borrow(max(need, 1)), Lent)
            gained = await self._database.run(lambda c: chunks.take_over(c, self.own, peer, lent.chunks))
            if gained:
                self._audit.write("ownership received", peer=peer, bytes=gained)
            return gained > 0

    async def fetch(self, slave: str, master: str, ids: list[str]) -> list[Key]:
        """The keys with these IDs, all or none. Raises NotEntitled, KeysNotFound."""
        now, window = self._now(), self.config.limits.redelivery_window
        result: list[Fetched] | FetchRefused = await self._run(
            allocations.fetch, self._sealer, self.own, master, slave, ids, now, window
        )
        if isinstance(result, FetchRefused):
            self._meter.add("qkdd_kms_refused_total", reason=result.reason)
            if result.reason == "entitlement":
                raise NotEntitled(f"{slave} is not named for keys of {master} that it asks for")
            raise KeysNotFound("one or more keys specified are not found on KME")
        again = sum(f.again for f in result)
        self._audit.write("keys fetched", master=master, slave=slave, count=len(result), again=again, first=ids[0])
        await self._audit.settled()
        self._meter.add("qkdd_kms_keys_fetched_total", len(result))
        return [Key(f.key_id, f.key, f.slaves, self._synthetic, f.key_class, f.origin) for f in result]

    # what the other KMS asks of us

    async def on_holds(self, peer: str, message: Holds) -> Held:
        return Held(await self._database.run(lambda c: chunks.confirm(c, peer, message.chunks)))

    async def on_announce(self, peer: str, message: Announce) -> Noted:
        slaves, key_class = tuple(message.slaves), message.key_class
        allocation = Allocation(
            bytes.fromhex(message.id),
            message.master,
            slaves,
            message.key_bytes,
            message.amount,
            tuple(message.pieces),
            key_class,
            message.offer,
        )
        if sum(stop - start for _, start, stop in message.pieces) != allocation.quantum_bytes:
            return Noted(False, conflict="the pieces do not add up")
        if (message.offer is None) != (key_class is KeyClass.ITS):
            return Noted(False, conflict="the offer does not go with the class")
        ordered = sorted(message.pieces)
        if any(a[0] == b[0] and b[1] < a[2] for a, b in pairwise(ordered)):
            return Noted(False, conflict="the pieces overlap")
        here = [slave for slave in slaves if slave in self.config.saes]
        if any(self._pairs.get((message.master, slave)) != peer for slave in here):
            return Noted(False, configured=False, conflict="no such pair in this KMS's configuration")
        if not all(self._policy.allows(message.master, slave, key_class) for slave in here):
            return Noted(False, configured=False, conflict=f"the pair may not have {key_class} here")
        if message.master in self.config.saes:
            return Noted(False, configured=False, conflict="the master is an application of this site")
        expected = message.amount * len(here)
        conflict = await self._run(self._hybrid.record, self._sealer, peer, allocation, expected, message.confirmation)
        if conflict is None:
            return Noted(True)
        if conflict is STALE:
            return Noted(False, conflict=conflict.reason, stale=True)
        self._meter.add("qkdd_kms_conflicts_total")
        return Noted(False, conflict=conflict.reason, chunk_id=conflict.chunk_id, cursor=conflict.cursor)

    async def on_revoke(self, peer: str, message: Revoke) -> RevokedThere:
        """Only what is shared with the asking KMS."""
        if message.undrawn_of is not None and self._links.get(message.undrawn_of) != peer:
            raise NotEntitled(f"link {message.undrawn_of!r} does not lead to {peer}")

        def work(connection: sa.Connection) -> RevokedThere:
            found = revoke.draws(connection, ids=message.draws, peer=peer)
            keys = [k for k in message.keys if revoke.peer_of(connection, k) == peer]
            single = sum(revoke.one_key(connection, k, self.config.saes) for k in keys)
            undrawn = revoke.undrawn(connection, message.undrawn_of) if message.undrawn_of is not None else 0
            return RevokedThere(len(found), single, undrawn)

        done = await self._run(work)
        self._audit.write(
            "revoked by the other site", peer=peer, draws=done.draws, keys=done.keys, undrawn=done.undrawn
        )
        await self._audit.settled()
        return done

    async def revoke(
        self,
        *,
        keys: list[str],
        sae: str | None = None,
        link: str | None = None,
        span: tuple[float, float] | None = None,
        undrawn: bool = False,
    ) -> dict[str, object]:
        """What fits is given to nobody any more, here at once; then the other sites are told.

        keys: single IDs; else draws that fit every condition given. span: wall time; undrawn: also key of `link` that was not
        drawn yet. Returns counts (`here`, `there`) and `told`: KMS id → whether it confirmed. Raises StorageFull, StorageFailed.
        """
        shift = self._now() - self._clock.wall()
        times = (span[0] + shift, span[1] + shift) if span is not None else None

        def work(connection: sa.Connection) -> tuple[list[tuple[str, str]], int, int, dict[str, list[str]]]:
            of_peer: dict[str, list[str]] = {}
            single = 0
            for key in keys:
                peer = revoke.peer_of(connection, key)
                single += revoke.one_key(connection, key, self.config.saes)
                for name in [peer] if peer is not None else self._peers:
                    of_peer.setdefault(name, []).append(key)
            found = []
            if not keys:
                found = revoke.draws(connection, sae=sae, link=link, span=times)
            gone = revoke.undrawn(connection, link) if undrawn and link is not None else 0
            return found, single, gone, of_peer

        found, single, gone, of_peer = await self._run(work)
        self._audit.write(
            "revoked",
            draws=len(found),
            keys=single,
            undrawn=gone,
            sae=sae,
            link=link,
            key_ids=keys,
        )
        await self._audit.settled()
        told, there = {}, RevokedThere(0, 0, 0)
        for name, peer_kms in self._peers.items():
            ids = [draw for draw, of in found if of == name]
            undrawn_of = link if undrawn and link is not None and self._links.get(link) == name else None
            if not ids and name not in of_peer and undrawn_of is None:
                continue
            try:
                said = await peer_kms.call("revoke", Revoke(ids, of_peer.get(name, []), undrawn_of), RevokedThere)
                there = RevokedThere(there.draws + said.draws, there.keys + said.keys, there.undrawn + said.undrawn)
                told[name] = True
            except QkddError as error:
                _LOG.warning("the other KMS was not told of a revocation", peer=name, **log.error_fields(error))
                told[name] = False
        here = RevokedThere(len(found), single, gone)
        return {"here": msgspec.structs.asdict(here), "there": msgspec.structs.asdict(there), "told": told}

    async def on_exchange(self, peer: str, _message: Exchange) -> Bundle:
        return await self._run(self._hybrid.bundle, self._sealer, peer)

    async def on_void(self, peer: str, message: Void) -> Voided:
        allocation_id, pieces, now = bytes.fromhex(message.id), tuple(message.pieces), self._now()
        return Voided(await self._run(voiding.forget, peer, allocation_id, pieces, now))

    async def on_borrow(self, peer: str, message: Borrow) -> Lent:
        lent = await self._database.run(lambda c: chunks.grant(c, self.own, peer, message.bytes))
        if lent:
            self._audit.write("ownership granted", peer=peer, chunks=len(lent))
        return Lent(lent)
