"""What the other KMSs ask of this one (POST /kms/v1/NAME on the KMS plane)."""

from __future__ import annotations

from itertools import pairwise

from qkdd.kms import chunks, voiding
from qkdd.kms.allocation import Allocation
from qkdd.kms.classes import KeyClass
from qkdd.kms.exchange import Bundle
from qkdd.kms.hybrid import STALE
from qkdd.kms.origin import Only, fits
from qkdd.kms.plane import Announce, Borrow, Exchange, Held, Holds, Lent, Noted, Rest, Void, Voided
from qkdd.kms.site import Site


class Answers:
    """`peer`: the asking KMS, from its certificate."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def on_holds(self, peer: str, message: Holds) -> Held:
        return Held(await self._site.database.run(lambda c: chunks.confirm(c, peer, message.chunks)))

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
        here = [slave for slave in slaves if slave in self._site.config.saes]
        if any(self._site.pairs.get((message.master, slave)) != peer for slave in here):
            return Noted(False, configured=False, conflict="no such pair in this KMS's configuration")
        if not all(self._site.policy.allows(message.master, slave, key_class) for slave in here):
            return Noted(False, configured=False, conflict=f"the pair may not have {key_class} here")
        if message.master in self._site.config.saes:
            return Noted(False, configured=False, conflict="the master is an application of this site")
        only = self._site.origin(message.master, here)
        if only is None or not (only.all or await self._site.run(fits, allocation.pieces, only)):
            return Noted(False, configured=False, conflict="the pair may not have key of this origin here")
        expected = message.amount * len(here)
        conflict = await self._site.run(
            self._site.hybrid.record, self._site.sealer, peer, allocation, expected, message.confirmation
        )
        if conflict is None:
            return Noted(True)
        if conflict is STALE:
            return Noted(False, conflict=conflict.reason, stale=True)
        self._site.meter.add("qkdd_kms_conflicts_total")
        return Noted(False, conflict=conflict.reason, chunk_id=conflict.chunk_id, cursor=conflict.cursor)

    async def on_exchange(self, peer: str, _message: Exchange) -> Bundle:
        return await self._site.run(self._site.hybrid.bundle, self._site.sealer, peer)

    async def on_void(self, peer: str, message: Void) -> Voided:
        allocation_id, pieces, now = bytes.fromhex(message.id), tuple(message.pieces), self._site.now()
        return Voided(await self._site.run(voiding.forget, peer, allocation_id, pieces, now))

    async def on_rest(self, peer: str, message: Rest) -> Voided:
        draw, pieces, now = bytes.fromhex(message.id), tuple(message.pieces), self._site.now()
        window = self._site.config.limits.redelivery_window
        return Voided(await self._site.run(voiding.shorten, peer, draw, message.kept, pieces, now, window))

    async def on_borrow(self, peer: str, message: Borrow) -> Lent:
        fitting = Only(tuple(message.sources), message.max_epsilon).conditions()
        lent = await self._site.database.run(lambda c: chunks.grant(c, self._site.own, peer, message.bytes, fitting))
        if lent:
            self._site.audit.write("ownership granted", peer=peer, chunks=len(lent))
        return Lent(lent)
