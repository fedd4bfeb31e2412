"""ETSI GS QKD 014 as a client: `[sources.NAME.etsi014]`. One site asks for new keys, the other for the same by their ids."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any
from urllib.parse import quote

from qkdd.core.clock import Clock
from qkdd.core.secret import Secret
from qkdd.kms.classes import KeyClass
from qkdd.kms.etsi014 import BASE
from qkdd.kms.etsi014_codec import CLASS_EXTENSION, INSECURE_EXTENSION
from qkdd.kms.foreign import ForeignKms, Pull, SourceDown, SourceKeyRefused
from qkdd.kms.key_ids import canonical
from qkdd.kms.source_config import Etsi014Source


class Etsi014Client:
    """Implements `qkdd.kms.foreign.Puller`. claim: epsilon of each key when the key says none itself."""

    def __init__(self, name: str, config: Etsi014Source, claim: float | None, clock: Clock) -> None:
        self._name, self._config, self._claim = name, config, claim
        self._kms = ForeignKms(f"source {name}", config, config.url, config.deadline, clock)
        self._path = f"{BASE}/{quote(config.remote_sae_id, safe='')}"

    async def pull(self) -> Pull | None:
        """`enc_keys`. No key now is None: 503, and 400 where a maker says it so."""
        wanted = {"number": self._config.keys_per_request, "size": self._config.key_size}
        status, answer = await self._kms.call(f"{self._path}/enc_keys", wanted)
        if status == 503:
            return None
        if status != 200:
            raise SourceDown(f"{self._name}: enc_keys: {status} {_message(answer)}", status=status)
        keys = self._keys(answer)
        if not 0 < len(keys) <= self._config.keys_per_request:
            raise SourceKeyRefused(
                f"{self._name}: {len(keys)} keys where {self._config.keys_per_request} were asked for"
            )
        claims = [self._claimed(entry) for entry in _entries(answer)]
        epsilon = None if None in claims else math.fsum(c for c in claims if c is not None)
        return Pull(list(keys), _joined(list(keys.values())), epsilon)

    async def fetch(self, refs: list[str]) -> Secret | None:
        """`dec_keys`."""
        status, answer = await self._kms.call(f"{self._path}/dec_keys", {"key_IDs": [{"key_ID": ref} for ref in refs]})
        if status in (400, 404):
            return None
        if status != 200:
            raise SourceDown(f"{self._name}: dec_keys: {status} {_message(answer)}", status=status)
        keys = self._keys(answer)
        if set(keys) != set(refs):
            raise SourceKeyRefused(f"{self._name}: dec_keys gave other keys than it was asked for")
        return _joined([keys[ref] for ref in refs])

    async def close(self) -> None:
        await self._kms.close()

    def _keys(self, answer: dict[str, Any]) -> dict[str, bytes]:
        """Key id (lower case) → key. Raises SourceKeyRefused."""
        found: dict[str, bytes] = {}
        for entry in _entries(answer):
            try:
                key_id, key = canonical(str(entry["key_ID"])), base64.b64decode(str(entry["key"]), validate=True)
            except (KeyError, ValueError, binascii.Error):
                raise SourceKeyRefused(f"{self._name}: a key without a UUID or without base64") from None
            said = entry.get("key_extension")
            extension = said if isinstance(said, dict) else {}
            if INSECURE_EXTENSION in extension:
                raise SourceKeyRefused(f"{self._name}: gives synthetic keys (qkdd-kms dev-pair)")
            if extension.get(CLASS_EXTENSION, KeyClass.ITS) != KeyClass.ITS:
                raise SourceKeyRefused(f"{self._name}: gives keys that a computational share is part of")
            if 8 * len(key) != self._config.key_size:
                raise SourceKeyRefused(f"{self._name}: a key of {8 * len(key)} bits, asked for {self._config.key_size}")
            if found.setdefault(key_id, key) != key or len(found) > 4096:
                raise SourceKeyRefused(f"{self._name}: two keys under one id, or too many keys")
        return found

    def _claimed(self, entry: dict[str, Any]) -> float | None:
        extension = entry.get("key_extension")
        said = extension.get("qkdd_epsilon") if isinstance(extension, dict) else None
        if isinstance(said, float) and 0 <= said <= 1:
            return said
        return self._claim


def _entries(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Table 11 prints `Keys`, the example `keys`: both are taken."""
    listed = answer.get("keys", answer.get("Keys"))
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _joined(keys: list[bytes]) -> Secret:
    return Secret(b"".join(keys))


def _message(answer: dict[str, Any]) -> str:
    return str(answer.get("message", ""))[:200]
