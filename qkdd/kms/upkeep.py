"""What the KMS does by itself: keeping chunks in step with the other sites, and cleaning up."""

from __future__ import annotations

import asyncio

from qkdd.core import log
from qkdd.core.errors import QkddError
from qkdd.kms import allocations, chunks, voiding
from qkdd.kms.draws import Draws
from qkdd.kms.errors import PeerKmsDown
from qkdd.kms.plane import Held, Holds, PeerKms, Rest, Void, Voided
from qkdd.kms.site import Site

_LOG = log.get("kms")
_BATCH = 256
_SYNC_PERIOD = 2.0
ABANDONED = 10.0  # seconds after which a reservation that no request takes goes back to the pool
_JANITOR_PERIOD = 10.0


class Upkeep:
    """`run()` for ever; `wake()` when a chunk came."""

    def __init__(self, site: Site, draws: Draws) -> None:
        self._site, self._draws = site, draws
        self._wake = asyncio.Event()

    def wake(self) -> None:
        self._wake.set()

    async def sync_once(self) -> int:
        """Bring every other KMS in step; returns how many chunks went live.

        Raises what the first failing one raised (PeerKmsDown, StorageFull), after all were tried.
        """
        await self._draws.free_stuck()
        await self._draws.forget_old()
        live, failure = 0, None
        for name, peer in self._site.peers.items():
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
        while rows := await self._site.run(chunks.waiting, name, after, _BATCH):
            held = await peer.call("chunks", Holds([(chunk_id, size) for _, chunk_id, size in rows]), Held)
            sizes = {chunk_id: size for _, chunk_id, size in rows}
            known = [(i, sizes[i]) for i in held.chunks if i in sizes]
            live += len(await self._site.run(chunks.confirm, name, known))
            after = rows[-1][0]
        return live

    async def _give_back(self, name: str, peer: PeerKms) -> None:
        """Reservations that no request took again go back to the pool, once the other site has forgotten them."""
        before = self._site.now() - ABANDONED
        for abandoned, kept in await self._site.run(voiding.begin, name, before, _BATCH):
            draw, pieces = abandoned.id.hex(), list(abandoned.pieces)
            if kept:
                voided = await self._give_rest_back(peer, Rest(draw, kept, pieces))
            else:
                voided = await peer.call("void", Void(draw, pieces), Voided)
            size = await self._site.run(voiding.end, self._site.own, name, abandoned, voided.reusable)
            self._site.audit.write("rest of a draw" if kept else "draw abandoned", peer=name, returned=size)
            if kept and not voided.reusable:
                self._site.meter.add("qkdd_kms_lease_unused_keys_total", abandoned.amount)
            if size:
                self._site.meter.add("qkdd_kms_returned_bits_total", 8 * size, peer=name)

    async def _give_rest_back(self, peer: PeerKms, rest: Rest) -> Voided:
        try:
            return await peer.call("rest", rest, Voided)
        except PeerKmsDown as error:
            if error.details.get("status") != 404:
                raise
            return Voided(False)  # the other site's program is older: the rest stays used at both sites

    async def run(self) -> None:
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
                await self._site.clock.sleep(_SYNC_PERIOD)
                continue
            try:
                async with self._site.clock.deadline(_SYNC_PERIOD):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _janitor(self) -> None:
        while True:
            await self._site.clock.sleep(_JANITOR_PERIOD)
            try:
                await self.clean()
                for name, peer in self._site.peers.items():
                    if peer.up:
                        await self._draws.hear_grants(name)
            except QkddError as error:
                _LOG.warning("clean-up failed", **log.error_fields(error))

    async def clean(self) -> None:
        """Erase what was fetched and what has expired; remember the service time."""
        limits = self._site.config.limits
        now = await self._site.remember_time()
        await self._site.run(allocations.unclaim_dead)
        await self._site.run(self._site.hybrid.expire)
        _, expired = await self._site.run(allocations.expire, now, limits.key_lifetime, limits.redelivery_window)
        if expired:
            self._site.meter.add("qkdd_kms_expired_total", expired)
            self._site.audit.write("allocations expired", count=expired)
        for name in self._site.peers:
            for owner, amount in (await self._site.pool(name)).items():
                self._site.meter.set("qkdd_kms_pool_bits", amount * 8, peer=name, owner=owner)
