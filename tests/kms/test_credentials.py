"""The master key that systemd hands over to qkdd-kms.service."""

from __future__ import annotations

from pathlib import Path

from qkdd.kms.cli import _load

FILE = """
[kms]
id = "kms-alice"
state_directory = "state"
master_key = "${CREDENTIALS_DIRECTORY}/master-key"
[node_plane]
listen = "127.0.0.1:1"
nodes = ["alice"]
certificate = "c"
key = "k"
trust = "t"
crl = "r"
[kms_plane]
listen = "127.0.0.1:2"
certificate = "c"
key = "k"
trust = "t"
crl = "r"
"""


def test_the_units_credential_is_found(tmp_path: Path) -> None:
    path = tmp_path / "kms.toml"
    path.write_text("pairs = []\n[peers]\n[sae]\n[saes]\n" + FILE)
    assert _load(path, {"CREDENTIALS_DIRECTORY": "/run/c"}).kms.master_key == "/run/c/master-key"
    assert _load(path, {}).kms.master_key == "${CREDENTIALS_DIRECTORY}/master-key"
