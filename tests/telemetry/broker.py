"""A mosquitto of the test's own on loopback: TLS 1.3, client certificates, the access list of docs/mqtt.md."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ACL = "pattern readwrite qkd/v1/+/%u/#\n"


class Pki:
    """A small authority with P-256 keys: mosquitto's OpenSSL knows no ML-DSA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        self.trust = self._save("ca", self._sign(self._name, self._key, ca=True), self._key)[0]

    def issue(self, name: str, *, host: str | None = None) -> tuple[Path, Path]:
        """Certificate and key files."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._save(name, self._sign(_name(name), key, host=host), key)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False, host: str | None = None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _save(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
        pem, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        secret.chmod(0o600)
        return pem, secret


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Broker:
    """`start`, `stop`; listens on localhost:`port`."""

    def __init__(self, folder: Path, pki: Pki, acl: str = ACL) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        if not os.path.exists(program):
            pytest.skip("mosquitto is not installed (Debian package mosquitto)")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._program, self._folder = program, folder
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = pki.issue("localhost", host="localhost")
        (folder / "acl").write_text(acl + "user observer\ntopic read qkd/v1/#\n")
        (folder / "acl").chmod(0o600)
        user = "user root\n" if os.geteuid() == 0 else ""
        (folder / "conf").write_text(
            f"{user}listener {self.port} 127.0.0.1\ncafile {pki.trust}\ncertfile {certificate}\nkeyfile {key}\n"
            "require_certificate true\nuse_identity_as_username true\ntls_version tlsv1.3\n"
            f"acl_file {folder / 'acl'}\npersistence false\nallow_anonymous false\n"
        )
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._child = subprocess.Popen([self._program, "-c", str(self._folder / "conf")], stderr=log, stdout=log)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self._folder / "log").read_text())

    def stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
