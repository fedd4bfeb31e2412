"""The KMS of this site, asked as ETSI GS QKD 014 V1.1.1 says: draw a key (6.2), or fetch one by its ID (6.4)."""

from __future__ import annotations

import base64
import uuid
from typing import Annotated, Protocol
from urllib.parse import quote

import aiohttp
import msgspec

from qkdd.core.clock import Clock
from qkdd.core.secret import Secret
from qkdd.peer.tls import client_context
from qkdd.psk.config import KmsAccess
from qkdd.psk.errors import KmsAway, KmsRefused
from qkdd.psk.keys import KEY_BITS

_ANSWER_LIMIT = 1 << 16


class KeySource(Protocol):
    """What the agents need of a KMS. Both raise KmsAway, KmsRefused."""

    async def draw(self) -> tuple[str, Secret]:
        """A new key of 256 bits and its ID."""

    async def fetch(self, key_id: str) -> Secret:
        """The key that the partner drew."""

    async def close(self) -> None: ...


class _Key(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(max_length=64)] = msgspec.field(name="key_ID")
    key: Annotated[str, msgspec.Meta(max_length=4096)]


class _Container(msgspec.Struct, frozen=True):
    keys: list[_Key]


class Etsi014Client:
    """One connection, kept alive. The constructor reads the certificates: raises CredentialError, TlsSettingRefused."""

    def __init__(self, config: KmsAccess, clock: Clock, deadline: float) -> None:
        self._config, self._clock, self._deadline = config, clock, deadline
        self._context = client_context(config.profile(), clock)
        self._client: aiohttp.ClientSession | None = None

    def reload(self) -> None:
        """Read the certificates again."""
        self._context.reload()

    async def draw(self) -> tuple[str, Secret]:
        return await self._ask("enc_keys", {"number": 1, "size": KEY_BITS})

    async def fetch(self, key_id: str) -> Secret:
        found, key = await self._ask("dec_keys", {"key_IDs": [{"key_ID": key_id}]})
        if found != key_id:
            raise KmsRefused(f"{self._config.url}: asked for key {key_id}, got {found}")
        return key

    async def _ask(self, method: str, body: dict[str, object]) -> tuple[str, Secret]:
        url = f"{self._config.url.rstrip('/')}/api/v1/keys/{quote(self._config.partner, safe='')}/{method}"
        if self._client is None:
            connector = aiohttp.TCPConnector(ssl=self._context, limit=1)
            self._client = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        try:
            async with (
                self._clock.deadline(self._deadline),
                self._client.post(url, json=body, allow_redirects=False) as response,
            ):
                status, answer = response.status, await response.content.read(_ANSWER_LIMIT)
                pause = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await self.close()
            raise KmsAway(f"{url}: {type(error).__name__}: {error}") from None
        if status != 200:
            text = f"{url}: {status} {_words(answer)}"
            if status in (400, 401, 404):
                raise KmsRefused(text)
            raise KmsAway(text, retry_after=float(pause) if pause.isdigit() else 0.0)
        return key_of(url, answer)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _words(answer: bytes) -> str:
    """`message` of an Error (table 13), at most 200 characters."""
    try:
        found = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return ""
    return str(found.get("message", ""))[:200] if isinstance(found, dict) else ""


def key_of(url: str, answer: bytes) -> tuple[str, Secret]:
    """ID (as a UUID is written) and key of a container with exactly one key of 256 bits. Raises KmsRefused."""
    try:
        [one] = msgspec.json.decode(answer, type=_Container).keys
        key, key_id = base64.b64decode(one.key, validate=True), str(uuid.UUID(one.id))
    except (msgspec.MsgspecError, ValueError):
        raise KmsRefused(f"{url}: the answer is no container of one key") from None
    if 8 * len(key) != KEY_BITS:
        raise KmsRefused(f"{url}: a key of {8 * len(key)} bits came, {KEY_BITS} were asked for")
    return key_id, Secret(key)
