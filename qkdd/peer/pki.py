"""The public face of the PKI functions: `qkdd pki`, the demo and the tests use these."""

from qkdd.peer.authority import (
    ALGORITHMS,
    Algorithm,
    Authority,
    CertificateRole,
    Credential,
    Issued,
    generate_key,
    write_file,
)
from qkdd.peer.pki_check import ChainFinding, check, show
from qkdd.peer.pki_demo import CredentialPaths, DemoPki, demo_pki

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Authority",
    "CertificateRole",
    "ChainFinding",
    "Credential",
    "CredentialPaths",
    "DemoPki",
    "Issued",
    "check",
    "demo_pki",
    "generate_key",
    "show",
    "write_file",
]
