"""Keys that sign firmware, as PEM files: PKCS #8 (private, mode 0600) and SubjectPublicKeyInfo (public)."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey, MLDSA87PublicKey

from qkdd.core.errors import CredentialError


def load_public(path: Path) -> MLDSA87PublicKey:
    """Raises CredentialError."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CredentialError(f"{path}: no public key can be read ({error})") from None
    if not isinstance(key, MLDSA87PublicKey):
        raise CredentialError(f"{path}: firmware is signed with ML-DSA-87, this is another kind of key")
    return key


def load_private(path: Path) -> MLDSA87PrivateKey:
    """Raises CredentialError, also when others may read the file."""
    try:
        if path.stat().st_mode & 0o077:
            raise CredentialError(f"{path}: others may read this private key", remedy=f"chmod 600 {path}")
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise CredentialError(f"{path}: no private key can be read ({type(error).__name__})") from None
    if not isinstance(key, MLDSA87PrivateKey):
        raise CredentialError(f"{path}: firmware is signed with ML-DSA-87, this is another kind of key")
    return key


def create(private: Path, public: Path) -> MLDSA87PrivateKey:
    """Write a fresh pair; an existing file is never overwritten (FileExistsError)."""
    key = MLDSA87PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    with public.open("xb") as file:
        file.write(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return key
