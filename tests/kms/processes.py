"""Two `qkdd-kms run` as child processes, started, stopped, signalled and killed by a test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qkdd.peer.pki_demo import DemoPki
from qkdd.testing.patience import PATIENCE_S

from .sites import SITES, Sites, free_port, kms_tree

PROGRAM = str(Path(sys.executable).with_name("qkdd-kms"))
LISTENERS = ("node_plane", "kms_plane", "sae.post-quantum", "sae.classical")


def inline(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


class ProcessSites(Sites):
    """As Sites; `children["alice"]` is the process and `files["alice"]` its configuration."""

    def __init__(self, pki: DemoPki, root: Path, **limits: Any) -> None:
        super().__init__(pki, root, **limits)
        self.listen = {site: {name: ("127.0.0.1", free_port()) for name in LISTENERS} for site in SITES}
        self.ports = {site: self.listen[site]["kms_plane"][1] for site in SITES}
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.files = {site: self._write(site) for site in SITES}
        for site in SITES:
            self.servers[site] = SimpleNamespace(addresses=self.listen[site])  # type: ignore[assignment]

    def _write(self, site: str) -> Path:
        tree = kms_tree(self.pki, site, self.root / site, self.ports, **self.limits)
        for name, (host, port) in self.listen[site].items():
            table, _, key = name.partition(".")
            (tree[table][key] if key else tree[table])["listen"] = f"{host}:{port}"
        file = self.root / f"{site}.toml"
        self.root.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name} = {inline(value)}\n" for name, value in tree.items()), encoding="utf-8")
        return file

    def _spawn(self, site: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{site}.log").open("ab") as log:
            return subprocess.Popen([PROGRAM, "run", str(self.files[site])], stderr=log, stdin=subprocess.DEVNULL)

    async def start(self, site: str) -> Any:
        self.children[site] = child = self._spawn(site)
        for _ in range(round(PATIENCE_S / 0.05)):
            try:
                for _, port in self.listen[site].values():
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                return child
            except OSError:
                assert child.poll() is None, (self.root / f"{site}.log").read_text()
                await asyncio.sleep(0.05)
        raise AssertionError(f"{site} does not listen")

    async def wait(self, site: str) -> int:
        return await asyncio.to_thread(self.children[site].wait, PATIENCE_S)

    async def stop(self, site: str) -> None:
        self.children[site].send_signal(signal.SIGTERM)
        await self.wait(site)

    async def kill(self, site: str) -> None:
        os.kill(self.children[site].pid, signal.SIGKILL)
        await self.wait(site)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        for site, child in self.children.items():
            if child.poll() is None:
                await self.stop(site)


@asynccontextmanager
async def two_processes(pki: DemoPki, root: Path, **limits: Any) -> AsyncIterator[ProcessSites]:
    sites = ProcessSites(pki, root, **limits)
    try:
        await asyncio.gather(*(sites.start(site) for site in SITES))
        yield sites
    finally:
        await sites.close()
