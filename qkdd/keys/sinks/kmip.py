"""A KMIP server (OASIS KMIP 1.2 over TLS): Register; after a call that may have happened, first Locate by name.

So that call is repeated without a second copy. Tags and codes: KMIP specification 1.2, section 9.1.3.
"""

from __future__ import annotations

import asyncio
import ssl

from qkdd.core.clock import Clock
from qkdd.core.errors import CredentialError
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.keys.sinks import ttlv
from qkdd.keys.sinks.config import KmipSink
from qkdd.keys.sinks.contract import Item, KeyItem, keys_of

_ATTRIBUTE, _ATTRIBUTE_NAME, _ATTRIBUTE_VALUE = 0x420008, 0x42000A, 0x42000B
_BATCH_COUNT, _BATCH_ITEM = 0x42000D, 0x42000F
_ALGORITHM, _LENGTH = 0x420028, 0x42002A
_KEY_BLOCK, _KEY_FORMAT, _KEY_MATERIAL, _KEY_VALUE = 0x420040, 0x420042, 0x420043, 0x420045
_NAME_TYPE, _NAME_VALUE = 0x420054, 0x420055
_OBJECT_TYPE, _OPERATION = 0x420057, 0x42005C
_VERSION, _MAJOR, _MINOR = 0x420069, 0x42006A, 0x42006B
_REQUEST_HEADER, _REQUEST, _REQUEST_PAYLOAD = 0x420077, 0x420078, 0x420079
_RESPONSE_PAYLOAD = 0x42007C
_RESULT_MESSAGE, _RESULT_REASON, _RESULT_STATUS = 0x42007D, 0x42007E, 0x42007F
_SYMMETRIC_KEY, _TEMPLATE, _UNIQUE_ID = 0x42008F, 0x420091, 0x420094
_REGISTER, _LOCATE = 3, 8
_AES, _RAW, _TEXT_NAME, _KEY_OBJECT = 3, 1, 1, 2
_ENCRYPT_DECRYPT = 0x04 | 0x08
_REFUSALS = (2, 4, 5, 12)  # result reasons: response too large, invalid message, not supported, permission denied
_ANSWER = 1 << 20


class KmipTarget:
    """One server, one connection."""

    def __init__(self, config: KmipSink, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def store(self, items: list[Item]) -> set[str]:
        done = set()
        for item in items:
            for key in keys_of(item, self._config.key_size // 8):
                await self._put(key, item.offered_before)
            done.add(item.chunk_id)
        return done

    async def _put(self, key: KeyItem, perhaps_there: bool) -> None:
        """perhaps_there: an earlier call may have registered it; a server looks long when it has many objects."""
        name = _name(f"{self._config.prefix}/{key.key_id}")
        if perhaps_there:
            found = await self._call(_LOCATE, name)
            if found is not None and found.first(_UNIQUE_ID) is not None:
                return  # an earlier call whose answer was lost
        mask = ttlv.structure(
            _ATTRIBUTE,
            ttlv.text(_ATTRIBUTE_NAME, "Cryptographic Usage Mask"),
            ttlv.integer(_ATTRIBUTE_VALUE, _ENCRYPT_DECRYPT),
        )
        material = bytes(key.key.reveal())
        block = ttlv.structure(
            _KEY_BLOCK,
            ttlv.enumeration(_KEY_FORMAT, _RAW),
            ttlv.structure(_KEY_VALUE, ttlv.octets(_KEY_MATERIAL, material)),
            ttlv.enumeration(_ALGORITHM, _AES),
            ttlv.integer(_LENGTH, 8 * len(material)),
        )
        await self._call(
            _REGISTER,
            ttlv.enumeration(_OBJECT_TYPE, _KEY_OBJECT)
            + ttlv.structure(_TEMPLATE, name, mask)
            + ttlv.structure(_SYMMETRIC_KEY, block),
        )

    async def _call(self, operation: int, payload: bytes) -> ttlv.Node | None:
        """The response's payload. Raises HandOverRefused, HandOverFailed."""
        version = ttlv.structure(_VERSION, ttlv.integer(_MAJOR, 1), ttlv.integer(_MINOR, 2))
        message = ttlv.structure(
            _REQUEST,
            ttlv.structure(_REQUEST_HEADER, version, ttlv.integer(_BATCH_COUNT, 1)),
            ttlv.structure(
                _BATCH_ITEM, ttlv.enumeration(_OPERATION, operation), ttlv.structure(_REQUEST_PAYLOAD, payload)
            ),
        )
        server = self._config.server
        try:
            async with self._clock.deadline(self._config.deadline):
                answer = await self._exchange(message)
            item = ttlv.decode(answer)[0].first(_BATCH_ITEM)
        except (OSError, TimeoutError, EOFError, ttlv.MalformedTtlv, IndexError) as error:
            await self.close()
            raise HandOverFailed(f"{server}: {type(error).__name__}: {error}") from None
        status = item.first(_RESULT_STATUS) if item is not None else None
        if item is None or status is None:
            await self.close()
            raise HandOverFailed(f"{server}: the answer has no result")
        if status.value == 0:
            return item.first(_RESPONSE_PAYLOAD)
        reason, words = item.first(_RESULT_REASON), item.first(_RESULT_MESSAGE)
        text = f"{server}: {str(words.value)[:200] if words is not None else 'refused'}"
        if reason is not None and reason.value in _REFUSALS:
            raise HandOverRefused(text, reason=str(reason.value))
        raise HandOverFailed(text)

    async def _exchange(self, message: bytes) -> bytes:
        if self._streams is None:
            host, _, port = self._config.server.rpartition(":")
            try:
                context = ssl.create_default_context(cafile=self._config.trust)
                context.load_cert_chain(self._config.certificate, self._config.key)
            except (OSError, ssl.SSLError) as error:
                raise CredentialError(f"keys.kmip: certificate, key or trust: {error}") from None
            self._streams = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
        reader, writer = self._streams
        writer.write(message)
        await writer.drain()
        header = await reader.readexactly(8)
        size = ttlv.length_of(header)
        if size > _ANSWER:
            raise ttlv.MalformedTtlv("an answer above 1 MiB")
        return header + await reader.readexactly(size)

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()


def _name(name: str) -> bytes:
    value = ttlv.structure(_ATTRIBUTE_VALUE, ttlv.text(_NAME_VALUE, name), ttlv.enumeration(_NAME_TYPE, _TEXT_NAME))
    return ttlv.structure(_ATTRIBUTE, ttlv.text(_ATTRIBUTE_NAME, "Name"), value)
