"""Key that both sites pull from another maker's KMSs: the site that pulled new key tells the other by what it finds the same.

A pulled chunk is stored, waiting, before the other site hears of it, and live once that site has stored it too. What the other
site's KMS does not know after `not_found_patience` is given up here: nobody can have drawn from it.
"""

from __future__ import annotations

import asyncio
import json
import uuid

import sqlalchemy as sa

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import InternalError, QkddError
from qkdd.core.secret import Secret
from qkdd.kms import chunks, intake
from qkdd.kms.errors import ChunkVoided, NotEntitled, RequestRefused
from qkdd.kms.etsi004_client import Etsi004Client
from qkdd.kms.etsi014_client import Etsi014Client
from qkdd.kms.foreign import Joining, Pull, Puller, SourceKeyRefused
from qkdd.kms.plane import Gotten, Pulled, PulledChunk
from qkdd.kms.schema import CHUNKS, ChunkState
from qkdd.kms.service import KeyService
from qkdd.kms.source_config import SourceConfig

_BATCH = 8
_LOG = log.get("kms")
_NAMESPACE = uuid.UUID("4f2b6f0e-5f6f-4c1e-9a4e-0d6b1a5c7e20")


def make_puller(name: str, source: SourceConfig, clock: Clock) -> Puller:
    """The client of a pulled source."""
    if source.etsi014 is not None:
        return Etsi014Client(name, source.etsi014, source.epsilon, clock)
    if source.etsi004 is not None:
        return Etsi004Client(name, source.etsi004, source.epsilon, clock)
    raise InternalError(f"source {name} is not pulled")


class PulledSource:
    """One source: `await run()` for ever; `on_pulled` when the other site pulled."""

    def __init__(
        self, name: str, source: SourceConfig, service: KeyService, puller: Puller, clock: Clock, meter: Meter
    ) -> None:
        settings = source.etsi014 or source.etsi004
        if settings is None:
            raise InternalError(f"source {name} is not pulled")
        self.name, self._source, self._settings = name, source, settings
        self._service, self._puller, self._clock, self._meter = service, puller, clock, meter
        self._peer = service.peer_of_link(source.link)
        self._missing: dict[str, float] = {}  # chunk id → when the other site first said that it is not there
        self._one, self._looking = asyncio.Lock(), asyncio.Lock()
        self._down = False
        self._told = ""  # what the other site has joined

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self.look()
                    if self._down:
                        _LOG.info("the source gives key again", source=self.name)
                    self._down = False
                except QkddError as error:
                    if not self._down:
                        _LOG.warning("no key from the source", source=self.name, **log.error_fields(error))
                    self._down = True
                await self._clock.sleep(self._settings.period)
        finally:
            await self._puller.close()

    async def look(self) -> int:
        """Tell the other site of what it may lack, then pull up to the level; returns how many chunks went live.

        Raises SourceDown, SourceKeyRefused, PeerKmsDown, PoolFull, StorageFull, StorageFailed.
        """
        async with self._looking:
            return await self._look()

    async def _look(self) -> int:
        live = await self._tell()
        while await self._service.site.run(self._ready) < self._settings.level:
            await self._join()
            pulled = await self._puller.pull()
            if pulled is None:
                break
            await self._store(pulled)
            fresh = await self._tell()
            live += fresh
            if not fresh:
                break  # the other site cannot follow now
        return live

    async def _join(self) -> None:
        if not isinstance(self._puller, Joining):
            return
        stream = await self._puller.join()
        if stream != self._told:
            message = Pulled(self.name, self._source.link, [], stream)
            await self._service.site.peers[self._peer].call("pulled", message, Gotten)
            self._told = stream

    async def _store(self, pulled: Pull) -> None:
        chunk_id = str(uuid.uuid5(_NAMESPACE, "|".join((self.name, *pulled.refs))))
        owned = intake.index_of(chunk_id) & ~1 | (self._service.own > self._peer)  # so that this site draws from it
        about: dict[str, object] = {
            "class": "its",
            "auth": None,
            "proof": None,
            "epsilon": pulled.epsilon,
            "source": self.name,
            "pull": pulled.refs,
        }
        await self._keep(chunk_id, owned, pulled.material, about)

    async def _keep(self, chunk_id: str, index: int, material: Secret, about: dict[str, object]) -> None:
        try:
            await self._service.ingest(self.name, chunk_id, self._source.link, index, material, about)
        finally:
            material.wipe()
        self._meter.add("qkdd_kms_source_keys_total", source=self.name, result="stored")

    def _ready(self, connection: sa.Connection) -> int:
        """Bytes of this source that this site can draw, or could if the other site had them."""
        own = (CHUNKS.c.source == self.name, CHUNKS.c.owner == self._service.own, CHUNKS.c.state != ChunkState.SPENT)
        query = sa.select(sa.func.coalesce(sa.func.sum(CHUNKS.c.bytes - CHUNKS.c.cursor), 0)).where(*own)
        return int(connection.execute(query).scalar_one())

    def _waiting(self, connection: sa.Connection) -> list[PulledChunk]:
        rows = connection.execute(
            sa.select(CHUNKS.c.chunk_id, CHUNKS.c.idx, CHUNKS.c.bytes, CHUNKS.c.about)
            .where(
                CHUNKS.c.source == self.name, CHUNKS.c.state == ChunkState.WAITING, CHUNKS.c.owner == self._service.own
            )
            .order_by(CHUNKS.c.row)
            .limit(_BATCH)
        )
        found = []
        for chunk_id, index, size, about in rows:
            facts = json.loads(about)
            if "pull" in facts:
                found.append(PulledChunk(chunk_id, index, size, facts["pull"], facts.get("epsilon")))
        return found

    async def _tell(self) -> int:
        waiting = await self._service.site.run(self._waiting)
        if not waiting:
            return 0
        message = Pulled(self.name, self._source.link, waiting)
        said = await self._service.site.peers[self._peer].call("pulled", message, Gotten)
        sizes = {chunk.id: chunk.bytes for chunk in waiting}
        held = [(chunk_id, sizes[chunk_id]) for chunk_id in said.held if chunk_id in sizes]
        live = await self._service.site.run(chunks.confirm, self._peer, held)
        for chunk_id in live:
            self._missing.pop(chunk_id, None)
        await self._give_up([chunk_id for chunk_id in said.missing if chunk_id in sizes])
        return len(live)

    async def _give_up(self, missing: list[str]) -> None:
        now = self._clock.monotonic()
        for chunk_id in missing:
            self._missing.setdefault(chunk_id, now)
        late = [i for i in missing if now - self._missing[i] >= self._settings.not_found_patience]
        if not late:
            return
        await self._service.void_chunks(self.name, self._source.link, late)
        for chunk_id in late:
            del self._missing[chunk_id]
            self._meter.add("qkdd_kms_source_keys_total", source=self.name, result="gone")
        _LOG.warning("pulled key that the other site cannot get is given up", source=self.name, chunks=len(late))

    async def on_pulled(self, peer: str, message: Pulled) -> Gotten:
        """The other site pulled; get the same here. One call at a time, so that nothing is asked for twice at once."""
        if peer != self._peer or message.link != self._source.link:
            raise NotEntitled(f"source {self.name} is not of link {message.link} with {peer}")
        held: list[str] = []
        missing: list[str] = []
        async with self._one:
            if message.join is not None and isinstance(self._puller, Joining):
                await self._puller.joined(message.join)
            for chunk in message.chunks:
                done = await self._get(chunk)
                if done is not None:
                    (held if done else missing).append(chunk.id)
        sizes = [(chunk.id, chunk.bytes) for chunk in message.chunks if chunk.id in held]
        await self._service.site.run(chunks.confirm, peer, sizes)  # the other site holds what it names
        return Gotten(held, missing)

    async def _get(self, chunk: PulledChunk) -> bool | None:
        """Whether it is here; None when nobody can say now."""
        known = sa.select(CHUNKS.c.bytes, CHUNKS.c.source).where(CHUNKS.c.chunk_id == chunk.id)
        row = await self._service.site.run(lambda c: c.execute(known).one_or_none())
        if row is not None:
            return bool(row.source == self.name and row.bytes == chunk.bytes)
        about: dict[str, object] = {"class": "its", "epsilon": chunk.epsilon, "source": self.name}
        try:
            material = await self._puller.fetch(chunk.refs)
            if material is None:
                return False
            if len(material) != chunk.bytes:
                raise SourceKeyRefused(f"{self.name}: key of another size than at the other site")
            await self._keep(chunk.id, chunk.index, material, about)
        except (SourceKeyRefused, ChunkVoided) as error:
            _LOG.error("pulled key refused", source=self.name, **log.error_fields(error))
            self._meter.add("qkdd_kms_source_keys_total", source=self.name, result="refused")
            return False
        except QkddError as error:
            _LOG.warning("pulled key waits", source=self.name, **log.error_fields(error))
            return None
        return True


class PulledSources:
    """All of them, by name, for the KMS plane."""

    def __init__(self, sources: dict[str, PulledSource]) -> None:
        self._sources = sources

    async def on_pulled(self, peer: str, message: Pulled) -> Gotten:
        source = self._sources.get(message.source)
        if source is None:
            raise RequestRefused(f"there is no pulled source {message.source!r} here", source=message.source)
        return await source.on_pulled(peer, message)
