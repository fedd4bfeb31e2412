"""Two KMSs of `dev-pair`, credentials and configuration files for two agents, and the agents as processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qkdd.core.ports import free_port
from qkdd.core.sealing import create_master_key
from qkdd.kms.dev_pair import DevPair
from qkdd.kms.server import KmsServer
from qkdd.peer.pki import Authority
from qkdd.testing.patience import PATIENCE_S

PROGRAM = str(Path(sys.executable).with_name("qkd-psk"))
ENDS = ("alice", "bob")


def missing(*programs: str) -> str:
    """Why a test with real programs cannot run here; empty when it can."""
    lacking = [name for name in programs if shutil.which(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "the kernel gives no network namespaces"


def run(*command: str, check: bool = True, data: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, input=data)
    assert done.returncode == 0 or not check, f"{command}: {done.returncode} {done.stdout} {done.stderr}"
    return done.stdout


class Bed:
    """`write(end, toml)`, `start(end)`, `status(end)`, `stop_kms()`, `start_kms()`."""

    def __init__(self, folder: Path, pair: DevPair, section: str) -> None:
        self.folder, self.pair, self.section = folder, pair, section
        self.line = free_port()
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        authority = Authority(pair.directory / "pki/pq-ca")
        for end in ENDS:
            credential = authority.issue("agent", f"agent-{end}")
            credential.write(folder / f"agent-{end}.pem", folder / f"agent-{end}.key")
            create_master_key(folder / f"{end}-master.key")
        self.ends = pair.facts()["ends_post_quantum"]

    def write(self, end: str, toml: str, **agent: str) -> Path:
        other = ENDS[1 - ENDS.index(end)]
        pki = self.pair.directory / "pki"
        sae = self.ends[end]
        line = "connect" if end == "alice" else "listen"
        settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in agent.items())
        file = self.folder / f"{end}.toml"
        file.write_text(
            f'[agent]\nstate_directory = "{self.folder}/state-{end}"\nmaster_key = "{self.folder}/{end}-master.key"\n'
            f'{settings}\n[kms]\nurl = "{sae["url"].removesuffix("/api/v1/keys")}"\nidentity = "kms-{end}"\n'
            f'partner = "sae-{other}"\ncertificate = "{sae["certificate"]}"\nkey = "{sae["key"]}"\n'
            f'trust = "{sae["trust"]}"\ncrl = "{pki}/pq-ca/crl.pem"\n\n'
            f'[partner]\nidentity = "agent-{other}"\n{line} = "127.0.0.1:{self.line}"\n'
            f'certificate = "{self.folder}/agent-{end}.pem"\nkey = "{self.folder}/agent-{end}.key"\n'
            f'trust = "{pki}/pq-ca/trust.pem"\ncrl = "{pki}/pq-ca/crl.pem"\n\n{toml}',
            encoding="utf-8",
        )
        return file

    def start(self, end: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{end}.log").open("ab") as log:
            command = [PROGRAM, self.section, str(self.folder / f"{end}.toml")]
            self.children[end] = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        return self.children[end]

    def kill(self, end: str) -> None:
        self.children[end].kill()
        self.children[end].wait()

    def status(self, end: str) -> tuple[int, dict[str, Any]]:
        """Exit code of `qkd-psk status`, and what it prints."""
        command = [PROGRAM, "status", "--json", str(self.folder / f"{end}.toml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    async def until_status(self, end: str, good: Callable[[int, dict[str, Any]], bool]) -> dict[str, Any]:
        last: list[Any] = []

        async def look() -> bool:
            last[:] = await asyncio.to_thread(self.status, end)
            return good(last[0], last[1])

        await self.until(look, last)
        found: dict[str, Any] = last[1]
        return found

    async def until(self, good: Callable[[], Awaitable[bool]], about: Any = "") -> None:
        """Wait for a condition; the limit is for a machine that is very busy."""
        end = time.monotonic() + PATIENCE_S
        while not await good():
            logs = "\n".join((self.folder / f"{end}.log").read_text() for end in self.children)
            assert time.monotonic() < end, f"{about}\n{logs}"
            for name, child in self.children.items():
                assert child.poll() is None, f"{name} ended\n{logs}"
            await asyncio.sleep(0.2)

    async def stop_kms(self) -> None:
        for server in self.pair.servers.values():
            await server.stop()

    async def start_kms(self) -> None:
        for site, server in list(self.pair.servers.items()):
            self.pair.servers[site] = KmsServer(server.config, synthetic=True)
            await self.pair.servers[site].start()

    def close(self) -> None:
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            child.wait()


@asynccontextmanager
async def bed(folder: Path, section: str) -> AsyncIterator[Bed]:
    pair = DevPair(folder / "dev")
    await pair.start()
    try:
        made = Bed(folder, pair, section)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.close)
    finally:
        await pair.stop()
