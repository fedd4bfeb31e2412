"""A master key in a file that opens with a passphrase only: scrypt (RFC 7914) and AES-256-GCM.

The file is one line of JSON with the parameters, so that later files may ask for more work. The passphrase comes from a systemd
credential named `passphrase`, from the file that QKDD_PASSPHRASE_FILE names, or is asked for on the terminal.
"""

from __future__ import annotations

import getpass
import os
import secrets
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from qkdd.core.errors import CredentialError
from qkdd.core.secret import Secret

KIND = "qkdd master key, passphrase, v1"
CREDENTIAL = "passphrase"
VARIABLE = "QKDD_PASSPHRASE_FILE"
SHORTEST = 12  # characters; scrypt makes each try cost, it makes no bad passphrase good
_N, _R, _P = 1 << 17, 8, 1  # 128 MiB and some 0.4 s a try
_MOST_N, _MOST_R, _MOST_P = 1 << 21, 16, 4  # above: a file that would only exhaust the machine

Ask = Callable[[Path], Secret]


class _Wrapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    n: int
    r: int
    p: int
    salt: bytes
    nonce: bytes
    sealed: bytes


def is_wrapped(data: bytes) -> bool:
    """Whether a master key's file needs a passphrase."""
    return data.lstrip().startswith(b"{")


def wrap(key: bytes, passphrase: Secret) -> bytes:
    """The content of a file. Raises CredentialError for a short passphrase."""
    if len(passphrase) < SHORTEST:
        raise CredentialError(f"the passphrase is shorter than {SHORTEST} characters", remedy="take a longer one")
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    cipher = AESGCM(_derive(passphrase, salt, _N, _R, _P))
    made = _Wrapped(KIND, _N, _R, _P, salt, nonce, cipher.encrypt(nonce, key, KIND.encode()))
    return msgspec.json.encode(made) + b"\n"


def unwrap(path: Path, data: bytes, passphrase: Secret) -> bytes:
    """The master key. Raises CredentialError for another passphrase and for a damaged file."""
    try:
        found = msgspec.json.decode(data, type=_Wrapped)
    except msgspec.DecodeError as error:
        raise CredentialError(f"{path}: is no master key under a passphrase ({error})") from None
    within = 1 < found.n <= _MOST_N and 0 < found.r <= _MOST_R and 0 < found.p <= _MOST_P
    if found.kind != KIND or not within or found.n & (found.n - 1):
        raise CredentialError(f"{path}: is no master key under a passphrase that this program knows")
    try:
        cipher = AESGCM(_derive(passphrase, found.salt, found.n, found.r, found.p))
        return cipher.decrypt(found.nonce, found.sealed, KIND.encode())
    except (InvalidTag, ValueError):
        raise CredentialError(
            f"{path}: the passphrase does not open it", remedy="Give the passphrase that the file was made with."
        ) from None


def _derive(passphrase: Secret, salt: bytes, n: int, r: int, p: int) -> bytes:
    return Scrypt(salt, 32, n, r, p).derive(bytes(passphrase.reveal()))


def ask(path: Path, environment: Mapping[str, str] = os.environ) -> Secret:
    """The passphrase of a master key's file, wherever this process can get it. Raises CredentialError."""
    folder, named = environment.get("CREDENTIALS_DIRECTORY"), environment.get(VARIABLE)
    if folder and (Path(folder) / CREDENTIAL).exists():
        return read(Path(folder) / CREDENTIAL)
    if named:
        return read(Path(named))
    if not sys.stdin.isatty():
        raise CredentialError(
            f"{path}: needs a passphrase, and there is no terminal to ask on",
            remedy=f"LoadCredentialEncrypted={CREDENTIAL}:FILE in the unit, or {VARIABLE}=FILE (mode 0600)",
        )
    return Secret(getpass.getpass(f"Passphrase of {path}: ").encode())


def read(path: Path) -> Secret:
    """A passphrase from a file that only its owner may read; a line end at its end does not count."""
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise CredentialError(f"{path}: cannot be read ({error.strerror})") from None
    if stat.S_IMODE(mode) & 0o077:
        raise CredentialError(f"{path}: mode {stat.S_IMODE(mode):04o} lets others read it", remedy=f"chmod 600 {path}")
    return Secret(data.rstrip(b"\r\n"))
