"""Two `qkdd-kms run` and the bare handler, with certificates, configuration and synthetic key, all on loopback."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp

from qkdd.core.errors import InternalError
from qkdd.core.ports import free_ports
from qkdd.peer.authority import Authority
from qkdd.peer.pki_demo import CredentialPaths, DemoPki, demo_pki
from qkdd.peer.tls import TlsProfile, client_context

SITES = ("alice", "bob")
LINK = "a-b"
_PLANES = ("node_plane", "kms_plane", "sae.classical", "bare")
_START = 120.0  # s until a process listens
_CHUNK = 65_536  # bytes
_TICKS = os.sysconf("SC_CLK_TCK")


def _inline(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _files(paths: CredentialPaths) -> dict[str, Path]:
    return {"certificate": paths.certificate, "key": paths.key, "trust": paths.trust, "crl": paths.crl}


class Setting:
    """Async context manager. `saes`: registered at each site, in pairs of the same number; the first `certified` can connect."""

    def __init__(self, folder: Path, saes: int, certified: int) -> None:
        self.folder, self.saes, self.certified = folder, saes, certified
        self.pki: DemoPki = demo_pki(folder / "pki")
        self.ports = {site: dict(zip(_PLANES, free_ports(len(_PLANES)), strict=True)) for site in SITES}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._credentials: dict[str, CredentialPaths] = {}
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._index = 0

    async def __aenter__(self) -> Setting:
        try:
            await asyncio.to_thread(self._certify)
            program = str(Path(sys.executable).with_name("qkdd-kms"))
            for site in SITES:
                self._spawn(site, [program, "run", str(self._write(site)), "--level", "warning"])
            paths = self.pki.classical["kms-alice"]
            files = [str(path) for path in _files(paths).values()]
            self._spawn("bare", [sys.executable, "-m", "qkdd.kms.load.bare", *files, str(self.ports["alice"]["bare"])])
            for site in SITES:
                for plane in ("node_plane", "sae.classical", "kms_plane"):
                    await self._listening(site, self.ports[site][plane])
            await self._listening("bare", self.ports["alice"]["bare"])
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            await session.close()
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            await asyncio.to_thread(process.wait)

    def pin(self) -> bool:
        """What is measured on one core, everything else on the others; False when there is one core only."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            return False
        for name in ("alice", "bare"):
            _pin(self.processes[name].pid, {cores[0]})
        _pin(self.processes["bob"].pid, set(cores[1:]))
        os.sched_setaffinity(0, set(cores[1:]))
        return True

    def address(self, site: str, plane: str = "sae.classical") -> tuple[str, int]:
        return "127.0.0.1", self.ports[site][plane]

    def client(self, site: str, number: int) -> ssl.SSLContext:
        """TLS of a registered application, by the standard library: foreign programs have that."""
        paths = self._credentials[f"sae-{site}-{number}"]
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(paths.trust))
        context.load_cert_chain(paths.certificate, paths.key)
        return context

    def cpu(self, name: str) -> float:
        """CPU seconds of a process so far."""
        text = Path(f"/proc/{self.processes[name].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(text[11]) + int(text[12])) / _TICKS

    def memory(self, name: str) -> int:
        """Bytes of a process in memory."""
        pages = int(Path(f"/proc/{self.processes[name].pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def feed(self, size: int) -> None:
        """About `size` bytes of key that each site can draw, as its node brings it."""
        for _ in range(-(-size // _CHUNK) * len(SITES)):
            chunk_id, material = str(uuid.uuid4()), os.urandom(_CHUNK)
            for site in SITES:
                await self._push(site, chunk_id, self._index, material)
            self._index += 1

    async def _push(self, site: str, chunk_id: str, index: int, material: bytes) -> None:
        if site not in self._sessions:
            paths = self.pki.post_quantum[site]
            profile = TlsProfile(
                certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl, name="load"
            )
            self._sessions[site] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context(profile)))
        key = {
            "key_id": chunk_id,
            "value": base64.b64encode(material).decode(),
            "extension": {"E0_qkdd_chunk": {"link": LINK, "index": index, "class": "its"}},
        }
        body = {"keys": [key], "initiator_sae_id": site, "target_sae_ids": ["other"]}
        url = f"https://127.0.0.1:{self.ports[site]['node_plane']}/kmapi/v1/ext_keys"
        async with self._sessions[site].post(url, data=io.BytesIO(json.dumps(body).encode())) as answer:
            if answer.status != 200:
                raise InternalError(f"{site} takes no key: {answer.status} {await answer.text()}")

    def _certify(self) -> None:
        authority = Authority(self.pki.directory / "classical-ca")
        for site in SITES:
            for number in range(self.certified):
                name = f"sae-{site}-{number}"
                certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
                authority.issue("sae", name).write(certificate, key)
                self._credentials[name] = CredentialPaths(certificate, key, authority.trust_file, authority.crl_file)

    def _write(self, site: str) -> Path:
        other, own, ports = SITES[1 - SITES.index(site)], f"kms-{site}", self.ports[site]
        post_quantum, classical = _files(self.pki.post_quantum[own]), _files(self.pki.classical[own])
        at = {plane: f"127.0.0.1:{port}" for plane, port in ports.items()}
        pairs = [
            {"master": f"sae-alice-{n}", "slave": f"sae-bob-{n}", "peer": f"kms-{other}"} for n in range(self.saes)
        ]
        tree = {
            "kms": {
                "id": own,
                "state_directory": self.folder / "state" / site,
                "master_key": self.pki.master_keys[own],
            },
            "node_plane": {"listen": at["node_plane"], "nodes": [site], **post_quantum},
            "kms_plane": {"listen": at["kms_plane"], **post_quantum},
            "peers": {f"kms-{other}": {"url": f"https://127.0.0.1:{self.ports[other]['kms_plane']}", "links": [LINK]}},
            "sae": {"classical": {"listen": at["sae.classical"], **classical}},
            "limits": {"max_key_per_request": 4096, "in_flight_per_sae": 4096},
            "saes": {f"sae-{site}-{n}": {} for n in range(self.saes)},
            "pairs": pairs,
        }
        file = self.folder / f"{site}.toml"
        file.write_text("".join(f"{name} = {_inline(value)}\n" for name, value in tree.items()), encoding="utf-8")
        return file

    def _spawn(self, name: str, words: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    async def _listening(self, name: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _START
        while True:
            try:
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                return
            except OSError:
                if self.processes[name].poll() is not None or loop.time() > end:
                    raise InternalError(
                        f"{name} does not listen: {(self.folder / f'{name}.log').read_text()}"
                    ) from None
                await asyncio.sleep(0.05)


def _pin(pid: int, cores: set[int]) -> None:
    """All threads of a process."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
