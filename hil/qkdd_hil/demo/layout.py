"""The run folder of a demonstration: addresses, PKI, configuration files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkdd.core.ports import free_ports
from qkdd.peer.pki import CredentialPaths, DemoPki, demo_pki
from qkdd_hil.demo import toml
from qkdd_hil.demo.options import Options
from qkdd_hil.demo.variants import choose
from qkdd_hil.demo.variants.base import SIDES

PORT_KINDS = ("metrics", "node-plane", "kms-plane", "kms-metrics", "classical", "pq")
PORT_NAMES = ("peer", "relay", *(f"{kind}-{side}" for side in SIDES for kind in PORT_KINDS))
__all__ = ["LINK", "PORT_NAMES", "SIDES", "Layout", "free_ports"]

LINK = "a-b"
SOCKET_PATH_LIMIT = 100  # bytes; the system's limit is 107


@dataclass(slots=True)
class Layout:
    """Everything of one run that has a name: folder, sockets' folder, ports, certificates."""

    folder: Path
    sockets: Path
    ports: dict[str, int]
    pki: DemoPki
    temporary: list[Path] = field(default_factory=list)

    @classmethod
    def make(cls, options: Options) -> Layout:
        """Make the folder (a temporary one unless asked for) with a fresh PKI in it."""
        temporary = []
        if options.directory is None:
            folder = Path(tempfile.mkdtemp(prefix="qkdd-demo-"))
            temporary.append(folder)
        else:
            folder = options.directory.resolve()
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise FileExistsError(
                    f"{folder} is not empty; a demonstration starts with fresh keys in a fresh folder"
                )
        folder.chmod(0o700)
        sockets = folder / "run"
        if len(os.fsencode(sockets / "bench.sock")) > SOCKET_PATH_LIMIT:
            sockets = Path(tempfile.mkdtemp(prefix="qkdd-run-"))
            temporary.append(sockets)
        sockets.mkdir(exist_ok=True)
        (folder / "logs").mkdir()
        ports = dict(zip(PORT_NAMES, free_ports(len(PORT_NAMES)), strict=True))
        return cls(folder, sockets, ports, demo_pki(folder / "pki"), temporary)

    def remove(self, *, keep_logs: bool) -> None:
        """Delete what was temporary; the folder stays when its logs are wanted."""
        for path in self.temporary:
            if not (keep_logs and path == self.folder):
                shutil.rmtree(path, ignore_errors=True)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def control_socket(self, name: str) -> Path:
        """Path of the control socket of "alice", "bob" or "bench"."""
        return self.sockets / f"{name}.sock"

    def node_store(self, side: str) -> Path:
        """Database of a node's keys."""
        return self.folder / "state" / side / "keys.sqlite"

    def kms_store(self, side: str) -> Path:
        """Database of a site's KMS."""
        return self.folder / "state" / f"kms-{side}" / "kms.db"

    def _write(self, name: str, tree: Mapping[str, Any]) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(toml.dumps(tree), encoding="utf-8")
        return path

    def write_bench(self, options: Options) -> Path:
        """The bench's configuration."""
        tree = {**choose(options).bench(self.sockets), "control": self.control_socket("bench")}
        return self._write("bench", tree)

    def write_node(self, side: str, instruments: Mapping[str, Any], options: Options) -> Path:
        """A daemon's configuration for the instruments at the addresses that the bench printed."""
        end = {"listen" if side == "alice" else "connect": f"127.0.0.1:{self.ports['peer']}"}
        peer = "bob" if side == "alice" else "alice"
        variant = choose(options)
        tree = {
            "node": {
                "id": side,
                "state_directory": self.folder / "state" / side,
                "master_key": self.pki.master_keys[side],
            },
            "control": {"socket": self.control_socket(side)},
            "telemetry": {"listen": f"127.0.0.1:{self.ports[f'metrics-{side}']}"},
            "devices": variant.devices(side, instruments),
            "link": {"name": LINK, "role": side, **variant.link(side)},
            "peer": {**end, "peer_id": peer, **_files(self.pki.post_quantum[side])},
            "keys": {
                "kms_url": f"https://127.0.0.1:{self.ports[f'node-plane-{side}']}",
                "kms_id": f"kms-{side}",
                **_files(self.pki.post_quantum[side]),
            },
        }
        return self._write(side, tree)

    def write_kms(self, side: str, options: Options) -> Path:
        """A KMS's configuration: node plane, plane between the KMSs, a classical and a post-quantum 014 listener."""
        peer = "bob" if side == "alice" else "alice"
        post_quantum = _files(self.pki.post_quantum[f"kms-{side}"])
        classical = _files(self.pki.classical[f"kms-{side}"])
        tree = {
            "kms": {
                "id": f"kms-{side}",
                "state_directory": self.folder / "state" / f"kms-{side}",
                "master_key": self.pki.master_keys[f"kms-{side}"],
                "metrics": self._at("kms-metrics", side),
            },
            "node_plane": {"listen": self._at("node-plane", side), "nodes": [side], **post_quantum},
            "kms_plane": {"listen": self._at("kms-plane", side), **post_quantum},
            "peers": {f"kms-{peer}": {"url": f"https://{self._at('kms-plane', peer)}", "links": [LINK]}},
            "sae": {
                "post-quantum": {"listen": self._at("pq", side), **post_quantum},
                "classical": {"listen": self._at("classical", side), **classical},
            },
            "saes": {f"sae-{side}": {}},
            "limits": {"redelivery_window": options.redelivery_window},
            "pairs": [{"master": f"sae-{side}", "slave": f"sae-{peer}", "peer": f"kms-{peer}"}],
        }
        return self._write(f"kms-{side}", tree)

    def _at(self, name: str, side: str) -> str:
        return f"127.0.0.1:{self.ports[f'{name}-{side}']}"


def _files(paths: CredentialPaths) -> dict[str, Path]:
    return {"certificate": paths.certificate, "key": paths.key, "trust": paths.trust, "crl": paths.crl}
