"""Records sealed at rest: AES-256-GCM under keys derived from one master key.

A sealed record is `QS1 | suite | nonce(12) | ciphertext+tag`; the associated data binds it to its place (table and id), so a
record that was moved does not open. Each purpose has a key of its own: HKDF-SHA-512(master, info=purpose).
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qkdd.core import passphrase
from qkdd.core.errors import CredentialError, SealError
from qkdd.core.folders import sync_folder
from qkdd.core.secret import Secret

MASTER_KEY_BYTES = 32
SUITE = "aes-256-gcm"
_HEADER = b"QS1\x01"  # format 1, suite 1 = AES-256-GCM with a random 96-bit nonce


class Sealer:
    """Seals and opens the records of one purpose, for example "spool"."""

    def __init__(self, master: Secret, purpose: str) -> None:
        self._purpose = purpose
        self._keys: tuple[AESGCM, ...] = (_derive(master, purpose),)  # the first seals, each opens

    def add_master(self, master: Secret) -> None:
        """From now on seal under this one; what earlier ones sealed still opens."""
        self._keys = (_derive(master, self._purpose), *self._keys)

    def also_opens(self, master: Secret) -> None:
        """What another process seals under this one opens as well; nothing is sealed under it here."""
        self._keys = (*self._keys, _derive(master, self._purpose))

    def drop_earlier(self) -> None:
        """Nothing is sealed under an earlier master key any more."""
        self._keys = self._keys[:1]

    def seal(self, plain: Secret | bytes | bytearray | memoryview, place: str) -> bytes:
        """Seal `plain` for `place`, a string such as "block/7"."""
        data = plain.reveal() if isinstance(plain, Secret) else plain
        nonce = secrets.token_bytes(12)
        return _HEADER + nonce + self._keys[0].encrypt(nonce, bytes(data), place.encode())

    def open(self, record: bytes, place: str) -> Secret:
        """Open a record. Raises SealError when key, place or content are not the ones it was sealed with."""
        if record[: len(_HEADER)] != _HEADER:
            raise SealError(f"the record at {place} has an unknown format or suite")
        nonce = record[len(_HEADER) : len(_HEADER) + 12]
        for key in self._keys:
            with suppress(InvalidTag):
                return Secret(key.decrypt(nonce, record[len(_HEADER) + 12 :], place.encode()))
        raise SealError(f"the record at {place} does not open")

    def renew(self, record: bytes, place: str) -> bytes | None:
        """The record sealed under the newest master key; None if it is already. Raises SealError."""
        nonce = record[len(_HEADER) : len(_HEADER) + 12]
        with suppress(InvalidTag):
            self._keys[0].decrypt(nonce, record[len(_HEADER) + 12 :], place.encode())
            return None
        return self.seal(self.open(record, place), place)


def _derive(master: Secret, purpose: str) -> AESGCM:
    if len(master) != MASTER_KEY_BYTES:
        raise CredentialError(f"the master key has {len(master)} bytes, {MASTER_KEY_BYTES} are needed")
    info = b"qkdd sealing v1 " + purpose.encode()
    return AESGCM(HKDF(hashes.SHA512(), 32, salt=None, info=info).derive(bytes(master.reveal())))


def load_master_key(path: Path, ask: passphrase.Ask = passphrase.ask) -> Secret:
    """Read the 32-byte master key (raw, 64 hex digits, or under a passphrase) from a file that only its owner may read.

    ask: gives the passphrase when the file needs one. Raises CredentialError.
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise CredentialError(f"{path}: cannot be read ({error.strerror})") from None
    if stat.S_IMODE(mode) & 0o077:
        raise CredentialError(f"{path}: mode {stat.S_IMODE(mode):04o} lets others read it", remedy=f"chmod 600 {path}")
    if passphrase.is_wrapped(data):
        data = passphrase.unwrap(path, data, ask(path))
    elif len(data) != MASTER_KEY_BYTES:
        try:
            data = bytes.fromhex(data.decode("ascii").strip())
        except (UnicodeDecodeError, ValueError):
            data = b""
    if len(data) != MASTER_KEY_BYTES:
        raise CredentialError(
            f"{path}: holds no master key of {MASTER_KEY_BYTES} bytes", remedy=f"qkdd pki master-key {path}"
        )
    return Secret(data)


def create_master_key(path: Path, under: Secret | None = None) -> None:
    """Write a fresh master key, durable, mode 0600; an existing file is never overwritten. Raises OSError.

    under: a passphrase that the file will need. Raises CredentialError for a short one.
    """
    key = secrets.token_bytes(MASTER_KEY_BYTES)
    data = key.hex().encode() + b"\n" if under is None else passphrase.wrap(key, under)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def create_successor(path: Path, of: Path) -> None:
    """A fresh master key at `path` that is protected as the one at `of` is. Raises CredentialError, OSError."""
    create_master_key(path, passphrase.ask(of) if passphrase.is_wrapped(of.read_bytes()) else None)
