"""Errors of the peer room: TLS and certificates, frames, sessions, authentication."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError


class PeerError(QkddError):
    """Anything that is wrong with the classical channel or the node at its other end."""


class PeerUnreachable(PeerError):
    code = "QKD-PEER-UNREACHABLE"
    kind = Kind.TRANSIENT
    meaning = "No TCP connection to the other node could be made."
    default_remedy = "Check that the other node runs, its address in [peer], and the firewalls between."


class PeerClosed(PeerError):
    code = "QKD-PEER-CLOSED"
    kind = Kind.TRANSIENT
    meaning = "The session with the other node ended: it closed the connection, or the network did."
    default_remedy = "Nothing: the node reconnects by itself. See the other node's log if it happens again and again."


class PeerSilent(PeerError):
    code = "QKD-PEER-SILENT"
    kind = Kind.TRANSIENT
    meaning = "The other node answered nothing for longer than the deadline; the session was dropped."
    default_remedy = "Nothing: the node reconnects by itself. Check the network and the other node's load if it stays."


class ProtocolError(PeerError):
    code = "QKD-PEER-PROTOCOL"
    kind = Kind.TRANSIENT
    meaning = "The other node sent something that the protocol does not allow at this place."
    default_remedy = "Check that both nodes run compatible versions; report both logs if they do."


class FrameGarbage(ProtocolError):
    code = "QKD-PEER-FRAME"
    meaning = (
        "Bytes arrived that are no frame, or a frame that is too long or does not decode; the session was dropped."
    )
    default_remedy = "Check what else talks to this port; if it is the other node, report both logs."


class FrameReplayed(ProtocolError):
    code = "QKD-PEER-SEQUENCE"
    meaning = "A frame arrived out of its order, twice or from another time; the session was dropped."
    default_remedy = (
        "TLS alone already forbids this: look for a tampering middle box or a defect, and report both logs."
    )


class VersionMismatch(PeerError):
    code = "QKD-PEER-VERSION"
    meaning = "The two nodes have no protocol version or no required capability in common."
    default_remedy = "Upgrade the older node; the message names both ranges."


class ConfigMismatch(PeerError):
    code = "QKD-PEER-CONFIG-MISMATCH"
    meaning = "The section [link.shared] differs between the two nodes."
    default_remedy = "Make the named key equal in both nodes' configuration files and reload."


class RoleMismatch(PeerError):
    code = "QKD-PEER-ROLE"
    meaning = "Both nodes claim the same role, or the link's name differs."
    default_remedy = "One node of a link has role alice, the other bob, and both name the same link."


class PeerAborted(PeerError):
    """The other node discarded the block; `peer_code` is its reason."""

    code = "QKD-PEER-ABORTED"
    kind = Kind.KEY_MATERIAL
    meaning = "The other node discarded the block and told its reason; this node discards it too."
    default_remedy = "See the reason's own code; the next block goes on by itself."

    def __init__(self, peer_code: str, reason: str = "") -> None:
        super().__init__(f"the other node discarded the block: {peer_code} {reason}".rstrip(), peer_code=peer_code)
        self.peer_code = peer_code
        self.reason = reason


class AuthenticationFailed(PeerError):
    code = "QKD-BLK-AUTH"
    kind = Kind.KEY_MATERIAL
    meaning = "A seal over the classical messages does not verify; the block is discarded."
    default_remedy = (
        "If it happens once, nothing. If it goes on, somebody changes messages inside TLS, or the two nodes' masks differ: "
        "look at both logs, then re-bootstrap the authentication on both nodes."
    )


class MasksEmpty(PeerError):
    code = "QKD-PEER-MASKS-EMPTY"
    meaning = "The one-time masks for authentication are used up; no block is started."
    default_remedy = "Re-bootstrap the authentication on both nodes (operator action); see docs/rooms/peer.md."


class AuthStateMismatch(PeerError):
    code = "QKD-PEER-AUTH-STATE"
    meaning = (
        "One node has established Wegman-Carter authentication and the other has lost its keys; no silent fallback."
    )
    default_remedy = "Find out why the other node lost its state, then re-bootstrap the authentication on both nodes."


class TlsSelfTestFailed(PeerError):
    code = "QKD-PEER-TLS-SELFTEST"
    meaning = (
        "The handshake of this node with itself did not negotiate what the configuration demands; nothing is started."
    )
    default_remedy = (
        "Check groups, signatures and certificate of the profile, and the versions of cryptography and pyOpenSSL."
    )


class TlsSettingRefused(PeerError):
    code = "QKD-PEER-TLS-SETTING"
    meaning = "The TLS library does not know a configured group, signature algorithm or cipher suite."
    default_remedy = "Use names of docs/rooms/peer.md; nothing was left at a default."


class TlsNegotiationFailed(PeerError):
    code = "QKD-PEER-TLS-NEGOTIATION"
    kind = Kind.TRANSIENT
    meaning = "The two ends share no TLS version, key-exchange group, signature or cipher."
    default_remedy = "Compare `groups` and `signatures` of both ends; TLS 1.3 is the only version."


class TlsFailed(PeerError):
    code = "QKD-PEER-TLS"
    kind = Kind.TRANSIENT
    meaning = "The TLS handshake or record layer failed for a reason that is none of the certificate's."
    default_remedy = "Check what answers at the address: it may not speak TLS 1.3 or may not be qkdd."


class CertificateError(PeerError):
    """The other end's certificate was refused here, or ours was refused there."""


class CertMissing(CertificateError):
    code = "QKD-PEER-CERT-MISSING"
    meaning = "The other end showed no certificate."
    default_remedy = "Give the client its certificate and key; every connection is mutual."


class CertUnknownCa(CertificateError):
    code = "QKD-PEER-CERT-UNKNOWN-CA"
    meaning = "The other end's certificate was issued by an authority that is not in the trust file, or the chain is incomplete."
    default_remedy = (
        "Compare the issuer with `qkdd pki show` of the trust file; send the intermediate with the certificate."
    )


class CertExpired(CertificateError):
    code = "QKD-PEER-CERT-EXPIRED"
    meaning = "A certificate in the other end's chain has expired, or its time has not begun yet."
    default_remedy = "Renew it with `qkdd pki renew` and reload; check both machines' clocks."


class CertRevoked(CertificateError):
    code = "QKD-PEER-CERT-REVOKED"
    meaning = "The other end's certificate is on the revocation list."
    default_remedy = "Issue a new certificate if the node is trusted again; else find out who uses the revoked one."


class CertCrl(CertificateError):
    code = "QKD-PEER-CERT-CRL"
    meaning = "The revocation list is missing, expired or not signed by the authority; without it nobody is trusted."
    default_remedy = "Make a fresh list with `qkdd pki crl`, distribute it and reload."


class CertIdentity(CertificateError):
    code = "QKD-PEER-CERT-IDENTITY"
    meaning = "The certificate is valid but belongs to another node or service than the configured one."
    default_remedy = "Check the peer's id in the configuration and who answers at the address."


class CertPurpose(CertificateError):
    code = "QKD-PEER-CERT-PURPOSE"
    meaning = "The certificate's extended key usage or role does not allow what it was used for."
    default_remedy = "Issue a certificate for this role with `qkdd pki issue`; a SAE's certificate is no node's."


class CertInvalid(CertificateError):
    code = "QKD-PEER-CERT-INVALID"
    meaning = "A certificate in the other end's chain is not acceptable (signature, constraints or algorithm)."
    default_remedy = "Look at it with `qkdd pki check`; it says what is wrong with a chain."


class CertRefusedByPeer(CertificateError):
    code = "QKD-PEER-CERT-REFUSED"
    meaning = "The other end refused this node's certificate; its alert is named."
    default_remedy = "Look at the other end's log for its reason; check this node's certificate with `qkdd pki check`."


class PkiRefused(PeerError):
    code = "QKD-PEER-PKI"
    meaning = "A request to `qkdd pki` cannot be carried out; nothing was written."
    default_remedy = "The message says what is wrong; `qkdd pki show` shows what stands."
