"""`qkdd pki` and what is under it: files, modes, renewals, revocation, and the words of `check`."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner

from qkdd.core.errors import CredentialError
from qkdd.core.sealing import load_master_key
from qkdd.peer import certificates, pki, tls
from qkdd.peer.errors import PkiRefused
from qkdd.peer.pki_cli import app
from qkdd.testing.clock import FakeClock


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("algorithm", pki.ALGORITHMS)
def test_the_whole_life_of_a_certificate_by_command_line(tmp_path: Path, algorithm: str) -> None:
    ca, cert, key = tmp_path / "ca", tmp_path / "alice.pem", tmp_path / "alice.key"
    run("init", ca, "--algorithm", algorithm, "--name", "site", "--intermediate")
    (ca / "root.key").rename(tmp_path / "root.key in the safe")
    run("issue", "node", "alice", cert, key, "--ca", ca, "--dns", "alice.example", "--address", "192.0.2.1")
    assert "well" in run("check", cert, "--trust", ca / "trust.pem", "--crl", ca / "crl.pem", "--key", key)
    shown = json.loads(run("show", cert, "--json"))
    assert [row["role"] for row in shown] == ["node", ""]
    assert shown[0]["identity"] == "alice"
    assert "192.0.2.1" in shown[0]["names"]
    before = key.read_bytes()
    run("renew", cert, key, "--ca", ca)
    after = json.loads(run("show", cert, "--json"))[0]
    assert key.read_bytes() != before
    assert (after["identity"], after["names"]) == (shown[0]["identity"], shown[0]["names"])
    assert after["serial"] != shown[0]["serial"]
    run("revoke", cert, "--ca", ca, "--reason", "keyCompromise")
    assert "QKD-PEER-CERT-REVOKED" in run("check", cert, "--trust", ca / "trust.pem", "--crl", ca / "crl.pem", code=1)
    issued = json.loads(run("show", ca, "--json"))
    assert [bool(entry["revoked"]) for entry in issued] == [False, True]
    run("crl", "--ca", ca, "--days", 3)
    run("renew", cert, key, "--ca", ca, code=1)  # a revoked one is not renewed


def test_private_files_are_private(tmp_path: Path) -> None:
    made = pki.demo_pki(tmp_path / "p")
    secret = [p for p in (tmp_path / "p").rglob("*.key")]
    assert len(secret) == 2 + 6 + 4 + 4
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in made.master_keys.values():
        assert len(load_master_key(path)) == 32
    for paths in (*made.post_quantum.values(), *made.classical.values()):
        assert pki.check(paths.certificate, paths.trust, paths.crl, paths.key) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run("init", tmp_path / "ca", "--algorithm", "ml-dsa-65")
    assert "QKD-PEER-PKI" in run("init", tmp_path / "ca", code=1)
    run("issue", "kms", "k", tmp_path / "k.pem", tmp_path / "k.key", "--ca", tmp_path / "ca")
    run("issue", "kms", "k", tmp_path / "k.pem", tmp_path / "k.key", "--ca", tmp_path / "ca", code=1)
    run("master-key", tmp_path / "m.key")
    before = (tmp_path / "m.key").read_bytes()
    assert "never overwritten" in run("master-key", tmp_path / "m.key", code=1)
    assert (tmp_path / "m.key").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("issue", "king", "alice"),
        ("issue", "node", "../alice"),
        ("issue", "node", ""),
        ("issue", "node", "alice", "--algorithm", "rsa-2048"),
        ("issue", "node", "alice", "--address", "not-an-address"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    run("init", tmp_path / "ca", "--algorithm", "ecdsa-p256")
    out = run(*arguments[:3], tmp_path / "x.pem", tmp_path / "x.key", "--ca", tmp_path / "ca", *arguments[3:], code=1)
    assert "QKD-PEER-PKI" in out
    assert not (tmp_path / "x.key").exists()


def codes(*arguments: Any, **options: Any) -> list[str]:
    return [finding.code for finding in pki.check(*arguments, **options)]


def test_check_explains(site: Any, tmp_path: Path) -> None:
    alice = site.make("alice")
    other = pki.Authority.create(tmp_path / "other", "ml-dsa-65", "other")
    same_name = pki.Authority.create(tmp_path / "same", "ml-dsa-65", "test")  # same name, another key
    assert codes(alice.certificate, other.trust_file) == ["QKD-PEER-CERT-UNKNOWN-CA"]
    assert codes(alice.certificate, same_name.trust_file) == ["QKD-PEER-CERT-UNKNOWN-CA"]
    assert "QKD-PEER-CERT-CRL" in codes(alice.certificate, alice.trust, other.crl_file)
    assert "QKD-PEER-CERT-CRL" in codes(alice.certificate, alice.trust, same_name.crl_file)
    bob = site.make("bob")
    assert codes(alice.certificate, alice.trust, alice.crl, bob.key) == ["QKD-PEER-CERT-INVALID"]
    late = FakeClock()
    late.step_wall(
        x509.load_pem_x509_certificate(alice.certificate.read_bytes()).not_valid_after_utc.timestamp() - late.wall()
    )
    late.step_wall(60)
    assert codes(alice.certificate, alice.trust, clock=late) == ["QKD-PEER-CERT-EXPIRED"]
    late.step_wall(-3 * 86400)
    assert codes(alice.certificate, alice.trust, clock=late) == [""]  # a note: it expires in 2 days
    with pytest.raises(CredentialError):
        pki.check(alice.key, alice.trust)


def test_an_identity_comes_from_uri_then_dns_then_common_name(site: Any) -> None:
    leaf = certificates.load_certificates(site.make("alice", dns=("alice.example",)).certificate)[0]
    assert certificates.identity(leaf) == certificates.Identity("alice", "node")
    assert certificates.identity(site.ca.root) == certificates.Identity("test root", "")


def test_foreign_serials_are_refused(site: Any) -> None:
    with pytest.raises(PkiRefused):
        site.ca.revoke(12345)
    with pytest.raises(PkiRefused):
        site.ca.revoke(site.ca.issue("node", "x").leaf.serial_number, "because")


def test_a_chain_with_intermediate_needs_both_lists(tmp_path: Path) -> None:
    made = pki.demo_pki(tmp_path / "p", intermediate=True)
    paths = made.post_quantum["alice"]
    profile = tls.TlsProfile(certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl)
    assert len(tls.self_test(profile).peer_chain) == 3
    lists = paths.crl.read_bytes().split(b"-----END X509 CRL-----\n")
    paths.crl.write_bytes(lists[0] + b"-----END X509 CRL-----\n")
    assert "QKD-PEER-CERT-CRL" in codes(paths.certificate, paths.trust, paths.crl)
