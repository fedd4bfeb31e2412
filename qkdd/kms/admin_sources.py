"""What the administration socket shows of sources and key streams."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from qkdd.kms import stream_store
from qkdd.kms.schema import CHUNKS, STREAMS, ChunkState
from qkdd.kms.service import KeyService
from qkdd.kms.source_config import OWN


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """`own`: our nodes. Bits that wait for the other site, and that can be drawn; the largest claim of a chunk among them."""

    source: str
    kind: str
    link: str
    claimed_epsilon: float | None
    waiting_bits: int
    live_bits: int
    largest_epsilon: float | None


class StreamView(msgspec.Struct, frozen=True, kw_only=True):
    """A key stream: who opened it, the other end, and how far each end of this site is."""

    stream: str
    peer: str
    cuts: str
    chunk_bytes: int
    ends: list[str]


async def sources(service: KeyService) -> list[SourceView]:
    def work(connection: sa.Connection) -> dict[tuple[str, str], tuple[int, float | None]]:
        left = sa.func.sum(CHUNKS.c.bytes - CHUNKS.c.cursor)
        rows = connection.execute(
            sa.select(CHUNKS.c.source, CHUNKS.c.state, left, sa.func.max(CHUNKS.c.epsilon))
            .where(CHUNKS.c.state != ChunkState.SPENT)
            .group_by(CHUNKS.c.source, CHUNKS.c.state)
        )
        return {(source, state): (int(size or 0), epsilon) for source, state, size, epsilon in rows}

    found, config = await service.site.run(work), service.config
    links = ", ".join(sorted(link for peer in config.peers.values() for link in peer.links))
    named = {OWN: ("nodes", links, None)} | {n: (s.kind, s.link, s.epsilon) for n, s in config.sources.items()}
    for source in sorted({source for source, _ in found} - named.keys()):
        named[source] = ("not configured", "", None)
    views = []
    for name, (kind, link, claim) in named.items():
        waiting, live = (found.get((name, state), (0, None)) for state in (ChunkState.WAITING, ChunkState.LIVE))
        claims = [epsilon for _, epsilon in (waiting, live) if epsilon is not None]
        views.append(
            SourceView(
                source=name,
                kind=kind,
                link=link,
                claimed_epsilon=claim,
                waiting_bits=8 * waiting[0],
                live_bits=8 * live[0],
                largest_epsilon=max(claims, default=None),
            )
        )
    return views


async def streams(service: KeyService) -> list[StreamView]:
    def work(connection: sa.Connection) -> list[stream_store.Stream]:
        rows = connection.execute(sa.select(STREAMS.c.ksid).order_by(STREAMS.c.created).limit(1000)).scalars().all()
        return [found for ksid in rows if (found := stream_store.find(connection, ksid)) is not None]

    here = service.config.saes
    return [
        StreamView(
            stream=stream.ksid,
            peer=stream.peer,
            cuts=stream.drawing,
            chunk_bytes=stream.qos.Key_chunk_size,
            ends=[f"{e.sae} {e.state}" + (f" at {e.next}" if e.sae in here else "") for e in stream.ends],
        )
        for stream in await service.site.run(work)
    ]
