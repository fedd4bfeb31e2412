"""OpenSSL underneath: one context built from files, and the object that asyncio drives through memory BIOs.

Two places reach below pyOpenSSL. It has no public call for groups and signature algorithms (pyca/pyopenssl issue 1424):
`_restrict` checks every return code, because a refused list would otherwise leave the library's default. And its calls move
one record of 16 KB each: `read` and `_push` hand over as many as there are (decision 0280).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from qkdd.core.errors import CredentialError
from qkdd.peer import certificates
from qkdd.peer.errors import CertIdentity, CertPurpose, PeerError, TlsSettingRefused
from qkdd.peer.tls_errors import as_ssl_error, openssl_error, verification_error

# the C library under pyOpenSSL; not part of its public interface, see above
_openssl: Any = SSL._lib  # type: ignore[attr-defined]
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]
_allocate = _ffi.new_allocator(should_clear_after_alloc=False)

_CIPHERS = b"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_READ_CHUNK = 256 * 1024

OnFailure = Callable[[PeerError], None]


def _restrict(context: SSL.Context, groups: tuple[str, ...], signatures: tuple[str, ...], name: str) -> None:
    """Set the lists of groups and signature schemes; raises TlsSettingRefused if the library does not know one."""
    for setter_name, names in (("SSL_CTX_set1_curves_list", groups), ("SSL_CTX_set1_sigalgs_list", signatures)):
        setter = getattr(_openssl, setter_name, None)
        if setter is None:
            raise TlsSettingRefused(f"{name}: this version of cryptography has no {setter_name}")
        if setter(context._context, ":".join(names).encode()) != 1:
            _openssl.ERR_clear_error()
            raise TlsSettingRefused(f"{name}: the TLS library refuses the list {', '.join(names)}", setting=setter_name)


class Material:
    """What stands in the files of a profile, read at one moment: reading again is how a reload works."""

    def __init__(self, certificate: Path, key: Path, trust: Path, crl: Path | None) -> None:
        self.chain = certificates.load_certificates(certificate)
        self.key = certificates.load_private_key(key)
        self.key_path: Path = key
        self.roots = certificates.load_certificates(trust, "trust file")
        self.crls = certificates.load_crls(crl) if crl is not None else []
        encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ours = self.key.public_key().public_bytes(encoding, form)
        if self.chain[0].public_key().public_bytes(encoding, form) != ours:
            raise CredentialError(f"private key {key}: does not belong to the first certificate of {certificate}")

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]


def build(
    material: Material, groups: tuple[str, ...], signatures: tuple[str, ...], name: str
) -> tuple[SSL.Context, crypto.X509Store]:
    """A TLS 1.3 context with mutual authentication; server or client is decided by each connection."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(_CIPHERS)
    _restrict(context, groups, signatures, name)
    # a resumed session would skip certificate and revocation checks: no cache, no tickets
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    # what is written goes to memory, where all of it fits: one call for many records
    context.clear_mode(_openssl.SSL_MODE_ENABLE_PARTIAL_WRITE)
    try:
        context.use_certificate(material.leaf)
        for issuer in material.chain[1:]:
            context.add_extra_chain_cert(issuer)
        # by file: pyOpenSSL's own conversion of key objects does not know ML-DSA
        context.use_privatekey_file(str(material.key_path))
        context.check_privatekey()
        store = context.get_cert_store()
        if store is None:
            raise TlsSettingRefused(f"{name}: the TLS library has no certificate store")
        for root in material.roots:
            store.add_cert(crypto.X509.from_cryptography(root))
        for crl in material.crls:
            store.add_crl(crl)
    except (SSL.Error, crypto.Error) as error:
        raise CredentialError(f"{name}: certificate or key is refused by the TLS library ({error})") from None
    if material.crls:
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _on_certificate)
    return context, store


def _on_certificate(connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
    engine: TlsObject = connection.get_app_data()
    return engine.judge(certificate.to_cryptography(), code, depth, bool(ok))


class TlsObject:
    """What `asyncio` expects of an `ssl.SSLObject`, over a pyOpenSSL connection.

    All failures are `ssl.SSLError`s that carry a PeerError (`.error`) and are told to `on_failure` once.
    """

    def __init__(
        self,
        context: SSL.Context,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_side: bool,
        name: str,
        expected_identity: str | None,
        roles: tuple[str, ...] | None,
        server_name: str | None,
        on_failure: OnFailure,
        owner: ssl.SSLContext,
    ) -> None:
        self.context = owner
        self.server_side = server_side
        self.server_hostname = server_name
        self._name, self._expected, self._roles = name, expected_identity, roles
        self._incoming, self._outgoing = incoming, outgoing
        self._on_failure = on_failure
        self._verdict: PeerError | None = None
        self._failure: ssl.SSLError | None = None
        self.connection = SSL.Connection(context, None)
        self.connection.set_app_data(self)
        if server_side:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
            if server_name and not _is_address(server_name):
                self.connection.set_tlsext_host_name(server_name.encode("idna"))

    # certificates ----------------------------------------------------------------------------------------------------

    def judge(self, certificate: x509.Certificate, code: int, depth: int, ok: bool) -> bool:
        """Verification callback: keeps the first finding, and checks identity and role of the leaf."""
        if not ok:
            if self._verdict is None:
                self._verdict = verification_error(code, depth, certificates.describe(certificate))
            return False
        if depth == 0 and self._verdict is None:
            self._verdict = self._identity_error(certificate)
        return self._verdict is None

    def _identity_error(self, certificate: x509.Certificate) -> PeerError | None:
        who = certificates.identity(certificate)
        if self._expected is not None and who.name != self._expected:
            return CertIdentity(
                f"{self._name}: the other end is {who.name!r}, expected was {self._expected!r}",
                found=who.name,
                expected=self._expected,
            )
        if self._roles is not None and who.role not in self._roles:
            return CertPurpose(
                f"{self._name}: the certificate of {who.name!r} has role {who.role or 'none'!r}, allowed: "
                f"{', '.join(self._roles)}",
                role=who.role,
            )
        return None

    def peer_certificate(self) -> x509.Certificate | None:
        return self.connection.get_peer_certificate(as_cryptography=True)

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """As ssl.SSLObject.getpeercert, with the fields that programs look at."""
        certificate = self.peer_certificate()
        if certificate is None:
            return None
        if binary_form:
            return certificate.public_bytes(serialization.Encoding.DER)
        who = certificates.identity(certificate)
        return {
            "subject": ((("commonName", who.name),),),
            "issuer": ((("commonName", certificate.issuer.rfc4514_string()),),),
            "serialNumber": f"{certificate.serial_number:X}",
            "notBefore": f"{certificate.not_valid_before_utc:%b %d %H:%M:%S %Y} GMT",
            "notAfter": f"{certificate.not_valid_after_utc:%b %d %H:%M:%S %Y} GMT",
            "subjectAltName": ((("URI", certificates.identity_uri(who.role, who.name))),) if who.role else (),
        }

    # what asyncio calls ----------------------------------------------------------------------------------------------

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._pull()
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            self._push()
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "want read") from None
        except SSL.Error as error:
            self._push()
            self._failure = self._fail(error)
            if self.server_side:
                # asyncio drops what is still to be sent when a handshake fails, so the client would never learn why: let
                # it flush the alert first. The client closes then; one that does not runs into the handshake timeout.
                raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "alert to be sent") from None
            raise self._failure from None
        self._push()

    def read(self, size: int = _READ_CHUNK, buffer: memoryview | bytearray | None = None) -> bytes | int:
        """All records that have arrived, as far as they fit."""
        self._pull()
        size = min(size, _READ_CHUNK if buffer is None else len(buffer))
        chunk = _allocate("char[]", size) if buffer is None else _ffi.from_buffer("char[]", buffer, True)
        session, done, count = self.connection._ssl, 0, 0
        while done < size and (count := _openssl.SSL_read(session, chunk + done, size - done)) > 0:
            done += count
        if done or not size:
            # an end or an error behind these records is there again at the next read; what it left in the thread's queue of
            # errors would be taken for another connection's
            _openssl.ERR_clear_error()
            return done if buffer is not None else _ffi.buffer(chunk, done)[:]
        try:
            self.connection._raise_ssl_error(session, count)
        except SSL.WantReadError:
            self._push()
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "want read") from None
        except SSL.ZeroReturnError:
            pass
        except SSL.Error as error:
            self._push()
            raise self._fail(error) from None
        return 0 if buffer is not None else b""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        if not len(data):
            return 0
        try:
            count: int = self.connection.send(data)
        except SSL.WantReadError:
            self._push()
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "want read") from None
        except SSL.Error as error:
            raise self._fail(error) from None
        finally:
            self._push()
        return count

    def unwrap(self) -> None:
        self._pull()
        try:
            done = self.connection.shutdown()
        except SSL.WantReadError:
            done = False
        except SSL.Error as error:
            raise self._fail(error, tell=False) from None
        finally:
            self._push()
        if not done:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "want read")

    def pending(self) -> int:
        count: int = self.connection.pending()
        return count

    def cipher(self) -> tuple[str, str, int] | None:
        name = self.connection.get_cipher_name()
        return (name, "TLSv1.3", self.connection.get_cipher_bits() or 0) if name else None

    def version(self) -> str:
        name: str = self.connection.get_protocol_version_name()
        return name

    def compression(self) -> None:
        return None

    def selected_alpn_protocol(self) -> str | None:
        return None

    def get_channel_binding(self, cb_type: str = "tls-exporter") -> bytes:
        if cb_type != "tls-exporter":
            raise ValueError(f"{cb_type}: only tls-exporter (RFC 9266) exists for TLS 1.3")
        binding: bytes = self.connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        return binding

    # the BIOs --------------------------------------------------------------------------------------------------------

    def _pull(self) -> None:
        while self._incoming.pending:
            self.connection.bio_write(self._incoming.read(_READ_CHUNK))

    def _push(self) -> None:
        chunk = _allocate("char[]", _READ_CHUNK)
        while (count := _openssl.BIO_read(self.connection._from_ssl, chunk, _READ_CHUNK)) > 0:
            self._outgoing.write(_ffi.buffer(chunk, count))

    def _fail(self, error: SSL.Error, *, tell: bool = True) -> ssl.SSLError:
        cause = self._verdict or openssl_error(error, self._name)
        if tell:
            self._on_failure(cause)
        return as_ssl_error(cause)


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()
