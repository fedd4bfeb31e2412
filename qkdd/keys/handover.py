"""Hand-over of committed chunks to the node's KMS in the shape of ETSI GS QKD 020 (`POST /kmapi/v1/ext_keys`, sync mode).

The intent is on disk before a chunk is sent; only 400 and 401 prove that nothing was stored, after anything else the same
call is repeated until the KMS acknowledges it. The KMS knows chunks by id, so a repetition stores nothing twice. Other sinks
(`qkdd.keys.sinks`) go through the same states.
"""

from __future__ import annotations

import asyncio
import base64
import io
import ssl
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.core.secret import Secret
from qkdd.keys.config import KeysConfig
from qkdd.keys.errors import HandOverFailed, HandOverRefused, OfferedElsewhere
from qkdd.keys.sinks.contract import Item, Sink, Voiding
from qkdd.keys.sinks.factory import make_sink
from qkdd.keys.spool import BlockRecord, Spool
from qkdd.peer.tls import TlsProfile

_LOG = log.get("keys")
_ANSWER_LIMIT = 1 << 20
_CALL_BYTES = 2 << 20  # of key in one call; the KMS takes bodies of 8 MiB

# ETSI GS QKD 020 names extensions E<PEN>_…; 0 is the reserved private enterprise number
EXTENSION = "E0_qkdd_chunk"

Backoff = Callable[[int], float]


class AckContainer(msgspec.Struct, frozen=True):
    """One entry of the answer to `ext_keys` in synchronous mode."""

    key_id_container: list[dict[str, object]]
    ack_status: str


def tls_profile(config: KeysConfig) -> TlsProfile:
    """How a node speaks to its KMS: post-quantum, and to no one but `kms_id`."""
    return TlsProfile(
        certificate=Path(config.certificate),
        key=Path(config.key),
        trust=Path(config.trust),
        crl=Path(config.crl),
        groups=config.groups,
        identity=config.kms_id,
        name="keys",
    )


class HandOver:
    """Pushes what waits in the spool to the KMS, or to the sink that the configuration names.

    `context` is the TLS context for `tls_profile(config)`; None for another sink.
    """

    def __init__(
        self,
        config: KeysConfig,
        spool: Spool,
        *,
        node_id: str,
        peer_id: str,
        link: str,
        context: ssl.SSLContext | None,
        clock: Clock,
        meter: Meter,
        audit: AuditLog | None = None,
    ) -> None:
        self._config, self._spool = config, spool
        self._node, self._peer, self._link = node_id, peer_id, link
        self._context, self._clock, self._meter, self._audit = context, clock, meter, audit
        self._sink = make_sink(config, clock)
        self._wake = asyncio.Event()
        self._client: aiohttp.ClientSession | None = None
        self.connected = False
        self._looked = False
        self._offered: dict[bytes, float] = {}  # monotonic time of the first offer in this run

    def notify(self) -> None:
        """Something was spooled (the committer's `on_accept`)."""
        self._wake.set()

    async def wait_for_work(self) -> None:
        """Return when something was spooled since the last call."""
        await self._wake.wait()
        self._wake.clear()

    async def close(self) -> None:
        """Drop the connection; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._sink is not None:
            await self._sink.close()

    async def run(self, backoff: Backoff) -> None:
        """Push for ever. `backoff(n)` gives the seconds to wait after the n-th failure in a row (the supervisor's policy).

        Logs once when the KMS goes and once when it is back.
        """
        failures = 0
        try:
            while True:
                self._wake.clear()
                try:
                    while await self.push_once():
                        pass
                except QkddError as error:
                    failures += 1
                    if failures == 1:
                        _LOG.warning("hand-over stopped", kms=self._config.target, **log.error_fields(error))
                    await self._clock.sleep(backoff(failures))
                    continue
                if failures:
                    _LOG.info("hand-over goes on", kms=self._config.target, failures=failures)
                failures = 0
                await self._wake.wait()
        finally:
            await self.close()

    async def push_once(self) -> int:
        """Offer the oldest waiting chunks in one call; returns how many the KMS acknowledged (0: none waits).

        Raises HandOverFailed (maybe stored: they stay offered), HandOverRefused (proven not stored), StorageFull,
        StorageFailed. A failure is counted by its code.
        """
        try:
            return await self._push()
        except QkddError as error:
            self._meter.add("qkdd_keys_hand_over_failures_total", code=error.code)
            raise

    async def _push(self) -> int:
        await self._spool.release()  # what a crash left between acknowledgement and erasure
        await self._void()
        chosen: list[BlockRecord] = []
        size = 0
        most = self._config.chunks_per_call if self._sink is None else 1  # a chunk is hundreds of keys for a sink
        for record in await self._spool.waiting(most, self._config.target):
            if chosen and size + record.bytes > _CALL_BYTES:
                break
            chosen.append(record)
            size += record.bytes
        if not chosen:
            return 0
        before = {record.id for record in chosen if record.target is not None}
        offered = await self._spool.offer([record.id for record in chosen], self._config.target)
        ids = [record.id for record, _ in offered]
        for block_id in ids:
            self._offered.setdefault(block_id, self._clock.monotonic())
        try:
            if self._sink is not None:
                relayed = await self._to_sink(self._sink, offered, before)
            else:
                relayed = await self._to_kms(offered)
        except HandOverRefused:
            for fresh in (False, True):
                await self._spool.refuse([i for i in ids if (i not in before) is fresh], fresh=fresh)
            self._mark(False)
            raise
        except HandOverFailed:
            self._mark(False)
            raise
        finally:
            for _, chunk in offered:
                chunk.wipe()
        done = [record for record, _ in offered if record.chunk_id in relayed]
        await self._spool.acknowledge([record.id for record in done])
        await self._spool.release()
        self._mark(True)
        for record in done:
            self._offered.pop(record.id, None)
            self._meter.add("qkdd_keys_handed_over_total")
            self._meter.observe("qkdd_key_hand_over_seconds", max(0.0, self._clock.wall() - record.created))
            if self._audit is not None:
                self._audit.write("chunk released", chunk=record.chunk_id, kms=self._config.target, bytes=record.bytes)
        if len(done) < len(ids):
            raise HandOverFailed(f"{self._config.target}: acknowledged {len(done)} of {len(ids)} chunks")
        return len(done)

    def _mark(self, connected: bool) -> None:
        self.connected = connected
        self._meter.set("qkdd_kms_up", float(connected))

    async def _void(self) -> None:
        """Void what the KMS has left unacknowledged for too long; also what an earlier run of this node began to void."""
        if not self._looked:
            self._looked = True
            for place, count in (await self._spool.elsewhere(self._config.target)).items():
                error = OfferedElsewhere(f"{count} chunks were offered to {place} and may be stored there")
                _LOG.error("chunks wait for the KMS that they were offered to", **log.error_fields(error))
        sink = self._sink
        if not isinstance(sink, Voiding):
            return
        now = self._clock.monotonic()  # a wall clock that is set voids nothing
        late = [i for i, since in self._offered.items() if sink.void_after and now - since > sink.void_after]
        for record in await self._spool.withdraw(self._config.target, late):
            self._offered.pop(record.id, None)
            given = await sink.void(record.chunk_id, record.bytes)
            await self._spool.voided_there(record.id)
            self._meter.add("qkdd_keys_voided_total")
            _LOG.warning("chunk voided", chunk=record.chunk_id, kms=self._config.target, given_away=given)
            if self._audit is not None:
                self._audit.write("chunk voided", chunk=record.chunk_id, kms=self._config.target, given_away=given)

    async def _to_sink(self, sink: Sink, offered: list[tuple[BlockRecord, Secret]], before: set[bytes]) -> set[str]:
        return await sink.store([Item(r.chunk_id, chunk, self._about(r), r.id in before) for r, chunk in offered])

    async def _to_kms(self, offered: list[tuple[BlockRecord, Secret]]) -> set[str]:
        """Ids that the KMS acknowledged."""
        status, answer = await self._post(self._body(offered))
        if status in (400, 401):
            raise HandOverRefused(f"{self._config.kms_url}: {status} {_problem(answer)}", status=status)
        if status != 200:
            raise HandOverFailed(f"{self._config.kms_url}: {status} {_problem(answer)}", status=status)
        return self._relayed(answer)

    def _about(self, record: BlockRecord) -> dict[str, object]:
        return {
            "link": self._link,
            "index": record.sequence,
            "class": "its",
            "auth": record.details.get("auth"),
            "proof": record.details.get("proof"),
            "epsilon": record.details.get("eps"),
        }

    def _body(self, offered: list[tuple[BlockRecord, Secret]]) -> bytes:
        keys = []
        for record, chunk in offered:
            value = base64.b64encode(chunk.reveal()).decode("ascii")
            keys.append({"key_id": record.chunk_id, "value": value, "extension": {EXTENSION: self._about(record)}})
        return msgspec.json.encode(
            {
                "keys": keys,
                "initiator_sae_id": self._node,
                "target_sae_ids": [self._peer],
                "extension_mandatory": {EXTENSION: {"version": 1}},
            }
        )

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._client is None:
            if self._context is None:
                raise AssertionError("a hand-over to a KMS has a TLS context")
            connector = aiohttp.TCPConnector(ssl=self._context, limit=2)
            self._client = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        url = self._config.kms_url.rstrip("/") + "/kmapi/v1/ext_keys"
        try:
            async with (
                self._clock.deadline(self._config.answer_deadline),
                self._client.post(url, data=io.BytesIO(body), headers={"Content-Type": "application/json"}) as response,
            ):
                return response.status, await response.content.read(_ANSWER_LIMIT)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._mark(False)
            await self.close()  # the next call makes a new connection, with the certificates of that moment
            raise HandOverFailed(f"{url}: {type(error).__name__}: {error}") from None

    def _relayed(self, answer: bytes) -> set[str]:
        try:
            containers = msgspec.json.decode(answer, type=list[AckContainer])
        except msgspec.ValidationError as error:
            raise HandOverFailed(
                f"{self._config.kms_url}: the answer is no list of acknowledgements: {error}"
            ) from None
        except msgspec.DecodeError:
            raise HandOverFailed(f"{self._config.kms_url}: the answer is no JSON") from None
        return {
            str(entry.get("key_id")).lower()
            for container in containers
            if container.ack_status == "relayed"
            for entry in container.key_id_container
        }


def _problem(answer: bytes) -> str:
    """The KMS's own words from an RFC 9457 body; never more than 200 characters of it."""
    try:
        problem = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return ""
    if not isinstance(problem, dict):
        return ""
    return " ".join(str(problem.get(name, "")) for name in ("title", "detail"))[:200].strip()
