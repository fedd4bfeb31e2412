"""TLS 1.3 with mutual certificates: post-quantum (ML-DSA, ML-KEM groups) and classical profiles, for asyncio and aiohttp.

`server_context` and `client_context` return an `ssl.SSLContext` subclass, so `asyncio.start_server`, `open_connection`,
`loop.start_tls` and aiohttp accept it; underneath works pyOpenSSL with the OpenSSL that `cryptography` brings along, the
only pair that does ML-DSA and ML-KEM in this process. What was negotiated is read from the connection, never assumed.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal, Never

import msgspec
from OpenSSL import SSL

from qkdd.core.clock import Clock, SystemClock
from qkdd.peer import certificates
from qkdd.peer.errors import PeerError, TlsSelfTestFailed, TlsSettingRefused
from qkdd.peer.tls_engine import Material, OnFailure, TlsObject, build
from qkdd.peer.tls_errors import TlsCertificateFailure, TlsFailure, explain

Suite = Literal["post-quantum", "classical"]

# OpenSSL's names. Every group of the post-quantum table contains ML-KEM (FIPS 203), and so does what is negotiated.
POST_QUANTUM_GROUPS = ("SecP384r1MLKEM1024", "X25519MLKEM768", "SecP256r1MLKEM768", "MLKEM1024", "MLKEM768")
CLASSICAL_GROUPS = ("X25519MLKEM768", "X25519", "secp256r1", "secp384r1")
POST_QUANTUM_SIGNATURES = ("mldsa87", "mldsa65")
CLASSICAL_SIGNATURES = ("ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384")


class TlsProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One end's certificate and what it accepts of others. Nothing is read before a context is made.

    `identity`: the only peer that is accepted (None: any that the trust file vouches for; the caller decides by
    `peer_identity`). `roles`: roles of certificates that are accepted (None: any, also certificates of other PKIs). A
    post-quantum profile needs a revocation list; a classical one checks it when it is given.
    """

    certificate: Path
    key: Path
    trust: Path
    crl: Path | None = None
    suite: Suite = "post-quantum"
    groups: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    identity: str | None = None
    roles: tuple[str, ...] | None = None
    name: str = "TLS"

    def effective_groups(self) -> tuple[str, ...]:
        known = POST_QUANTUM_GROUPS if self.suite == "post-quantum" else (*CLASSICAL_GROUPS, *POST_QUANTUM_GROUPS)
        default = POST_QUANTUM_GROUPS[:2] if self.suite == "post-quantum" else CLASSICAL_GROUPS
        return _checked(self.groups or default, known, self, "group")

    def effective_signatures(self) -> tuple[str, ...]:
        known = POST_QUANTUM_SIGNATURES if self.suite == "post-quantum" else CLASSICAL_SIGNATURES
        return _checked(self.signatures or known, known, self, "signature")


def _checked(names: tuple[str, ...], known: tuple[str, ...], profile: TlsProfile, what: str) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise TlsSettingRefused(
                f"{profile.name}: {what} {name!r} is not in the {profile.suite} table: {', '.join(dict.fromkeys(known))}"
            )
    return names


class Negotiated(msgspec.Struct, frozen=True):
    """What a connection really uses. `signature` is the peer's scheme, `local_signature` ours; fingerprints are SHA-256."""

    version: str
    group: str
    signature: str
    local_signature: str
    cipher: str
    peer: str
    peer_role: str
    peer_chain: tuple[str, ...]
    local_certificate: str


class TlsContext(ssl.SSLContext):
    """An ssl.SSLContext for asyncio and aiohttp whose connections are TlsObjects.

    `reload()` reads the files again: connections made before keep what they have, connections made after use the new
    certificate, trust and revocation list. `on_failure` is told every failed handshake as a PeerError.
    """

    profile: TlsProfile
    on_failure: OnFailure

    def __new__(cls, profile: TlsProfile, side: Literal["server", "client"], clock: Clock | None = None) -> TlsContext:
        context: TlsContext = super().__new__(
            cls, ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT
        )
        return context

    def __init__(self, profile: TlsProfile, side: Literal["server", "client"], clock: Clock | None = None) -> None:
        self.profile = profile
        self.side = side
        self.on_failure = _ignore
        self._clock: Clock = clock or SystemClock()
        self.reload()

    def reload(self) -> None:
        """Read certificate, key, trust and revocation list again. Raises CredentialError and keeps the old ones then."""
        if self.profile.suite == "post-quantum" and self.profile.crl is None:
            raise TlsSettingRefused(f"{self.profile.name}: a post-quantum profile needs a revocation list (crl)")
        groups, signatures = self.profile.effective_groups(), self.profile.effective_signatures()
        material = Material(self.profile.certificate, self.profile.key, self.profile.trust, self.profile.crl)
        scheme = certificates.signature_scheme(material.leaf)
        if scheme not in signatures:
            raise TlsSettingRefused(
                f"{self.profile.name}: the certificate {self.profile.certificate} signs with {scheme or 'another algorithm'}, "
                f"allowed: {', '.join(signatures)}"
            )
        self._engine, self._store = build(material, groups, signatures, self.profile.name)
        self.material = material

    def for_connection(self, on_failure: OnFailure) -> TlsContext:
        """The same context with its own failure callback (one connection attempt wants to know its own failure)."""
        other = ssl.SSLContext.__new__(
            TlsContext, ssl.PROTOCOL_TLS_SERVER if self.side == "server" else ssl.PROTOCOL_TLS_CLIENT
        )
        for name, value in vars(self).items():
            setattr(other, name, value)
        other.on_failure = on_failure
        return other

    def wrap_bio(  # type: ignore[override]  # the object is not an ssl.SSLObject but behaves as one for asyncio
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> TlsObject:
        # validity is judged by the injected wall clock at the moment of the handshake
        self._store.set_time(certificates.moment(self._clock.wall()))
        name = server_hostname.decode() if isinstance(server_hostname, bytes) else server_hostname
        return TlsObject(
            self._engine,
            incoming,
            outgoing,
            server_side=server_side,
            name=self.profile.name,
            expected_identity=self.profile.identity,
            roles=self.profile.roles,
            server_name=name,
            on_failure=self.on_failure,
            owner=self,
        )

    def wrap_socket(self, *_args: Any, **_kwargs: Any) -> Never:
        raise TlsSettingRefused("this context works through memory BIOs only: use asyncio or aiohttp")


def _ignore(_error: PeerError) -> None:
    """Nobody listens to failures; the caller of the connection sees them anyway."""


def server_context(profile: TlsProfile, clock: Clock | None = None) -> TlsContext:
    """Context for a listener: asks for the client's certificate, TLS 1.3 only. Raises CredentialError, TlsSettingRefused."""
    return TlsContext(profile, "server", clock)


def client_context(profile: TlsProfile, clock: Clock | None = None) -> TlsContext:
    """Context for connecting. The peer is recognised by `profile.identity`, not by host name: addresses of nodes change,
    their identities do not."""
    return TlsContext(profile, "client", clock)


def _tls_object(transport: Any) -> TlsObject:
    if isinstance(transport, TlsObject):
        return transport
    found = transport.get_extra_info("ssl_object")
    if not isinstance(found, TlsObject):
        raise TlsSettingRefused("this connection does not use a context of qkdd.peer.tls")
    return found


def peer_identity(transport: Any) -> str:
    """Name of the other end from its certificate (SAN URI qkd://role/id, else DNS name, else common name).

    `transport`: anything with `get_extra_info` (asyncio transport or StreamWriter, aiohttp's `request.transport`).
    """
    return negotiated(transport).peer


def negotiated(transport: Any) -> Negotiated:
    """What this connection uses; see Negotiated."""
    tls = _tls_object(transport)
    owner = tls.context
    peer = tls.peer_certificate()
    if peer is None or not isinstance(owner, TlsContext):
        raise TlsSettingRefused("the handshake is not finished")
    who = certificates.identity(peer)
    chain = tls.connection.get_verified_chain(as_cryptography=True) or []
    local = tls.connection.get_certificate(as_cryptography=True)
    if local is None:
        raise TlsSettingRefused("the connection has no certificate of its own")
    return Negotiated(
        version=tls.version(),
        group=tls.connection.get_group_name() or "",
        signature=certificates.signature_scheme(peer),
        local_signature=certificates.signature_scheme(local),
        cipher=tls.connection.get_cipher_name() or "",
        peer=who.name,
        peer_role=who.role,
        peer_chain=tuple(certificates.fingerprint(c) for c in chain),
        local_certificate=certificates.fingerprint(local),
    )


def peer_certificate(transport: Any) -> Any:
    """The other end's certificate (cryptography.x509.Certificate)."""
    return _tls_object(transport).peer_certificate()


def exporter(transport: Any, label: str, context: bytes = b"") -> bytes:
    """32 bytes of keying material that only the two ends of this connection know (RFC 8446 7.5)."""
    material: bytes = _tls_object(transport).connection.export_keying_material(label.encode(), 32, context)
    return material


def self_test(profile: TlsProfile, clock: Clock | None = None) -> Negotiated:
    """A handshake with itself at start-up: what is really negotiated must be what the profile demands.

    Needs a certificate for both sides (node or kms). Raises TlsSelfTestFailed, or the certificate's own error: an expired or
    revoked certificate is found here, before anything starts.
    """
    plain = msgspec.structs.replace(profile, identity=None, roles=None, name=f"{profile.name} self-test")
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    client = client_context(plain, clock).wrap_bio(client_in, client_out)
    server = server_context(plain, clock).wrap_bio(server_in, server_out, server_side=True)
    waiting = [client, server]
    for _ in range(8):  # TLS 1.3 needs three flights
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
            except (TlsFailure, TlsCertificateFailure) as error:
                raise error.error from None
            server_in.write(client_out.read())
            client_in.write(server_out.read())
    if waiting:
        raise TlsSelfTestFailed(f"{plain.name}: the handshake does not end")
    try:
        found = [negotiated(side) for side in (client, server)]
    except SSL.Error as error:
        raise TlsSelfTestFailed(f"{plain.name}: {error}") from None
    wanted_group = plain.effective_groups()[0]
    scheme = certificates.signature_scheme(certificates.load_certificates(plain.certificate)[0])
    for end in found:
        if end.version != "TLSv1.3" or end.group.lower() != wanted_group.lower() or end.signature != scheme:
            raise TlsSelfTestFailed(
                f"{plain.name}: negotiated {end.version}, {end.group}, {end.signature}; "
                f"demanded TLSv1.3, {wanted_group}, {scheme}",
                group=end.group,
                signature=end.signature,
            )
    return found[0]


__all__ = [
    "CLASSICAL_GROUPS",
    "CLASSICAL_SIGNATURES",
    "POST_QUANTUM_GROUPS",
    "POST_QUANTUM_SIGNATURES",
    "Negotiated",
    "TlsContext",
    "TlsProfile",
    "client_context",
    "explain",
    "exporter",
    "negotiated",
    "peer_certificate",
    "peer_identity",
    "self_test",
    "server_context",
]
