"""A certificate authority in a directory: root, optional intermediate, issued certificates, revocation lists.

    root.pem root.key                  the root; its key may be taken off-line once there is an intermediate
    intermediate.pem intermediate.key  what signs, when there is one
    trust.pem                          copy of the root: what goes to every node as `trust`
    crl.pem                            revocation lists of root and intermediate: what goes to every node as `crl`
    issued.json                        what was issued: serial, name, role, algorithm, end, revocation

Keys are unencrypted PEM, mode 0600: at run time systemd credentials protect them. Files are replaced atomically.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qkdd.core.clock import Clock, SystemClock
from qkdd.core.errors import CredentialError, StorageFailed
from qkdd.peer import certificates
from qkdd.peer.certificates import PrivateKey
from qkdd.peer.errors import PkiRefused

Algorithm = Literal["ml-dsa-65", "ml-dsa-87", "ecdsa-p256", "ecdsa-p384"]
ALGORITHMS: tuple[Algorithm, ...] = ("ml-dsa-65", "ml-dsa-87", "ecdsa-p256", "ecdsa-p384")
CertificateRole = Literal["node", "kms", "sae", "agent"]

ROOT_DAYS, INTERMEDIATE_DAYS, LEAF_DAYS, CRL_DAYS = 3650, 1825, 90, 30
OFFLINE_CRL_DAYS = 400  # the root's list when an intermediate does the daily work and the root's key is in a safe
_SKEW = datetime.timedelta(minutes=5)  # another machine's clock may be behind ours
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_USAGE = {
    "node": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    "kms": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    "sae": [ExtendedKeyUsageOID.CLIENT_AUTH],
    "agent": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],  # qkd-psk: to its KMS and its partner
}


class Issued(msgspec.Struct, kw_only=True):
    """One line of issued.json; `serial` is hexadecimal, times are ISO 8601 UTC."""

    serial: str
    name: str
    role: str
    algorithm: str
    issuer: Literal["root", "intermediate"]
    not_after: str
    revoked: str | None = None
    reason: str | None = None


class Credential(msgspec.Struct, frozen=True):
    """A certificate with its intermediates (leaf first) and its private key."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    def write(self, certificate: Path, key: Path) -> None:
        """Write both files (key with mode 0600), replacing what stood there."""
        write_file(key, _key_pem(self.key), private=True)
        write_file(certificate, b"".join(pem(c) for c in self.chain))


def pem(item: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return item.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace a file atomically and durably. Raises StorageFailed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageFailed(f"{path}: cannot be written ({error.strerror})") from None


def generate_key(algorithm: Algorithm) -> PrivateKey:
    """A fresh private key. Raises PkiRefused for an unknown algorithm."""
    match algorithm:
        case "ml-dsa-65":
            return mldsa.MLDSA65PrivateKey.generate()
        case "ml-dsa-87":
            return mldsa.MLDSA87PrivateKey.generate()
        case "ecdsa-p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ecdsa-p384":
            return ec.generate_private_key(ec.SECP384R1())
    raise PkiRefused(f"algorithm {algorithm!r} is unknown; there are {', '.join(ALGORITHMS)}")


def algorithm_of(certificate: x509.Certificate) -> Algorithm:
    """Algorithm of a certificate's own key. Raises PkiRefused if it is none of ours."""
    match certificates.signature_scheme(certificate):
        case "mldsa65":
            return "ml-dsa-65"
        case "mldsa87":
            return "ml-dsa-87"
        case "ecdsa_secp256r1_sha256":
            return "ecdsa-p256"
        case "ecdsa_secp384r1_sha384":
            return "ecdsa-p384"
    raise PkiRefused(
        f"the certificate of {certificates.identity(certificate).name!r} has an algorithm that is none of ours"
    )


def _digest(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return hashes.SHA384() if key.curve.name == "secp384r1" else hashes.SHA256()
    return None  # ML-DSA hashes by itself


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _start(
    subject: str, issuer: x509.Name, key: PrivateKey, now: datetime.datetime, days: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _ca_extensions(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True).add_extension(
        _key_usage(signs_certificates=True), critical=True
    )


def _issuer_id(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


class Authority:
    """An opened authority. One process at a time works with a directory."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.directory = directory
        self._clock: Clock = clock or SystemClock()
        self.root = certificates.load_certificates(directory / "root.pem", "root certificate")[0]
        intermediate = directory / "intermediate.pem"
        self.intermediate = certificates.load_certificates(intermediate)[0] if intermediate.exists() else None
        try:
            self.issued = msgspec.json.decode((directory / "issued.json").read_bytes(), type=list[Issued])
        except (OSError, msgspec.MsgspecError) as error:
            raise CredentialError(f"{directory / 'issued.json'}: cannot be read ({error})") from None

    @property
    def trust_file(self) -> Path:
        return self.directory / "trust.pem"

    @property
    def crl_file(self) -> Path:
        return self.directory / "crl.pem"

    @classmethod
    def create(
        cls, directory: Path, algorithm: Algorithm, name: str, *, intermediate: bool = False, clock: Clock | None = None
    ) -> Authority:
        """Make a new authority in an empty or new directory. Raises PkiRefused if one stands there already."""
        if (directory / "root.pem").exists():
            raise PkiRefused(f"{directory} holds an authority already; an authority is never overwritten")
        now = certificates.moment((clock or SystemClock()).wall())
        root_key = generate_key(algorithm)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} root")])
        builder = _ca_extensions(_start(f"{name} root", subject, root_key, now, ROOT_DAYS), 1 if intermediate else 0)
        root = builder.sign(root_key, _digest(root_key))
        write_file(directory / "root.key", _key_pem(root_key), private=True)
        write_file(directory / "trust.pem", pem(root))
        if intermediate:
            key = generate_key(algorithm)
            builder = _ca_extensions(_start(f"{name} intermediate", root.subject, key, now, INTERMEDIATE_DAYS), 0)
            issued = builder.add_extension(_issuer_id(root), critical=False).sign(root_key, _digest(root_key))
            Credential((issued,), key).write(directory / "intermediate.pem", directory / "intermediate.key")
        write_file(directory / "issued.json", b"[]")
        write_file(directory / "root.pem", pem(root))
        authority = cls(directory, clock)
        authority.publish_crl()
        return authority

    def _signer(self) -> tuple[x509.Certificate, PrivateKey]:
        name, certificate = ("root", self.root) if self.intermediate is None else ("intermediate", self.intermediate)
        return certificate, certificates.load_private_key(self.directory / f"{name}.key")

    def _now(self) -> datetime.datetime:
        return certificates.moment(self._clock.wall())

    def issue(
        self,
        role: CertificateRole,
        name: str,
        *,
        algorithm: Algorithm | None = None,
        dns: tuple[str, ...] = (),
        addresses: tuple[str, ...] = (),
        days: float = LEAF_DAYS,
    ) -> Credential:
        """A certificate with a new key. `dns` and `addresses` go beside the identity URI, for clients that check host names.

        Raises PkiRefused for a name or role that cannot be.
        """
        if not _NAME.match(name):
            raise PkiRefused(
                f"{name!r} is no name: letters, digits, '.', '_', '-', at most 64, first a letter or digit"
            )
        if role not in _USAGE:
            raise PkiRefused(f"role {role!r} is unknown; there are {', '.join(_USAGE)}")
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(certificates.identity_uri(role, name))]
        try:
            names += [x509.DNSName(host) for host in dns]
            names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        except ValueError as error:
            raise PkiRefused(f"a host name or address cannot stand in a certificate: {error}") from None
        return self._issue(name, role, x509.SubjectAlternativeName(names), algorithm or algorithm_of(self.root), days)

    def _issue(
        self, name: str, role: str, names: x509.SubjectAlternativeName, algorithm: Algorithm, days: float
    ) -> Credential:
        signer, signer_key = self._signer()
        end = min(self._now() + datetime.timedelta(days=days), signer.not_valid_after_utc)
        span = (end - self._now()).total_seconds() / 86400
        key = generate_key(algorithm)
        certificate = (
            _start(name, signer.subject, key, self._now(), span)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_USAGE[role]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(_issuer_id(signer), critical=False)
            .sign(signer_key, _digest(signer_key))
        )
        self.issued.append(
            Issued(
                serial=f"{certificate.serial_number:x}",
                name=name,
                role=role,
                algorithm=algorithm,
                issuer="root" if self.intermediate is None else "intermediate",
                not_after=certificate.not_valid_after_utc.isoformat(),
            )
        )
        self._store()
        return Credential((certificate,) if self.intermediate is None else (certificate, self.intermediate), key)

    def renew(self, certificate: x509.Certificate, *, days: float = LEAF_DAYS) -> Credential:
        """The same identity, names and algorithm with a new key. Raises PkiRefused if it is not ours or revoked."""
        entry = self._entry(certificate.serial_number)
        if entry.revoked is not None:
            raise PkiRefused(f"the certificate of {entry.name!r} is revoked since {entry.revoked}; issue a new one")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return self._issue(entry.name, entry.role, names, algorithm_of(certificate), days)

    def revoke(self, serial: int, reason: str = "unspecified") -> Issued:
        """Revoke a certificate and publish the list. Raises PkiRefused for an unknown serial or reason."""
        entry = self._entry(serial)
        try:
            x509.ReasonFlags(reason)
        except ValueError:
            known = ", ".join(flag.value for flag in x509.ReasonFlags)
            raise PkiRefused(f"reason {reason!r} is unknown; there are {known}") from None
        if entry.revoked is None:
            entry.revoked, entry.reason = self._now().isoformat(), reason
            self._store()
        self.publish_crl()
        return entry

    def _entry(self, serial: int) -> Issued:
        for entry in self.issued:
            if entry.serial == f"{serial:x}":
                return entry
        raise PkiRefused(f"serial {serial:x} was not issued by the authority in {self.directory}")

    def publish_crl(self, *, days: float = CRL_DAYS) -> None:
        """Write fresh revocation lists of root and intermediate to crl.pem. The root's needs the root's key only when it is
        due: with the key off-line the standing one is kept."""
        lists: list[x509.CertificateRevocationList] = []
        root_key = self.directory / "root.key"
        if root_key.exists():
            span = days if self.intermediate is None else max(days, OFFLINE_CRL_DAYS)
            lists.append(self._list("root", self.root, certificates.load_private_key(root_key), span))
        else:
            standing = certificates.load_crls(self.crl_file)
            lists += [crl for crl in standing if crl.issuer == self.root.subject]
        if self.intermediate is not None:
            _, key = self._signer()
            lists.append(self._list("intermediate", self.intermediate, key, days))
        write_file(self.crl_file, b"".join(pem(crl) for crl in lists))

    def _list(
        self, issuer: str, certificate: x509.Certificate, key: PrivateKey, days: float
    ) -> x509.CertificateRevocationList:
        now = self._now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(certificate.subject)
            .last_update(now - _SKEW)
            .next_update(now + datetime.timedelta(days=days))
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
            .add_extension(_issuer_id(certificate), critical=False)
        )
        for entry in self.issued:
            if entry.revoked is None or entry.issuer != issuer:
                continue
            revoked = (
                x509.RevokedCertificateBuilder()
                .serial_number(int(entry.serial, 16))
                .revocation_date(datetime.datetime.fromisoformat(entry.revoked))
            )
            if entry.reason and entry.reason != "unspecified":  # RFC 5280 5.3.1: unspecified is not written
                revoked = revoked.add_extension(x509.CRLReason(x509.ReasonFlags(entry.reason)), critical=False)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(key, _digest(key))

    def _store(self) -> None:
        write_file(self.directory / "issued.json", msgspec.json.format(msgspec.json.encode(self.issued)))
