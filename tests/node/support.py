"""A node's file with everything it needs, in a folder of a test."""

from __future__ import annotations

import os
from pathlib import Path

from qkdd.core.sealing import create_master_key

TEXT = """\
[node]
id = "{me}"
state_directory = "state"
master_key = "master.key"

[control]
socket = "c.sock"

[telemetry]
listen = "127.0.0.1:0"

[devices.tagger]
driver = "s15_tdc1"
port = "{folder}/no-tagger"

[devices.polarization]
driver = "thorlabs_mpc320"
port = "{folder}/no-paddles"

[link]
name = "a-b"
role = "{me}"
polarization = "polarization"

[link.shared]
window = "6 ns"

[peer]
{end} = "127.0.0.1:{port}"
peer_id = "{other}"
certificate = "node.pem"
key = "node.key"
trust = "ca.pem"
crl = "ca.crl"

[keys]
kms_url = "https://127.0.0.1:1"
kms_id = "kms-{me}"
certificate = "node.pem"
key = "node.key"
trust = "ca.pem"
crl = "ca.crl"
"""


def write_node(folder: Path, *, me: str = "alice", port: int = 0) -> Path:
    """Write the file and credentials that can be read (not certificates that anybody would accept)."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "master.key").exists():
        create_master_key(folder / "master.key")
    for name in ("node.pem", "node.key", "ca.pem", "ca.crl"):
        if not (folder / name).exists():
            (folder / name).write_text("placeholder\n")
            os.chmod(folder / name, 0o600)
    other = "bob" if me == "alice" else "alice"
    end = "listen" if me == "alice" else "connect"
    text = TEXT.format(folder=folder, me=me, other=other, end=end, port=port)
    path = folder / f"{me}.toml"
    path.write_text(text)
    return path


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new, 1))
    return path
