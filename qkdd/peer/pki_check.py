"""`qkdd pki check`: what is wrong with a certificate chain, in words, all findings at once."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from qkdd.core.clock import Clock, SystemClock
from qkdd.core.errors import QkddError
from qkdd.peer import certificates
from qkdd.peer.errors import CertCrl, CertExpired, CertInvalid, CertPurpose, CertRevoked, CertUnknownCa

_SOON_DAYS = 14


class ChainFinding(msgspec.Struct, frozen=True):
    """One finding; `code` is that of the error which a connection would give ("" for a warning)."""

    code: str
    problem: str
    remedy: str


def _finding(kind: type[QkddError], problem: str, remedy: str = "") -> ChainFinding:
    return ChainFinding(kind.code, problem, remedy or kind.default_remedy)


def check(
    certificate: Path, trust: Path, crl: Path | None = None, key: Path | None = None, clock: Clock | None = None
) -> list[ChainFinding]:
    """Everything that is wrong with the chain in `certificate`; an empty list when all is well.

    Files that cannot be read at all raise CredentialError.
    """
    now = certificates.moment((clock or SystemClock()).wall())
    chain = certificates.load_certificates(certificate)
    roots = certificates.load_certificates(trust, "trust file")
    found: list[ChainFinding] = []
    if key is not None:
        found += _key_findings(chain[0], key)
    path, complete = _path(chain, roots)
    for child, parent in itertools.pairwise(path):
        if not _issued_by(child, parent):
            found.append(
                _finding(
                    CertUnknownCa, f"{_name(child)} was not signed by the key of {_name(parent)}, whatever it says"
                )
            )
    if not complete:
        found.append(
            _finding(
                CertUnknownCa,
                f"{_name(path[-1])} names the issuer {path[-1].issuer.rfc4514_string()!r}, which is neither in {certificate} "
                f"nor in {trust} (there: {', '.join(_name(root) for root in roots)})",
            )
        )
    for item in path:
        if now > item.not_valid_after_utc:
            found.append(
                _finding(CertExpired, f"{_name(item)} expired on {item.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
            )
        elif now < item.not_valid_before_utc:
            found.append(
                _finding(
                    CertExpired, f"{_name(item)} is valid only from {item.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
                )
            )
    found += _purpose_findings(chain[0])
    if crl is not None:
        found += _crl_findings(path, certificates.load_crls(crl), crl, now)
    left = (chain[0].not_valid_after_utc - now).days
    if 0 <= left < _SOON_DAYS:
        found.append(ChainFinding("", f"{_name(chain[0])} expires in {left} days", "renew it with `qkdd pki renew`"))
    return found


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string())


def _path(chain: list[x509.Certificate], roots: list[x509.Certificate]) -> tuple[list[x509.Certificate], bool]:
    """From the leaf upwards by issuer's name; False when it does not end in a root of the trust file."""
    path = [chain[0]]
    while path[-1].issuer != path[-1].subject and len(path) <= len(chain) + 1:
        wanted = path[-1].issuer
        parent = next((c for c in [*chain[1:], *roots] if c.subject == wanted), None)
        if parent is None:
            return path, False
        path.append(parent)
    return path, path[-1] in roots


def _issued_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _key_findings(leaf: x509.Certificate, key: Path) -> list[ChainFinding]:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if certificates.load_private_key(key).public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form):
        return []
    return [_finding(CertInvalid, f"{key} is not the key of {_name(leaf)}", "give the key that was made with it")]


def _purpose_findings(leaf: x509.Certificate) -> list[ChainFinding]:
    who = certificates.identity(leaf)
    found = []
    if not who.role:
        found.append(
            ChainFinding(
                "",
                f"no identity qkd://role/id in it; it counts as {who.name!r} without role",
                "issue it with `qkdd pki`",
            )
        )
    try:
        usage = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usage = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        found.append(_finding(CertPurpose, f"{_name(leaf)} cannot be used by a client (extended key usage)"))
    if who.role in ("node", "kms", "agent") and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        found.append(_finding(CertPurpose, f"{_name(leaf)} cannot be used by a server (extended key usage)"))
    if not certificates.signature_scheme(leaf):
        found.append(_finding(CertInvalid, f"{_name(leaf)} has a key that is neither ML-DSA nor ECDSA on P-256, P-384"))
    return found


def _crl_findings(
    path: list[x509.Certificate], lists: list[x509.CertificateRevocationList], file: Path, now: object
) -> list[ChainFinding]:
    found = []
    for child, parent in zip(path, [*path[1:], path[-1]], strict=True):
        mine = [crl for crl in lists if crl.issuer == parent.subject]
        if not mine:
            found.append(_finding(CertCrl, f"{file} has no list of {_name(parent)}"))
            continue
        newest = max(mine, key=lambda crl: crl.last_update_utc)
        key = parent.public_key()
        if not newest.is_signature_valid(key):  # type: ignore[arg-type]  # the stub does not list ML-DSA
            found.append(_finding(CertCrl, f"the list of {_name(parent)} in {file} was not signed by its key"))
        end = newest.next_update_utc
        if end is not None and end < now:  # type: ignore[operator]
            found.append(
                _finding(CertCrl, f"the list of {_name(parent)} in {file} expired on {end:%Y-%m-%d %H:%M} UTC")
            )
        entry = newest.get_revoked_certificate_by_serial_number(child.serial_number)
        if entry is not None:
            found.append(
                _finding(CertRevoked, f"{_name(child)} is revoked since {entry.revocation_date_utc:%Y-%m-%d %H:%M} UTC")
            )
    return found


def show(path: Path) -> list[dict[str, str]]:
    """What stands in a PEM file of certificates, for people: one dictionary a certificate."""
    rows = []
    for item in certificates.load_certificates(path):
        who = certificates.identity(item)
        try:
            names = item.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            names = x509.SubjectAlternativeName([])
        rows.append(
            {
                "subject": item.subject.rfc4514_string(),
                "issuer": item.issuer.rfc4514_string(),
                "identity": who.name,
                "role": who.role,
                "algorithm": certificates.signature_scheme(item) or "other",
                "names": ", ".join(str(name.value) for name in names),
                "serial": f"{item.serial_number:x}",
                "not_before": item.not_valid_before_utc.isoformat(),
                "not_after": item.not_valid_after_utc.isoformat(),
                "sha256": certificates.fingerprint(item),
            }
        )
    return rows
