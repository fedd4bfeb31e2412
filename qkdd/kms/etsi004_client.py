"""ETSI GS QKD 004 as a client: `[sources.NAME.etsi004]`, over the JSON binding of docs/rooms/etsi004.md.

Both sites read one stream of the other maker's KMSs: who pulls opens it and asks for chunk after chunk, the other joins it by its
Key_stream_ID and asks for the same index.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from qkdd.core.clock import Clock
from qkdd.core.secret import Secret
from qkdd.kms.classes import KeyClass
from qkdd.kms.etsi004 import BASE
from qkdd.kms.etsi014_codec import CLASS_EXTENSION, INSECURE_EXTENSION
from qkdd.kms.foreign import ForeignKms, Pull, SourceDown, SourceKeyRefused
from qkdd.kms.source_config import Etsi004Source
from qkdd.kms.stream_messages import Qos, Status, ksid

_ALONE = 10
_NOT_NOW = (Status.INSUFFICIENT_KEY, Status.PEER_NOT_CONNECTED, Status.TIMEOUT)


class Etsi004Client:
    """Implements `qkdd.kms.foreign.Puller`. A stream that the other KMS knows no more is opened anew."""

    def __init__(self, name: str, config: Etsi004Source, claim: float | None, clock: Clock) -> None:
        self._name, self._config, self._claim = name, config, claim
        self._kms = ForeignKms(f"source {name}", config, config.url, config.deadline, clock)
        self._qos = Qos(
            Key_chunk_size=config.chunk_bytes,
            Max_bps=config.max_bps,
            Timeout=int(1000 * config.timeout),
            TTL=int(config.ttl),
        )
        self._stream: str | None = None
        self._joined: set[str] = set()
        self._alone = 0  # answers in a row that the stream has no other end

    async def pull(self) -> Pull | None:
        """The stream's next chunk; a stream that is gone, or whose other end is, is replaced next time."""
        stream = await self.join()
        status, answer = await self._call("get_key", {"Key_stream_ID": stream})
        self._alone = self._alone + 1 if status == Status.PEER_NOT_CONNECTED else 0
        if status == Status.NO_QKD_CONNECTION or self._alone > _ALONE:
            self._stream, self._alone = None, 0
            return None
        if status in _NOT_NOW:
            return None
        if status != Status.OK:
            raise SourceDown(f"{self._name}: GET_KEY: status {status}", status=status)
        index = answer.get("index")
        if not isinstance(index, int):
            raise SourceKeyRefused(f"{self._name}: a chunk without an index")
        material, claim = self._key(answer)
        return Pull([stream, str(index)], material, claim)

    async def join(self) -> str:
        """The id of the stream that this end pulls from; the other site has to join it before it gives key."""
        if self._stream is None:
            self._stream = await self._open(None)
        return self._stream

    async def joined(self, stream: str) -> None:
        """The other site pulls from this stream: be its other end. Raises SourceDown."""
        if stream not in self._joined:
            await self._open(stream)
            self._joined.add(stream)

    async def fetch(self, refs: list[str]) -> Secret | None:
        """The chunk of this index."""
        try:
            stream, index = ksid(refs[0]), int(refs[1])
        except (ValueError, IndexError):
            raise SourceKeyRefused(f"{self._name}: the other site names no stream and index") from None
        await self.joined(stream)
        status, answer = await self._call("get_key", {"Key_stream_ID": stream, "index": index})
        if status != Status.OK:
            if status == Status.NO_QKD_CONNECTION:
                self._joined.discard(stream)
            return None
        if answer.get("index") != index:
            raise SourceKeyRefused(f"{self._name}: asked for chunk {index}, got another")
        return self._key(answer)[0]

    async def close(self) -> None:
        """The streams stay open for the next start of this KMS; the other one closes what is idle."""
        await self._kms.close()

    async def _open(self, stream: str | None) -> str:
        config, qos = self._config, self._qos
        ends: dict[str, Any] = {"source": config.source, "destination": config.destination}
        for _ in range(2):
            body = {**ends, "QoS": msgspec.structs.asdict(qos), **({"Key_stream_ID": stream} if stream else {})}
            status, answer = await self._call("open_connect", body)
            if status in (Status.OK, Status.PEER_NOT_CONNECTED_YET):
                try:
                    return ksid(str(answer.get("Key_stream_ID")))
                except ValueError:
                    raise SourceDown(f"{self._name}: OPEN_CONNECT gave no Key_stream_ID") from None
            if status == Status.KSID_IN_USE and stream is not None:
                return stream  # we joined it before we were started again
            if status != Status.QOS_NOT_MET:
                break
            try:
                qos = msgspec.convert(answer.get("QoS"), Qos)
            except msgspec.ValidationError as error:
                raise SourceDown(f"{self._name}: a counter-proposal that cannot be read: {error}") from None
            if not 8 <= qos.Key_chunk_size <= self._config.chunk_bytes:
                break
        raise SourceDown(f"{self._name}: OPEN_CONNECT: status {status}", status=status)

    async def _call(self, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        code, answer = await self._kms.call(f"{BASE}/{name}", body)
        status = answer.get("status")
        if code != 200 or not isinstance(status, int) or isinstance(status, bool):
            raise SourceDown(f"{self._name}: {name}: HTTP {code} {str(answer.get('message', ''))[:200]}", status=code)
        return status, answer

    def _key(self, answer: dict[str, Any]) -> tuple[Secret, float | None]:
        try:
            material = Secret(base64.b64decode(str(answer.get("Key_buffer")), validate=True))
        except (ValueError, binascii.Error):
            raise SourceKeyRefused(f"{self._name}: a chunk that is no base64") from None
        said = answer.get("extension")
        extension = said if isinstance(said, dict) else {}
        if not 8 <= len(material) <= self._config.chunk_bytes:
            raise SourceKeyRefused(f"{self._name}: a chunk of {len(material)} bytes")
        if INSECURE_EXTENSION in extension or extension.get(CLASS_EXTENSION, KeyClass.ITS) != KeyClass.ITS:
            raise SourceKeyRefused(f"{self._name}: gives keys that are synthetic or have a computational share")
        claim = extension.get("qkdd_epsilon")
        return material, claim if isinstance(claim, float) and 0 <= claim <= 1 else self._claim
