"""OpenBao or Vault: the HTTP client, and the secrets engine KV version 2: one secret for each key, written with `cas=0`
(only if there is none).

A write that may have happened is repeated; the server then answers 400 (check-and-set), and what is there is compared.
"""

from __future__ import annotations

import base64
import hmac
import io
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp

from qkdd.core.clock import Clock
from qkdd.core.errors import CredentialError
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.keys.sinks.config import VaultSink
from qkdd.keys.sinks.contract import Item, KeyItem, keys_of
from qkdd.keys.sinks.credentials import read_word

_ANSWER = 1 << 20


class VaultServer:
    """One server. The token file is read for each new connection."""

    def __init__(self, config: VaultSink, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._client: aiohttp.ClientSession | None = None

    async def call(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
        """Status and body below /v1/. Raises HandOverFailed (nothing known), CredentialError."""
        if self._client is None:
            headers = {"X-Vault-Token": read_word(Path(self._config.token_file)), "X-Vault-Request": "true"}
            if self._config.namespace is not None:
                headers["X-Vault-Namespace"] = self._config.namespace
            try:
                context = ssl.create_default_context(cafile=self._config.trust)
            except (OSError, ssl.SSLError) as error:
                raise CredentialError(f"{self._config.trust}: {error}") from None
            connector = aiohttp.TCPConnector(ssl=context, limit=1)
            timeout = aiohttp.ClientTimeout(total=None)
            self._client = aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout)
        url = f"{self._config.url.rstrip('/')}/v1/{path}"
        data = io.BytesIO(json.dumps(body).encode()) if body is not None else None
        try:
            async with (
                self._clock.deadline(self._config.deadline),
                self._client.request(method, url, data=data, allow_redirects=False) as response,
            ):
                return response.status, (await response.content.read(_ANSWER)).decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await self.close()
            raise HandOverFailed(f"{self._config.url}: {type(error).__name__}: {error}") from None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class VaultTarget:
    """A secret for each key."""

    def __init__(self, config: VaultSink, clock: Clock) -> None:
        self._config, self._server = config, VaultServer(config, clock)

    async def store(self, items: list[Item]) -> set[str]:
        done = set()
        for item in items:
            for key in keys_of(item, self._config.key_size // 8):
                await self._put(item, key)
            done.add(item.chunk_id)
        return done

    async def _put(self, item: Item, key: KeyItem) -> None:
        value = base64.b64encode(key.key.reveal()).decode("ascii")
        facts = {name: text for name, text in item.about.items() if text is not None}
        body = {"options": {"cas": 0}, "data": {"key": value, "chunk": item.chunk_id, **facts}}
        path = f"{self._config.mounted}/data/{self._config.prefix}/{key.key_id}"
        status, answer = await self._server.call("POST", path, body)
        if status in (200, 204):
            return
        if status == 400 and "check-and-set" in answer:
            await self._compare(path, value)
            return
        if status in (400, 401, 403):
            raise HandOverRefused(f"{self._config.url}: {status} {words(answer)}", status=status)
        raise HandOverFailed(f"{self._config.url}: {status} {words(answer)}", status=status)

    async def _compare(self, path: str, value: str) -> None:
        """The key was stored by a call whose answer was lost, unless something else has its name."""
        status, answer = await self._server.call("GET", path, None)
        if status != 200:
            raise HandOverFailed(f"{self._config.url}: {status} when looking at a key that is there", status=status)
        try:
            there = json.loads(answer)["data"]["data"]["key"]
        except (ValueError, KeyError, TypeError):
            raise HandOverFailed(f"{self._config.url}: the answer is no secret of KV version 2") from None
        if not hmac.compare_digest(str(there).encode(), value.encode()):
            raise HandOverRefused(f"{self._config.url}: another key is stored under {path}")

    async def close(self) -> None:
        await self._server.close()


def words(answer: str) -> str:
    """The server's own words; it does not repeat what it was sent."""
    try:
        errors = json.loads(answer)["errors"]
    except (ValueError, KeyError, TypeError):
        return ""
    return "; ".join(map(str, errors))[:200] if isinstance(errors, list) else ""
