"""Key streams of ETSI GS QKD 004 between applications of two sites: same chunks at both ends, each given once to each end.

The KMS of the end that opened a stream cuts its keys, each from the pool like any other, for both ends to fetch; it alone
knows which key is which chunk, and the other KMS asks it. So both ends get the same or nothing.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict

import sqlalchemy as sa
from msgspec.structs import replace

from qkdd.core import log
from qkdd.core.errors import InternalError, QkddError
from qkdd.kms import stream_store as store
from qkdd.kms.batch import Key
from qkdd.kms.errors import KeysNotFound, NotEnoughKey, NotEntitled, PeerKmsDown, RequestRefused, TooBusy
from qkdd.kms.service import KeyService
from qkdd.kms.stream_messages import (
    MIME,
    UINT32,
    OpenConnect,
    Opened,
    Qos,
    Status,
    StreamEnd,
    StreamEndNoted,
    StreamKey,
    StreamKeyIs,
    StreamOpen,
    StreamOpened,
    ksid,
    sae_of,
)
from qkdd.kms.stream_store import EndState, Stream

_LOG = log.get("kms")
_AGAIN = 0.05  # seconds between looks for key that is not there yet
_PERIOD = 10.0


class Streams:
    """All streams of this KMS. `caller`: an SAE ID, from a certificate."""

    def __init__(self, service: KeyService) -> None:
        self._service, self._site = service, service.site
        self._limits = service.config.streams
        self._cutting: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._not_before: dict[tuple[str, str], float] = {}  # (stream, application) → when it may have its next chunk

    # OPEN_CONNECT

    async def open(self, caller: str, wanted: OpenConnect) -> Opened:
        """Raises RequestRefused, TooBusy, StorageFull, StorageFailed; everything else is a status."""
        source, destination = sae_of(wanted.source), sae_of(wanted.destination)
        if caller not in (source, destination) or source == destination:
            raise RequestRefused("source and destination shall be the caller and its partner")
        other = destination if caller == source else source
        offered = self.offer(wanted.QoS)
        given = ksid(wanted.Key_stream_ID) if wanted.Key_stream_ID is not None else None
        if given is not None:
            known = await self._site.run(store.find, given)
            if known is not None:
                return await self._join(caller, other, known, wanted.QoS)
        if offered != wanted.QoS:
            return Opened(Status.QOS_NOT_MET, offered)
        try:
            peer = self._site.pair(caller, other)
        except NotEntitled:
            return Opened(Status.NO_QKD_CONNECTION, wanted.QoS)
        if await self._site.run(store.count_open, caller) >= self._limits.per_sae:
            raise TooBusy("the application has too many streams open", per_sae=self._limits.per_sae)
        return await self._create(given or str(uuid.uuid4()), caller, other, peer, wanted.QoS)

    def offer(self, wanted: Qos) -> Qos:
        """What this KMS can do that is nearest to what is wanted; equal to it when it can be met."""
        limits = self._limits
        size = min(max(wanted.Key_chunk_size, 8), limits.max_chunk_bytes)
        highest = min(wanted.Max_bps, limits.max_bps)
        return replace(
            wanted,
            Key_chunk_size=size,
            Max_bps=highest,
            Min_bps=min(wanted.Min_bps, highest or limits.max_bps),
            Timeout=min(wanted.Timeout, int(1000 * limits.max_timeout)),
            TTL=min(max(wanted.TTL, 1), int(limits.max_ttl)),
            Metadata_mimetype=MIME,
        )

    async def _create(self, stream: str, caller: str, other: str, peer: str, qos: Qos) -> Opened:
        now = self._site.now()
        standing = await self._site.run(store.create, stream, peer, self._site.own, qos, (caller, other), now)
        if standing is not None:
            return await self._join(caller, other, standing, qos)
        if other not in self._site.config.saes:
            try:
                message = StreamOpen(stream, caller, other, qos)
                said = await self._site.peers[peer].call("stream-open", message, StreamOpened)
            except PeerKmsDown:
                found = await self._site.run(store.find, stream)
                if found is not None and found.drawing != self._site.own:  # the other end opened it in this moment
                    return Opened(Status.OK, found.qos, stream)
                await self._site.run(store.remove, stream)
                return Opened(Status.NO_QKD_CONNECTION, qos)
            if said.result == "join":
                await self._site.run(store.swap, stream, peer, said.qos)
                return Opened(Status.OK, said.qos, stream)
            if said.result != "known":
                await self._site.run(store.remove, stream)
                return Opened(Status.KSID_IN_USE, qos)
        self._site.audit.write("key stream opened", stream=stream, by=caller, other=other, peer=peer)
        return Opened(Status.PEER_NOT_CONNECTED_YET, qos, stream)

    async def _join(self, caller: str, other: str, stream: Stream, wanted: Qos) -> Opened:
        end = stream.end(caller)
        if end is None or stream.other(caller).sae != other or end.state is not EndState.ABSENT:
            return Opened(Status.KSID_IN_USE, wanted)
        if not wanted.met(stream.qos):
            return Opened(Status.QOS_NOT_MET, stream.qos)
        if other not in self._site.config.saes:
            try:
                said = await self._site.peers[stream.peer].call(
                    "stream-end", StreamEnd(stream.ksid, caller, EndState.OPEN), StreamEndNoted
                )
            except PeerKmsDown:
                return Opened(Status.NO_QKD_CONNECTION, stream.qos)
            if not said.known:  # the other KMS gave it up before
                await self._site.run(store.remove, stream.ksid)
                return Opened(Status.NO_QKD_CONNECTION, stream.qos)
        await self._site.run(store.set_end, stream.ksid, caller, EndState.OPEN, self._site.now())
        self._site.audit.write("key stream joined", stream=stream.ksid, by=caller)
        return Opened(Status.OK, stream.qos, stream.ksid)

    # GET_KEY

    async def get(self, caller: str, stream_id: str, index: int | None) -> tuple[Status, int | None, Key | None]:
        """One chunk, waiting up to the stream's Timeout for it. Raises StorageFull, StorageFailed."""
        stream = await self._mine(caller, stream_id)
        if stream is None:
            return Status.NO_QKD_CONNECTION, None, None
        end = stream.end(caller)
        if end is None:
            raise InternalError("a stream without the caller's end")
        number = end.next if index is None else index
        if number > UINT32:
            return Status.NO_QKD_CONNECTION, None, None
        until = self._site.clock.monotonic() + stream.qos.Timeout / 1000
        while True:
            status = self._pace(stream, caller)
            if status is Status.OK:
                status, key = await self._chunk(stream, caller, number)
                if key is not None:
                    await self._site.run(store.got, stream.ksid, caller, number, self._site.now())
                    if stream.qos.Max_bps:
                        wait = 8 * stream.qos.Key_chunk_size / stream.qos.Max_bps
                        self._not_before[stream.ksid, caller] = self._site.clock.monotonic() + wait
                    return status, number, key
            left = until - self._site.clock.monotonic()
            if left <= 0 or status in (Status.NO_QKD_CONNECTION, Status.KSID_IN_USE):
                return status, number, None
            await self._site.clock.sleep(min(_AGAIN, left))
            again = await self._mine(caller, stream_id)
            if again is None:
                return Status.NO_QKD_CONNECTION, number, None
            stream = again

    async def _mine(self, caller: str, stream_id: str) -> Stream | None:
        """The stream, if the caller has an open end of it."""
        found = await self._site.run(store.find, ksid(stream_id))
        end = found.end(caller) if found is not None else None
        return found if end is not None and end.state is EndState.OPEN else None

    def _pace(self, stream: Stream, caller: str) -> Status:
        """Max_bps holds for each end: what comes too early waits."""
        early = self._not_before.get((stream.ksid, caller), 0.0) > self._site.clock.monotonic()
        return Status.INSUFFICIENT_KEY if early else Status.OK

    async def _chunk(self, stream: Stream, caller: str, index: int) -> tuple[Status, Key | None]:
        try:
            if stream.drawing == self._site.own:
                status, key_id = await self._key_id(stream, index)
            else:
                said = await self._site.peers[stream.peer].call(
                    "stream-key", StreamKey(stream.ksid, index), StreamKeyIs
                )
                status, key_id = Status(said.status), said.key_id
            if status is not Status.OK:
                return status, None
            [key] = await self._service.fetch(caller, stream.initiator, [key_id])
        except PeerKmsDown:
            return Status.TIMEOUT, None
        except (NotEnoughKey, KeysNotFound):  # KeysNotFound: this end had it before, or it was revoked
            return Status.INSUFFICIENT_KEY, None
        return Status.OK, key

    async def _key_id(self, stream: Stream, index: int) -> tuple[Status, str]:
        """At the KMS that cuts the keys. Raises NotEnoughKey, PeerKmsDown."""
        async with self._cutting[stream.ksid, index]:
            try:
                before = self._site.now() - stream.qos.TTL
                known, fresh = await self._site.run(store.key_of, stream.ksid, index, before)
                if known is not None:
                    return (Status.OK, known) if fresh else (Status.INSUFFICIENT_KEY, "")
                if any(end.state is not EndState.OPEN for end in stream.ends):
                    return Status.PEER_NOT_CONNECTED, ""
                a, b = (end.sae for end in stream.ends)
                [key] = await self._service.draw(a, (b,), 1, stream.qos.Key_chunk_size, kept=True)
                return Status.OK, await self._site.run(store.note_key, stream.ksid, index, key.key_id, self._site.now())
            finally:
                self._cutting.pop((stream.ksid, index), None)

    async def pause(self, caller: str, stream_id: str) -> float:
        """Seconds until a pushed stream's next chunk is due."""
        stream = await self._mine(caller, stream_id)
        if stream is None:
            return 0.0
        return 8 * stream.qos.Key_chunk_size / (stream.qos.Max_bps or max(stream.qos.Min_bps, self._limits.push_bps))

    async def over(self, caller: str, stream_id: str) -> bool:
        """Whether one of the two ends has closed: then nothing new comes."""
        stream = await self._mine(caller, stream_id)
        return stream is None or stream.other(caller).state in (EndState.CLOSING, EndState.CLOSED)

    # CLOSE

    async def close(self, caller: str, stream_id: str) -> Status:
        """The other end keeps what was cut before. Raises StorageFull, StorageFailed."""
        stream = await self._mine(caller, stream_id)
        if stream is None:
            return Status.NO_QKD_CONNECTION
        local = stream.other(caller).sae in self._site.config.saes
        state = EndState.CLOSED if local else EndState.CLOSING
        await self._site.run(store.set_end, stream.ksid, caller, state, self._site.now())
        self._not_before.pop((stream.ksid, caller), None)
        self._site.audit.write("key stream closed", stream=stream.ksid, by=caller)
        if not local:
            try:
                await self._tell(stream.ksid, caller, stream.peer)
            except QkddError as error:
                _LOG.warning("the other KMS hears later that a key stream was closed", **log.error_fields(error))
        return Status.OK

    async def _tell(self, stream: str, sae: str, peer: str) -> None:
        message = StreamEnd(stream, sae, EndState.CLOSED)
        said = await self._site.peers[peer].call("stream-end", message, StreamEndNoted)
        if said.known:
            await self._site.run(store.set_end, stream, sae, EndState.CLOSED, self._site.now())
        else:  # both ends are closed, and the other KMS has forgotten it
            await self._site.run(store.remove, stream)

    async def run(self) -> None:
        """Tell of closed ends, close idle ones, let old keys go: for ever."""
        while True:
            await self._site.clock.sleep(_PERIOD)
            try:
                await self.clean()
            except QkddError as error:
                _LOG.warning("key streams are cleaned up later", **log.error_fields(error))

    async def clean(self) -> None:
        here = list(self._site.config.saes)
        await self._site.run(store.expire, self._site.now(), self._limits.idle, here)
        for stream, sae, peer in await self._site.run(store.closing):
            await self._tell(stream, sae, peer)

    async def count(self) -> int:
        """Open ends of this site's applications."""

        def work(connection: sa.Connection) -> int:
            return sum(store.count_open(connection, sae) for sae in self._site.config.saes)

        return await self._site.run(work)

    # what the other KMS says

    async def on_open(self, peer: str, message: StreamOpen) -> StreamOpened:
        name = ksid(message.ksid)
        if (
            message.other not in self._site.config.saes
            or self._site.pairs.get((message.initiator, message.other)) != peer
        ):
            return StreamOpened("taken", message.qos)
        saes = (message.initiator, message.other)
        known = await self._site.run(store.create, name, peer, peer, message.qos, saes, self._site.now())
        if known is None:
            return StreamOpened("known", message.qos)
        if known.peer != peer or {end.sae for end in known.ends} != {message.initiator, message.other}:
            return StreamOpened("taken", message.qos)
        if known.drawing == peer:
            return StreamOpened("known", known.qos)  # said twice
        if known.ends[1].state is not EndState.ABSENT:
            return StreamOpened("taken", message.qos)
        if self._site.own < peer:
            await self._site.run(store.set_end, name, message.initiator, EndState.OPEN, self._site.now())
            return StreamOpened("join", known.qos)
        await self._site.run(store.swap, name, peer, message.qos)
        return StreamOpened("known", message.qos)

    async def on_end(self, peer: str, message: StreamEnd) -> StreamEndNoted:
        known = await self._site.run(store.find, ksid(message.ksid))
        if (
            known is None
            or known.peer != peer
            or message.sae in self._site.config.saes
            or known.end(message.sae) is None
        ):
            return StreamEndNoted(False)
        state = EndState.CLOSED if message.state == EndState.CLOSED else EndState.OPEN
        await self._site.run(store.set_end, known.ksid, message.sae, state, self._site.now())
        return StreamEndNoted(True)

    async def on_key(self, peer: str, message: StreamKey) -> StreamKeyIs:
        known = await self._site.run(store.find, ksid(message.ksid))
        if known is None or known.peer != peer or known.drawing != self._site.own:
            return StreamKeyIs(Status.NO_QKD_CONNECTION)
        try:
            status, key_id = await self._key_id(known, message.index)
        except NotEnoughKey:
            status, key_id = Status.INSUFFICIENT_KEY, ""
        return StreamKeyIs(status, key_id)
