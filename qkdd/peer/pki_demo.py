"""The PKI of the demonstration: two authorities (post-quantum and classical) and everything that the demo's processes need."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qkdd.core.clock import Clock
from qkdd.core.sealing import create_master_key
from qkdd.peer.authority import Algorithm, Authority, CertificateRole, Credential

NODES = ("alice", "bob")
KMS = ("kms-alice", "kms-bob")
SAES = ("sae-alice", "sae-bob")
_HOSTS = ("localhost",)
_LOOPBACK = ("127.0.0.1", "127.0.0.2", "::1")


class CredentialPaths(msgspec.Struct, frozen=True):
    """What one end needs: certificate (with intermediates), key, trust file, revocation list."""

    certificate: Path
    key: Path
    trust: Path
    crl: Path


class DemoPki(msgspec.Struct, frozen=True):
    """Paths by name. `post_quantum` has nodes, KMSs and SAEs; `classical` has KMSs and SAEs; master keys have nodes and KMSs."""

    directory: Path
    post_quantum: dict[str, CredentialPaths]
    classical: dict[str, CredentialPaths]
    master_keys: dict[str, Path]


def demo_pki(
    directory: Path,
    *,
    algorithm: Algorithm = "ml-dsa-65",
    classical_algorithm: Algorithm = "ecdsa-p256",
    intermediate: bool = False,
    clock: Clock | None = None,
) -> DemoPki:
    """Make everything in a new directory:

        pq-ca/ classical-ca/                     the authorities (trust.pem, crl.pem in them)
        NAME.pem NAME.key                        alice, bob, kms-alice, kms-bob, sae-alice, sae-bob (post-quantum)
        NAME-classical.pem NAME-classical.key    kms-alice, kms-bob, sae-alice, sae-bob
        NAME-master.key                          alice, bob, kms-alice, kms-bob

    Keys have mode 0600. Servers' certificates also name localhost and loopback addresses, for clients that check host names.
    Raises PkiRefused if the directory holds an authority already.
    """
    directory.mkdir(parents=True, exist_ok=True)
    post_quantum = Authority.create(directory / "pq-ca", algorithm, "qkdd demo", intermediate=intermediate, clock=clock)
    classical = Authority.create(directory / "classical-ca", classical_algorithm, "qkdd demo classical", clock=clock)
    roles: dict[str, CertificateRole] = {
        **dict.fromkeys(NODES, "node"),
        **dict.fromkeys(KMS, "kms"),
        **dict.fromkeys(SAES, "sae"),
    }
    made: dict[str, CredentialPaths] = {}
    made_classical: dict[str, CredentialPaths] = {}
    for name, role in roles.items():
        made[name] = _make(directory, name, post_quantum, _issue(post_quantum, role, name))
        if role != "node":
            made_classical[name] = _make(directory, f"{name}-classical", classical, _issue(classical, role, name))
    masters = {name: directory / f"{name}-master.key" for name in (*NODES, *KMS)}
    for path in masters.values():
        create_master_key(path)
    return DemoPki(directory, made, made_classical, masters)


def _issue(authority: Authority, role: CertificateRole, name: str) -> Credential:
    if role == "sae":
        return authority.issue(role, name)
    return authority.issue(role, name, dns=(*_HOSTS, name), addresses=_LOOPBACK)


def _make(directory: Path, stem: str, authority: Authority, credential: Credential) -> CredentialPaths:
    paths = CredentialPaths(
        directory / f"{stem}.pem", directory / f"{stem}.key", authority.trust_file, authority.crl_file
    )
    credential.write(paths.certificate, paths.key)
    return paths
