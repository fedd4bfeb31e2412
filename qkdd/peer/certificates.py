"""Certificates and private keys as files: reading them, whose they are, which algorithm they carry.

An identity of ours is a URI in the subject alternative name, `qkd://<role>/<id>` (role: node, kms or sae). A certificate of
another PKI has none: its identity is the first DNS name, else the common name, and its role is unknown.
"""

from __future__ import annotations

import datetime
import hashlib
import stat
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509.oid import NameOID

from qkdd.core.errors import CredentialError

MLDSAPrivateKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
MLDSAPublicKey = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey
PrivateKey = MLDSAPrivateKey | ec.EllipticCurvePrivateKey

ROLES = ("node", "kms", "sae", "agent")
_MAX_FILE = 4 << 20  # a chain of post-quantum certificates is some 20 kB; whatever is larger is no certificate file

# TLS 1.3 names of the one signature scheme that each kind of key can make (RFC 8446 4.2.3; draft-ietf-tls-mldsa)
_SCHEMES: dict[type, str] = {
    mldsa.MLDSA44PublicKey: "mldsa44",
    mldsa.MLDSA65PublicKey: "mldsa65",
    mldsa.MLDSA87PublicKey: "mldsa87",
}
_CURVE_SCHEMES = {
    "secp256r1": "ecdsa_secp256r1_sha256",
    "secp384r1": "ecdsa_secp384r1_sha384",
    "secp521r1": "ecdsa_secp521r1_sha512",
}


class Identity(msgspec.Struct, frozen=True):
    """Whose certificate it is; `role` is empty when the certificate names none."""

    name: str
    role: str


def signature_scheme(certificate: x509.Certificate) -> str:
    """TLS name of the signature that this certificate's key makes, for example "mldsa65"; "" when it is none of ours."""
    public = certificate.public_key()
    for kind, name in _SCHEMES.items():
        if isinstance(public, kind):
            return name
    if isinstance(public, ec.EllipticCurvePublicKey):
        return _CURVE_SCHEMES.get(public.curve.name, "")
    return ""


def identity(certificate: x509.Certificate) -> Identity:
    """Identity by SAN URI `qkd://role/id`, else DNS name, else common name, else the empty name."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        parts = urlsplit(uri)
        if parts.scheme == "qkd" and parts.netloc in ROLES and len(parts.path) > 1:
            return Identity(parts.path[1:], parts.netloc)
    dns = names.get_values_for_type(x509.DNSName)
    if dns:
        return Identity(dns[0], "")
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Identity(str(common[0].value) if common else "", "")


def identity_uri(role: str, name: str) -> str:
    return f"qkd://{role}/{name}"


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def describe(certificate: x509.Certificate) -> str:
    """One line for messages: subject, issuer, validity."""
    return (
        f"{certificate.subject.rfc4514_string()!r} issued by {certificate.issuer.rfc4514_string()!r}, "
        f"valid {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    )


def moment(wall: float) -> datetime.datetime:
    """Wall-clock seconds as an aware datetime."""
    return datetime.datetime.fromtimestamp(wall, datetime.UTC)


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise CredentialError(f"{what} {path}: cannot be read ({error.strerror})") from None
    if len(data) > _MAX_FILE:
        raise CredentialError(f"{what} {path}: is no certificate file (longer than {_MAX_FILE} bytes)")
    return data


def load_certificates(path: Path, what: str = "certificate") -> list[x509.Certificate]:
    """All certificates of a PEM file, in its order. Raises CredentialError."""
    try:
        found = x509.load_pem_x509_certificates(_read(path, what))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{what} {path}: holds no readable PEM certificate ({error})") from None
    return found


def load_crls(path: Path) -> list[x509.CertificateRevocationList]:
    """All revocation lists of a PEM file. Raises CredentialError."""
    data = _read(path, "revocation list")
    end = b"-----END X509 CRL-----"
    blocks = [block + end for block in data.split(end)[:-1]]
    try:
        found = [x509.load_pem_x509_crl(block) for block in blocks]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"revocation list {path}: is not readable PEM ({error})") from None
    if not found:
        raise CredentialError(f"revocation list {path}: holds none", remedy="make one with `qkdd pki crl`")
    return found


def load_private_key(path: Path) -> PrivateKey:
    """An unencrypted PEM private key whose file only the owner may read. Raises CredentialError."""
    data = _read(path, "private key")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise CredentialError(f"private key {path}: mode {mode:04o} lets others read it", remedy=f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"private key {path}: cannot be loaded ({error})") from None
    if not isinstance(key, PrivateKey):
        raise CredentialError(f"private key {path}: its algorithm is neither ML-DSA nor ECDSA")
    return key
