"""OpenBao or Vault, secrets engine Transit: keys imported ("bring your own key"), after which the server uses them and never
shows them.

A key travels wrapped as the API demands: under a fresh AES-256 key by AES-KWP (RFC 5649), and that one under the server's RSA
key of 4096 bits by OAEP with SHA-256. A name is imported once; a repeated import is refused by the server, and then the key is
proved to be ours: what the server encrypts under it must open with it.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

from qkdd.core.clock import Clock
from qkdd.keys.errors import HandOverFailed, HandOverRefused
from qkdd.keys.sinks.config import VaultSink
from qkdd.keys.sinks.contract import Item, KeyItem, keys_of
from qkdd.keys.sinks.vault import VaultServer, words

_WRAPPING_BITS = 4096
_NONCE = 12


class TransitTarget:
    """A Transit key `PREFIX-KEYID` for each key: not exportable, not rotated by the server."""

    def __init__(self, config: VaultSink, clock: Clock) -> None:
        self._config, self._server = config, VaultServer(config, clock)
        self._type = f"aes{config.key_size}-gcm96"

    async def store(self, items: list[Item]) -> set[str]:
        done = set()
        wrapping = await self._wrapping_key()  # anew for each chunk: the server may have another one
        for item in items:
            for key in keys_of(item, self._config.key_size // 8):
                await self._import(wrapping, key)
            done.add(item.chunk_id)
        return done

    async def close(self) -> None:
        await self._server.close()

    async def _wrapping_key(self) -> rsa.RSAPublicKey:
        status, answer = await self._server.call("GET", f"{self._config.mounted}/wrapping_key", None)
        if status != 200:
            raise self._refusal(status, answer)
        found = serialization.load_pem_public_key(_field(answer, "public_key").encode())
        if not isinstance(found, rsa.RSAPublicKey) or found.key_size != _WRAPPING_BITS:
            raise HandOverFailed(f"{self._config.url}: the wrapping key is no RSA key of {_WRAPPING_BITS} bits")
        return found

    async def _import(self, wrapping: rsa.RSAPublicKey, key: KeyItem) -> None:
        name = f"{self._config.prefix}-{key.key_id}"
        body = {
            "ciphertext": base64.b64encode(wrapped(wrapping, key)).decode("ascii"),
            "hash_function": "SHA256",
            "type": self._type,
            "exportable": False,
            "allow_rotation": False,
            "allow_plaintext_backup": False,
        }
        status, answer = await self._server.call("POST", f"{self._config.mounted}/keys/{name}/import", body)
        if status in (200, 204):
            return
        # the server answers 500, some versions 400, for a name that is there
        if status in (400, 500) and "existing key" in answer:
            await self._compare(name, key)
            return
        raise self._refusal(status, answer)

    async def _compare(self, name: str, key: KeyItem) -> None:
        """The key was imported by a call whose answer was lost, unless something else has its name."""
        challenge = os.urandom(32)
        body: dict[str, Any] = {"plaintext": base64.b64encode(challenge).decode("ascii")}
        status, answer = await self._server.call("POST", f"{self._config.mounted}/encrypt/{name}", body)
        if status in (401, 403):
            raise self._refusal(status, answer)
        if status != 200:
            raise HandOverFailed(f"{self._config.url}: {status} when looking at a key that is there", status=status)
        version, _, text = _field(answer, "ciphertext").rpartition(":")
        try:
            sealed = base64.b64decode(text, validate=True)
            opened = AESGCM(bytes(key.key.reveal())).decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        except (ValueError, InvalidTag):
            opened = b""
        if version != "vault:v1" or not hmac.compare_digest(opened, challenge):
            raise HandOverRefused(f"{self._config.url}: another key is stored as {name}")

    def _refusal(self, status: int, answer: str) -> HandOverFailed | HandOverRefused:
        kind = HandOverRefused if status in (400, 401, 403, 404) else HandOverFailed
        return kind(f"{self._config.url}: {status} {words(answer)}", status=status)


def wrapped(wrapping: rsa.RSAPublicKey, key: KeyItem) -> bytes:
    """What `import` takes: RSA-OAEP of an AES-256 key, and AES-KWP of the key under that one."""
    once = os.urandom(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return wrapping.encrypt(once, oaep) + aes_key_wrap_with_padding(once, bytes(key.key.reveal()))


def _field(answer: str, name: str) -> str:
    try:
        return str(json.loads(answer)["data"][name])
    except (ValueError, KeyError, TypeError):
        raise HandOverFailed(f"the answer has no {name}") from None
