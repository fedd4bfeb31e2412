"""From what OpenSSL says to errors with stable codes: verification results, alerts, and what asyncio wraps around them."""

from __future__ import annotations

import ssl
from typing import Any

from OpenSSL import SSL

from qkdd.core.errors import QkddError
from qkdd.peer.errors import (
    CertCrl,
    CertExpired,
    CertIdentity,
    CertificateError,
    CertInvalid,
    CertMissing,
    CertPurpose,
    CertRefusedByPeer,
    CertRevoked,
    CertUnknownCa,
    PeerClosed,
    PeerError,
    PeerUnreachable,
    TlsFailed,
    TlsNegotiationFailed,
)

_V = SSL.X509VerificationCodes

# result of certificate verification (X509_V_ERR_*) → what is said, and as which error
_VERIFY: dict[int, tuple[type[CertificateError], str]] = {
    _V.ERR_CERT_HAS_EXPIRED: (CertExpired, "has expired"),
    _V.ERR_CERT_NOT_YET_VALID: (CertExpired, "is not valid yet"),
    _V.ERR_CERT_REVOKED: (CertRevoked, "is revoked"),
    _V.ERR_UNABLE_TO_GET_ISSUER_CERT: (CertUnknownCa, "has an issuer that is not in the trust file"),
    _V.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: (CertUnknownCa, "has an issuer that is not in the trust file"),
    _V.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: (CertUnknownCa, "came without its issuer"),
    _V.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: (CertUnknownCa, "is self-signed and not in the trust file"),
    _V.ERR_SELF_SIGNED_CERT_IN_CHAIN: (CertUnknownCa, "ends in a root that is not in the trust file"),
    _V.ERR_CERT_UNTRUSTED: (CertUnknownCa, "is not trusted"),
    _V.ERR_CERT_SIGNATURE_FAILURE: (CertUnknownCa, "names a trusted issuer but was not signed by its key"),
    _V.ERR_INVALID_PURPOSE: (CertPurpose, "may not be used for this side of a connection (extended key usage)"),
    _V.ERR_UNABLE_TO_GET_CRL: (CertCrl, "has an issuer without revocation list here"),
    _V.ERR_UNABLE_TO_GET_CRL_ISSUER: (CertCrl, "has a revocation list of unknown issuer"),
    _V.ERR_CRL_HAS_EXPIRED: (CertCrl, "has an issuer whose revocation list has expired"),
    _V.ERR_CRL_NOT_YET_VALID: (CertCrl, "has an issuer whose revocation list is from the future"),
    _V.ERR_CRL_SIGNATURE_FAILURE: (CertCrl, "has an issuer whose revocation list is forged"),
}

# text of the alert that the other end sent (RFC 8446 6.2, as OpenSSL words it)
_ALERTS: dict[str, str] = {
    "certificate expired": "it holds our certificate for expired",
    "certificate revoked": "it holds our certificate for revoked",
    "unknown ca": "it does not know the authority of our certificate",
    "unsupported certificate": "it holds our certificate for unfit for this purpose",
    "bad certificate": "it holds our certificate for bad",
    "certificate unknown": "it does not accept our certificate's identity or role",
    "certificate required": "it wants a certificate and got none",
    "access denied": "it denies access to our certificate",
    # what OpenSSL sends when a verification callback of its program says no, as ours does for identity and role
    "internal error": "it does not accept our certificate's identity or role, or it failed; its log says which",
}
_NEGOTIATION = (
    "no suitable key share",
    "no suitable signature algorithm",
    "no shared cipher",
    "no shared group",
    "no suitable groups",
    "unsupported protocol",
    "wrong ssl version",
    "no protocols available",
    "alert protocol version",
    "alert handshake failure",
    "handshake failure",
    "alert insufficient security",
    "wrong signature type",
    "unsupported signature",
    "wrong curve",
    "bad key share",
    "no common signature algorithms",
    "version too low",
    "wrong version number",
)


class TlsFailure(ssl.SSLError):
    """An ssl.SSLError, so that asyncio and aiohttp treat it as one, that carries our error."""

    error: PeerError

    def __init__(self, error: PeerError) -> None:
        super().__init__(1, str(error))
        self.error = error


class TlsCertificateFailure(ssl.SSLCertVerificationError):
    """As TlsFailure, for certificates."""

    error: PeerError

    def __init__(self, error: PeerError) -> None:
        super().__init__(1, str(error))
        self.error = error


def as_ssl_error(error: PeerError) -> ssl.SSLError:
    return TlsCertificateFailure(error) if isinstance(error, CertificateError) else TlsFailure(error)


def verification_error(code: int, depth: int, what: str) -> CertificateError:
    """Error for a verification result; `what` describes the certificate at `depth` of the chain."""
    kind, text = _VERIFY.get(code, (CertInvalid, f"is not acceptable (verification result {code})"))
    return kind(f"the other end's certificate {what} {text}", verify_code=code, depth=depth)


def openssl_error(error: SSL.Error, name: str) -> PeerError:
    """Error for what OpenSSL raised during a handshake or a read. `name` is the profile's."""
    reasons = [part[-1] for part in (error.args[0] if error.args and isinstance(error.args[0], list) else [])]
    text = "; ".join(reasons) or str(error) or type(error).__name__
    lower = text.lower()
    for alert, meaning in _ALERTS.items():
        if f"alert {alert}" in lower:
            return CertRefusedByPeer(f"{name}: the other end refused the handshake: {meaning}", alert=alert)
    if "did not return a certificate" in lower:
        return CertMissing(f"{name}: the other end showed no certificate")
    if any(reason in lower for reason in _NEGOTIATION):
        return TlsNegotiationFailed(f"{name}: nothing in common with the other end: {text}")
    if "unexpected eof" in lower:
        return TlsFailed(f"{name}: the other end closed the connection in the middle of TLS; its log may say why")
    return TlsFailed(f"{name}: {text}")


def explain(error: BaseException, name: str = "TLS") -> QkddError:
    """Any exception of a connection attempt as one of our errors, whatever asyncio or aiohttp wrapped around it."""
    seen: set[int] = set()
    queue: list[Any] = [error]
    chain: list[BaseException] = []
    while queue:
        item = queue.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        chain.append(item)
        queue += [item.__cause__, getattr(item, "os_error", None), getattr(item, "certificate_error", None)]
        queue += [item.__context__, *item.args]
    for item in chain:
        if isinstance(item, QkddError):
            return item
        if isinstance(item, (TlsFailure, TlsCertificateFailure)):
            return item.error
    for item in chain:
        if isinstance(item, ConnectionRefusedError):
            return PeerUnreachable(f"{name}: nobody listens there: {item}")
    if isinstance(error, (ssl.SSLError, ConnectionResetError, ConnectionAbortedError)):
        return TlsFailed(f"{name}: the connection ended in the handshake ({error}); the other end's log may say why")
    if isinstance(error, (OSError, TimeoutError)):
        return PeerUnreachable(f"{name}: {error or type(error).__name__}")
    return PeerClosed(f"{name}: {type(error).__name__}: {error}")


__all__ = [
    "CertIdentity",
    "TlsCertificateFailure",
    "TlsFailure",
    "as_ssl_error",
    "explain",
    "openssl_error",
    "verification_error",
]
