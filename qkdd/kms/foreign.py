"""Calling another maker's key management system: HTTPS with our certificate, bounded answers, errors of our own."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import aiohttp
import msgspec

from qkdd.core.clock import Clock
from qkdd.core.errors import Kind
from qkdd.core.secret import Secret
from qkdd.core.units import Seconds
from qkdd.kms.errors import KmsError
from qkdd.kms.listener_config import ClientTls
from qkdd.peer.tls import client_context

_ANSWER = 16 << 20


class SourceDown(KmsError):
    code = "QKD-KMS-SOURCE"
    kind = Kind.TRANSIENT
    meaning = "Another maker's key management system cannot be reached, has no key or refuses; its key is not taken in."
    default_remedy = (
        "The message has its own words. Check url, identity and certificates of the source, and its SAE IDs."
    )


class SourceKeyRefused(KmsError):
    code = "QKD-KMS-SOURCE-KEY"
    kind = Kind.PERMANENT
    meaning = (
        "Another maker's key management system gave something that is no key of a quantum link; it was not taken in."
    )
    default_remedy = "The message says what is wrong: a key of another size, a synthetic one, or one of another class."


@dataclass(frozen=True, slots=True)
class Pull:
    """New key. refs: by what the other site's KMS is asked for the same; claim: what is claimed for it."""

    refs: list[str]
    material: Secret
    epsilon: float | None


class Puller(Protocol):
    """One site's end of a source."""

    async def pull(self) -> Pull | None:
        """New key, or None when there is none now. Raises SourceDown, SourceKeyRefused."""

    async def fetch(self, refs: list[str]) -> Secret | None:
        """The key that the other site pulled; None when it is not there. Raises SourceDown, SourceKeyRefused."""

    async def close(self) -> None:
        """Idempotent."""


@runtime_checkable
class Joining(Protocol):
    """A source that has to be opened at both ends before it gives key."""

    async def join(self) -> str:
        """What the other site has to join, opened here. Raises SourceDown."""

    async def joined(self, stream: str) -> None:
        """The other site opened this: be its other end. Idempotent. Raises SourceDown."""


class ForeignKms:
    """JSON over HTTPS."""

    def __init__(self, name: str, tls: ClientTls, url: str, deadline: Seconds, clock: Clock) -> None:
        self._name, self._tls, self._url, self._deadline, self._clock = name, tls, url.rstrip("/"), deadline, clock
        self._client: aiohttp.ClientSession | None = None

    async def call(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """POST; status and JSON object ({} for what is none). Raises SourceDown."""
        if self._client is None:
            connector = aiohttp.TCPConnector(ssl=client_context(self._tls.profile(self._name), self._clock), limit=2)
            self._client = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        data = io.BytesIO(msgspec.json.encode(body))
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                self._clock.deadline(self._deadline),
                self._client.post(self._url + path, data=data, headers=headers, allow_redirects=False) as response,
            ):
                text = bytearray()
                while chunk := await response.content.readany():
                    text += chunk
                    if len(text) > _ANSWER:
                        raise SourceDown(f"{self._name}: an answer of more than {_ANSWER} bytes")
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await self.close()
            raise SourceDown(f"{self._name}: {type(error).__name__}: {error}") from None
        try:
            answer = msgspec.json.decode(bytes(text)) if text else {}
        except msgspec.DecodeError:
            answer = {}
        return status, answer if isinstance(answer, dict) else {}

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
