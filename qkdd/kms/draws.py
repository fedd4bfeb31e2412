"""Draws and fetches: keys out, each once, and nothing that the other site has not written down."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from qkdd.core import log
from qkdd.core.errors import QkddError
from qkdd.core.sqlite_file import SqliteFile
from qkdd.kms import allocations, chunks
from qkdd.kms.allocation import Allocation, Conflict, FetchRefused
from qkdd.kms.batch import Key, KeyBatch
from qkdd.kms.classes import KeyClass
from qkdd.kms.errors import (
    ExchangeRefused,
    KeysNotFound,
    NotEnoughKey,
    NotEntitled,
    OriginShort,
    PeerDisagrees,
    RequestRefused,
)
from qkdd.kms.exchange import MAX_DERIVED
from qkdd.kms.fetches import JointFetches
from qkdd.kms.fetching import Fetch
from qkdd.kms.hybrid import STALE
from qkdd.kms.joint import JointDraws
from qkdd.kms.key_ids import Run, runs
from qkdd.kms.leases import Line
from qkdd.kms.origin import ANY, Only, available
from qkdd.kms.plane import Announce, Borrow, Lent, Noted
from qkdd.kms.receipts import Receipts
from qkdd.kms.site import Site

_LOG = log.get("kms")
_PLANS = 65_536  # that are remembered
_ATTEMPTS = 4  # draws that meet conflicts with a restored store


@dataclass(frozen=True, slots=True)
class _Plan:
    """peer: whose link pays; choices: classes, most wanted first."""

    peer: str
    choices: tuple[KeyClass, ...]
    only: Only


class Draws:
    """For the applications of this site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stuck: set[bytes] = set()  # reservations that could not be set free: the disk was full
        self._borrowing = {name: asyncio.Lock() for name in site.peers}
        self._plans: dict[tuple[str, tuple[str, ...], KeyClass | None], _Plan] = {}
        self._receipts = Receipts(site.audit, site.meter)
        self._fetches = JointFetches(site, self._receipts)
        self._joint = JointDraws(
            site,
            self._receipts,
            announce=self._announce,
            alone=self._draw,
            abandon=self._abandon,
            leasing=isinstance(site.database.place, SqliteFile),
        )
        self.end_leases, self.revoking = self._joint.end_leases, self._joint.revoking
        self._unheard = set(site.peers)  # whose last grant may have been lost: nobody draws from it until we ask again

    async def stored_keys(self, peer: str, only: Only = ANY) -> int:
        """Keys of the default size that a master of this site gets now: what we own, having borrowed if that is nothing.

        Zero while the other KMS does not answer. Raises PeerKmsDown when it goes in this moment.
        """
        if not self._site.peers[peer].up:
            return 0
        size = self._site.config.limits.key_size
        if not only.all:
            fitting = await self._site.run(available, self._site.own, peer, only)
            return min(fitting * 8 // size, self._site.config.limits.max_key_count)
        amount = (await self._site.pool(peer)).get(self._site.own, 0)
        if amount * 8 < size and await self._borrow(peer, self._site.config.limits.max_key_per_request * size // 8):
            amount = (await self._site.pool(peer)).get(self._site.own, 0)
        return min(amount * 8 // size, self._site.config.limits.max_key_count)

    async def draw(
        self,
        master: str,
        slaves: tuple[str, ...],
        amount: int,
        key_bytes: int,
        key_class: KeyClass | None = None,
        *,
        kept: bool = False,
    ) -> KeyBatch:
        """`amount` new keys for `master`; each slave may fetch each of them once. kept: and so may the master.

        key_class: what the application insists on; else the first of its pairs' classes for which there is key.
        The other site has written them down before this returns. Raises NotEntitled, ClassRefused, QuotaSpent, NotEnoughKey,
        PeerKmsDown, PeerDisagrees, ExchangeRefused, StorageFull, StorageFailed; then no key left, and what was reserved can be
        drawn again.
        """
        if not self._site.quotas.limited(master):
            return await self._draw_first(master, slaves, amount, key_bytes, key_class, kept)
        with self._site.quotas.drawing(master, 8 * amount * key_bytes):
            return await self._draw_first(master, slaves, amount, key_bytes, key_class, kept)

    def _plan(self, master: str, slaves: tuple[str, ...], key_class: KeyClass | None) -> _Plan:
        """What the configuration, which stays as long as the process, says about such a draw."""
        plan = self._plans.get((master, slaves, key_class))
        if plan is None:
            paying = {self._site.pair(master, slave) for slave in slaves}
            if len(paying) != 1:
                raise NotEntitled("the slaves are served over different links")
            choices = self._site.policy.choices(master, slaves, key_class)
            only = self._site.origin(master, slaves)
            if only is None:
                raise OriginShort("no source is allowed for all of these pairs")
            plan = _Plan(paying.pop(), choices, only)
            if len(self._plans) < _PLANS:
                self._plans[master, slaves, key_class] = plan
        return plan

    async def _draw_first(
        self,
        master: str,
        slaves: tuple[str, ...],
        amount: int,
        key_bytes: int,
        key_class: KeyClass | None,
        kept: bool,
    ) -> KeyBatch:
        """Of the first class for which there is key."""
        plan = self._plan(master, slaves, key_class)
        peer, choices, fetching = plan.peer, plan.choices, (*slaves, master) if kept else slaves
        for choice in choices:
            try:
                if choice is KeyClass.ITS and plan.only.all and not kept:  # a kept key is given up as a whole draw
                    batch = await self._joint.draw(peer, Line(master, fetching, key_bytes), amount)
                else:
                    shape = Allocation(b"", master, fetching, key_bytes, amount, (), choice)
                    batch = await self._draw(peer, shape, plan.only)
            except NotEnoughKey:
                if choice is choices[-1]:
                    raise
                continue
            if key_class is None:
                self._site.fallback.note(
                    peer, master, slaves[0], fallen=choice is KeyClass.PQC_ONLY and choice is not choices[0]
                )
            return batch
        raise AssertionError("a policy without classes")

    async def _draw(self, peer: str, shape: Allocation, only: Only = ANY) -> KeyBatch:
        """shape: an allocation without id and pieces."""
        slaves, amount, key_bytes = shape.slaves, shape.amount, shape.key_bytes
        if shape.key_class is not KeyClass.ITS and key_bytes > MAX_DERIVED:
            raise RequestRefused("size is above the limit of derived keys", max_key_size=8 * MAX_DERIVED)
        expected = amount * sum(slave in self._site.config.saes for slave in slaves)
        conflict: Conflict | None = None
        for _ in range(_ATTEMPTS):
            wanted = replace(shape, id=secrets.token_bytes(12))
            if shape.key_class is not KeyClass.ITS:
                offer, mix = await self._site.hybrid.offer(peer, self._site.peers[peer], self._site.sealer, wanted.id)
                wanted = replace(wanted, offer=offer, mix=mix)
            allocation = await self._site.run(
                allocations.reserve, self._site.own, peer, wanted, expected, self._site.now(), only
            )
            if allocation is None:
                if await self._borrow(peer, key_bytes * amount, only):
                    continue
                if not only.all:
                    raise OriginShort("not enough key of the allowed sources and epsilon", bits=8 * key_bytes * amount)
                raise NotEnoughKey("not enough key in the pool", bits=8 * key_bytes * amount)
            try:
                conflict = await self._announce(peer, allocation)
                if conflict is None:
                    text, origin = await self._site.run(
                        allocations.deliver, self._site.sealer, self._site.own, peer, allocation
                    )
                elif conflict is STALE:
                    self._site.hybrid.forget(peer)
                    await self._site.run(allocations.give_up, allocation.id)
                else:
                    self._site.meter.add("qkdd_kms_conflicts_total")
                    _LOG.warning("the other KMS refuses a range", peer=peer, **conflict.facts)
                    await self._site.run(allocations.burn, self._site.own, peer, allocation, conflict)
            except BaseException:  # also a cancelled request
                await self._abandon([allocation.id])
                raise
            if conflict is None:
                batch = KeyBatch(allocation, text, self._site.synthetic, origin)
                await self._receipts.drawn(batch)
                return batch
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
            self._site.hybrid.confirmation(self._site.sealer, peer, allocation),
        )
        noted = await self._site.peers[peer].call("allocations", message, Noted)
        if not noted.configured:
            raise PeerDisagrees(f"{peer} refuses the draw: {noted.conflict}", peer=peer)
        if noted.stale:
            return STALE
        return None if noted.recorded else Conflict(noted.chunk_id, noted.conflict, noted.cursor)

    async def _borrow(self, peer: str, need: int, only: Only = ANY) -> bool:
        """Ask the other site for untouched chunks; one request at a time. False if it gave none."""
        async with self._borrowing[peer]:
            if only.all and (await self._site.pool(peer)).get(self._site.own, 0) >= need:
                return True  # the request before ours brought enough
            return await self._take_over(peer, max(need, 1), only) > 0

    async def hear_grants(self, peer: str) -> None:
        """Take what the other site granted in an answer that we did not get, or forgot; asks for nothing more."""
        if peer in self._unheard:
            async with self._borrowing[peer]:
                await self._take_over(peer, 0)

    async def _take_over(self, peer: str, need: int, only: Only = ANY) -> int:
        """Own what the other site grants for `need` bytes and what it granted before; returns the bytes gained."""
        self._unheard.add(peer)
        lent = await self._site.peers[peer].call("ownership", Borrow(need, list(only.sources), only.max_epsilon), Lent)
        gained = await self._site.database.run(lambda c: chunks.take_over(c, self._site.own, peer, lent.chunks))
        self._unheard.discard(peer)
        if gained:
            self._site.audit.write("ownership received", peer=peer, bytes=gained)
        return gained

    async def fetch(self, slave: str, master: str, ids: list[str]) -> Sequence[Key]:
        """The keys with these IDs, all or none. ids: different ones, canonical. Raises NotEntitled, KeysNotFound."""
        return await self.fetch_runs(slave, master, runs(ids))

    async def fetch_runs(self, slave: str, master: str, wanted: list[Run]) -> Sequence[Key]:
        """The same for runs that do not overlap."""
        result = await self._fetches.fetch(Fetch(master, slave, wanted))
        if isinstance(result, FetchRefused):
            self._site.meter.add("qkdd_kms_refused_total", reason=result.reason)
            if result.reason == "entitlement":
                raise NotEntitled(f"{slave} is not named for keys of {master} that it asks for")
            raise KeysNotFound("one or more keys specified are not found on KME")
        batches = result.batches
        return batches[0] if len(batches) == 1 else [key for batch in batches for key in batch]

    async def free_stuck(self) -> None:
        """Set free what a full disk kept reserved."""
        for allocation_id in list(self._stuck):
            await self._site.run(allocations.unclaim, allocation_id)
            self._stuck.discard(allocation_id)

    async def forget_old(self) -> None:
        """Leases that are too old end; chunks that stayed open for fetches are wiped."""
        await self._joint.end_old_leases()
        await self._fetches.wipe()

    async def close(self) -> None:
        """What is under way ends."""
        await self._joint.close()
        await self._fetches.close()

    async def _abandon(self, ids: list[bytes]) -> None:
        """A request failed: what it reserved is free for the next one."""
        self._stuck.update(ids)

        def work(connection: sa.Connection) -> None:
            for allocation_id in ids:
                allocations.unclaim(connection, allocation_id)

        try:
            await asyncio.shield(self._site.run(work))
        except QkddError as error:
            _LOG.warning("a reservation is set free later", **log.error_fields(error))
        else:
            self._stuck.difference_update(ids)
