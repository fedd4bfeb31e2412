"""The audit log signed with the process's certificate, and checked against the site's trust."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from qkdd.core.audit_check import Verifier
from qkdd.core.errors import CredentialError
from qkdd.peer.certificates import MLDSAPrivateKey, MLDSAPublicKey, load_certificates, load_private_key

_CONTEXT = b"qkdd audit"


class CertificateSigner:
    """`qkdd.core.audit.Signer`: ML-DSA (FIPS 204) with the key of a post-quantum certificate. Raises CredentialError."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._chain = load_certificates(certificate)
        found = load_private_key(key)
        if not isinstance(found, MLDSAPrivateKey):
            raise CredentialError(f"private key {key}: the audit log is signed with ML-DSA, this key cannot")
        self._key = found

    def certificates(self) -> list[bytes]:
        return [certificate.public_bytes(Encoding.DER) for certificate in self._chain]

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message, _CONTEXT)


def verifier(trust: Path | None = None) -> Verifier:
    """Checks signatures, and with a trust file that the signer's certificate was issued under it.

    Validity periods are not looked at: a log outlives the certificates that signed it.
    """
    roots = load_certificates(trust, "trust file") if trust is not None else None

    def verify(certificates: list[bytes], message: bytes, signature: bytes) -> None:
        if not certificates:
            raise ValueError("a signature, but no signer was named before it")
        chain = [x509.load_der_x509_certificate(der) for der in certificates]
        key = chain[0].public_key()
        if not isinstance(key, MLDSAPublicKey):
            raise ValueError("the signer's key is no ML-DSA key")
        try:
            key.verify(signature, message, _CONTEXT)
        except InvalidSignature:
            raise ValueError("the signature is not good") from None
        if roots is not None and not _issued(chain, roots):
            raise ValueError("the signer's certificate was not issued under the given trust")

    return verify


def _issued(chain: list[x509.Certificate], roots: list[x509.Certificate]) -> bool:
    """Whether the first certificate leads to one of the roots, through any of the others."""
    current = chain[0]
    for _ in range(len(chain) + 1):
        for parent in (*roots, *chain[1:]):
            try:
                current.verify_directly_issued_by(parent)
            except (ValueError, TypeError, InvalidSignature):
                continue
            if parent in roots:
                return True
            current = parent
            break
        else:
            return False
    return False
