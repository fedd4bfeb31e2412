"""What becomes of a key that both ends drew: the pre-shared key, and two proofs that the other end has it too."""

from __future__ import annotations

import hmac
from typing import Literal

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qkdd.core.secret import Secret

PSK_BYTES = 32
KEY_BITS = 256
_SALT = b"qkd-psk 1"


class AgreedKey:
    """A key by its ID. `psk`: 32 bytes for the program; `proof`: for confirmations; `made`: seconds since the epoch."""

    __slots__ = ("_proof", "key_id", "made", "psk")

    def __init__(self, key_id: str, psk: Secret, proof: Secret | None, made: float) -> None:
        self.key_id, self.psk, self._proof, self.made = key_id, psk, proof, made

    def __repr__(self) -> str:
        return f"<AgreedKey {self.key_id}>"

    @classmethod
    def derive(cls, key: Secret, key_id: str, purpose: str, ends: tuple[str, str], made: float) -> AgreedKey:
        """From the key that the KMS gave. The key's ID, the purpose and both ends go into HKDF-SHA-256 (RFC 5869).

        `ends`: identities of the connecting and of the listening agent, in this order.
        """

        def part(what: str) -> Secret:
            info = msgspec.json.encode(["qkd-psk 1", what, purpose, key_id, *ends])
            return Secret(HKDF(hashes.SHA256(), PSK_BYTES, salt=_SALT, info=info).derive(bytes(key.reveal())))

        return cls(key_id, part("psk"), part("proof"), made)

    def confirmation(self, step: Literal["ready", "switch"], binding: bytes) -> bytes:
        """Proof of possession for one step on one connection (`binding`: exporter of its TLS, RFC 8446 7.5)."""
        if self._proof is None:
            raise ValueError("a key that was read from disk is confirmed already")
        return hmac.digest(self._proof.reveal(), step.encode() + b"\0" + binding + self.key_id.encode(), "sha256")

    def confirms(self, step: Literal["ready", "switch"], binding: bytes, given: bytes) -> bool:
        """Whether the other end's proof is right (constant time)."""
        return hmac.compare_digest(self.confirmation(step, binding), given)

    def wipe(self) -> None:
        self.psk.wipe()
        if self._proof is not None:
            self._proof.wipe()
