"""The KMS itself, without HTTP: chunks in, keys out, each key once, nothing that the other site does not hold.

One object for its users; the work is done in `draws`, `upkeep`, `answers` and `revocation`, over one `Site`.
"""

from __future__ import annotations

import sqlalchemy as sa

from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.database import Database
from qkdd.core.etsi020 import AckStatus
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.kms import allocations, chunks, intake
from qkdd.kms.answers import Answers
from qkdd.kms.batch import Key, KeyBatch
from qkdd.kms.config import KmsConfig
from qkdd.kms.draws import Draws
from qkdd.kms.errors import NotEntitled
from qkdd.kms.plane import PeerKms
from qkdd.kms.revocation import Revocations
from qkdd.kms.site import Site
from qkdd.kms.upkeep import Upkeep

__all__ = ["Key", "KeyBatch", "KeyService"]


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
        self.site = site = Site(
            config, database, master, peers, clock=clock, meter=meter, audit=audit, synthetic=synthetic
        )
        self.config, self.own = config, site.own
        self._draws = draws = Draws(site)
        self._upkeep = upkeep = Upkeep(site, draws)
        answers, revocations = Answers(site), Revocations(site, draws.revoking)
        self.pool, self.pair = site.pool, site.pair
        self.draw, self.stored_keys = draws.draw, draws.stored_keys
        self.fetch, self.fetch_runs = draws.fetch, draws.fetch_runs
        self.sync_once, self.clean, self.run_background = upkeep.sync_once, upkeep.clean, upkeep.run
        self.revoke, self.on_revoke = revocations.revoke, revocations.on_revoke
        self.on_holds, self.on_announce, self.on_borrow = answers.on_holds, answers.on_announce, answers.on_borrow
        self.on_void, self.on_rest, self.on_exchange = answers.on_void, answers.on_rest, answers.on_exchange

    async def open(self) -> None:
        """Open the store. Reservations that a crash left never left this KMS: they are free for the next request."""
        await self.site.open()
        await self.site.run(allocations.unclaim_dead)
        await self.site.run(allocations.end_dead_leases)

    async def close(self) -> None:
        await self._draws.close()
        await self.site.close()

    @property
    def zeroised(self) -> bool:
        """Whether all key is being erased: then nothing is given out any more."""
        return self.site.zeroised

    @zeroised.setter
    def zeroised(self, value: bool) -> None:
        self.site.zeroised = value

    @property
    def database(self) -> Database:
        return self.site.database

    @property
    def sealer(self) -> Sealer:
        return self.site.sealer

    @property
    def fallback_pairs(self) -> int:
        """Pairs that get `pqc-only` keys now for want of quantum key."""
        return self.site.fallback.pairs

    def peer_up(self, name: str) -> bool:
        """Whether the other KMS answered when it was last asked."""
        return self.site.peers[name].up

    def peer_of_link(self, link: str) -> str:
        """The KMS at the other end of a link. Raises NotEntitled for a link that is not configured."""
        if link not in self.site.links:
            raise NotEntitled(f"link {link!r} is not in the configuration", link=link)
        return self.site.links[link]

    async def ingest(
        self, node: str, chunk_id: str, link: str, index: int, material: Secret, about: dict[str, object]
    ) -> None:
        """Store one chunk of a node durably; idempotent by id. Raises ChunkConflict, PoolFull, StorageFull."""
        new = chunks.NewChunk(self.peer_of_link(link), chunk_id, link, index, material, about)
        limit = self.site.config.limits.pool_bytes
        fresh = await self.site.database.run(lambda c: chunks.ingest(c, self.site.own, new, self.site.sealer, limit))
        if fresh:
            self.site.meter.add("qkdd_kms_chunks_total", link=link)
            self.site.audit.write("chunk stored", chunk=chunk_id, link=link, node=node, bytes=len(material))
        self._upkeep.wake()

    async def void_chunks(self, source: str, link: str, ids: list[str] | None) -> dict[str, AckStatus]:
        """Chunks of a source, or all that are not drawn (None): what became of each. Raises StorageFull, StorageFailed."""
        peer = self.peer_of_link(link)

        def work(connection: sa.Connection) -> dict[str, AckStatus]:
            wanted = ids if ids is not None else intake.not_drawn(connection, source)
            return {chunk_id: intake.void_one(connection, source, peer, link, chunk_id) for chunk_id in wanted}

        done = await self.site.run(work)
        voided = sum(status is AckStatus.VOIDED for status in done.values())
        self.site.audit.write("chunks voided", source=source, asked=len(done), voided=voided)
        await self.site.audit.settled()
        return done

    def partners(self, sae: str) -> list[str]:
        """Those with whom an application may share keys, in either direction, sorted."""
        return sorted({b for a, b in self.site.pairs if a == sae} | {a for a, b in self.site.pairs if b == sae})
