"""Two sites: each a store, the KMS processes on it, and lines to everything that can be cut.

The store is a PostgreSQL server that several processes share, or the embedded one of a single process, which alone draws ahead
for busy pairs (`qkdd.kms.leases`).
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg

from qkdd.core.ports import free_ports
from qkdd.peer.authority import Authority
from qkdd.peer.pki_demo import CredentialPaths, DemoPki, demo_pki
from qkdd_hil.campaign.lines import Line
from qkdd_hil.demo import toml
from qkdd_hil.demo.children import Child, Children
from qkdd_hil.postgres import PostgresServer

SITES = ("alice", "bob")
LINK = "a-b"
PLANES = ("node_plane", "kms_plane", "sae.classical", "sae.post-quantum")
_HOST = "127.0.0.2"  # of the KMSs: no outgoing connection of this machine takes a port of theirs while they are down
_AGAIN = 0.2  # s between two starts of a process that cannot start, as systemd would


class CampaignFailed(Exception):
    """Something did not start, did not heal, or a program ended by itself; the text says which."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign is made of. batch: most keys in a request. The embedded store ("sqlite") takes one replica."""

    keys: int
    pairs: int = 64
    batch: int = 512
    replicas: int = 2
    store: Literal["postgresql", "sqlite"] = "postgresql"
    seed: int = 1
    directory: Path | None = None
    redelivery: str = "300 s"


@dataclass(frozen=True, slots=True)
class Sae:
    """One application: where it is, and how it proves who it is."""

    name: str
    site: str
    listener: str
    credential: CredentialPaths


@dataclass
class Replica:
    """One `qkdd-kms run`. `down`: why it is not there now, by whom: ours to restart."""

    name: str
    site: str
    command: list[str]
    child: Child | None = None
    starts: int = 0
    held: bool = False  # a fault keeps it down
    ended: list[str] = field(default_factory=list)  # what it said when it ended by itself


class Sites:
    """Everything of a campaign that runs. Use as an async context manager; leaving ends every process."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options, self.folder = options, folder
        (folder / "logs").mkdir()
        self.pki: DemoPki = demo_pki(folder / "pki")
        self.databases: dict[str, PostgresServer] = {}
        self.replicas: dict[str, Replica] = {}
        self.lines: dict[str, Line] = {}
        self.pairs: list[tuple[Sae, Sae]] = []  # master and slave
        self._children = Children(folder / "logs")
        self._keepers: list[asyncio.Task[None]] = []
        self._ports = {
            site: [dict(zip(PLANES, free_ports(len(PLANES)), strict=True)) for _ in range(options.replicas)]
            for site in SITES
        }

    async def __aenter__(self) -> Sites:
        await self._children.__aenter__()
        try:
            await asyncio.to_thread(self._make_saes)
            if self.options.store == "postgresql":
                for site in SITES:
                    await self._start_database(site)
            await self._open_lines()
            for site in SITES:
                for number in range(self.options.replicas):
                    self._make_replica(site, number)
            self._keepers = [asyncio.create_task(self._keep(replica)) for replica in self.replicas.values()]
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for replica in self.replicas.values():
            self._signal(replica, signal.SIGCONT)
        await self._children.end()
        await asyncio.gather(*(line.close() for line in self.lines.values()))
        for server in self.databases.values():
            await asyncio.to_thread(server.stop)

    # what there is

    def _make_saes(self) -> None:
        """`pairs` applications at each site; half of them with post-quantum certificates, masters at both sites."""
        authorities = {
            "sae.post-quantum": Authority(self.pki.directory / "pq-ca"),
            "sae.classical": Authority(self.pki.directory / "classical-ca"),
        }
        for number in range(self.options.pairs):
            listener = ("sae.post-quantum", "sae.classical")[number // 2 % 2]
            authority, made = authorities[listener], {}
            for site in SITES:
                name = f"sae-{site}-{number}"
                paths = CredentialPaths(
                    self.pki.directory / f"{name}.pem",
                    self.pki.directory / f"{name}.key",
                    authority.trust_file,
                    authority.crl_file,
                )
                authority.issue("sae", name).write(paths.certificate, paths.key)
                made[site] = Sae(name, site, listener, paths)
            master, slave = SITES if number % 2 == 0 else SITES[::-1]
            self.pairs.append((made[master], made[slave]))

    async def _start_database(self, site: str) -> None:
        folder = self.folder / f"pg-{site}"
        folder.mkdir(mode=0o700)
        for parent in (self.folder, folder):  # the server is another user
            parent.chmod(0o711)
        self.databases[site] = await asyncio.to_thread(PostgresServer, folder)
        await asyncio.to_thread(self.databases[site].create, "keys")

    async def _open_lines(self) -> None:
        seed = self.options.seed
        for site in SITES:
            ports = self._ports[site]
            for plane in ("node_plane", "sae.classical", "sae.post-quantum"):
                self.lines[f"{plane} {site}"] = Line([(_HOST, p[plane]) for p in ports], seed)
            for number in range(self.options.replicas):
                self.lines[f"kms_plane {site} {number}"] = Line([(_HOST, ports[number]["kms_plane"])], seed)
            database = self.databases.get(site)
            if database is None:
                continue
            folder = self.folder / f"line-{site}"
            folder.mkdir()
            self.lines[f"database {site}"] = Line([database.socket], seed, folder / database.socket.name)
        for line in self.lines.values():
            await line.open()

    def _make_replica(self, site: str, number: int) -> None:
        own, other = f"kms-{site}", SITES[1 - SITES.index(site)]
        name = f"{own}.{number}"
        post_quantum, classical = _files(self.pki.post_quantum[own]), _files(self.pki.classical[own])
        ports = {plane: f"{_HOST}:{port}" for plane, port in self._ports[site][number].items()}
        there = [_url(self.lines[f"kms_plane {other} {n}"]) for n in range(self.options.replicas)]
        tree: dict[str, Any] = {
            "kms": {
                "id": own,
                "state_directory": self.folder / "state" / name,
                "master_key": self.pki.master_keys[own],
                **self._store(site),
            },
            "node_plane": {"listen": ports["node_plane"], "nodes": [site], **post_quantum},
            "kms_plane": {"listen": ports["kms_plane"], **post_quantum},
            "peers": {f"kms-{other}": {"url": there[0], "replicas": there[1:], "links": [LINK]}},
            "sae": {
                "post-quantum": {"listen": ports["sae.post-quantum"], **post_quantum},
                "classical": {"listen": ports["sae.classical"], **classical},
            },
            "saes": {sae.name: {} for pair in self.pairs for sae in pair if sae.site == site},
            "pairs": [
                {"master": m.name, "slave": s.name, "peer": f"kms-{other}", "one_way": True} for m, s in self.pairs
            ],
            "limits": {
                "redelivery_window": self.options.redelivery,
                "max_key_per_request": self.options.batch,
                "body_bytes": 65_536 + 64 * self.options.batch,
            },
        }
        file = self.folder / f"{name}.toml"
        file.write_text(toml.dumps(tree), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("qkdd-kms")), "run", str(file)]
        self.replicas[name] = Replica(name, site, command)

    def _store(self, site: str) -> dict[str, str]:
        if site not in self.databases:
            return {}
        return {"store": self.databases[site].url("keys", self.folder / f"line-{site}")}

    def query(self, site: str, query: str) -> list[tuple[Any, ...]]:
        """What the site's store tells, past every line that may be cut."""
        if site in self.databases:
            with psycopg.connect(self.databases[site].url("keys")) as connection:
                return connection.execute(query.encode()).fetchall()
        file = self.folder / "state" / f"kms-{site}.0" / "kms.db"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10.0)) as connection:
            return connection.execute(query).fetchall()

    def base_url(self, sae: Sae) -> str:
        """Ends in /api/v1/keys."""
        return f"{_url(self.lines[f'{sae.listener} {sae.site}'])}/api/v1/keys"

    def node_url(self, site: str) -> str:
        return _url(self.lines[f"node_plane {site}"])

    # what keeps it running, and what stops it

    async def _keep(self, replica: Replica) -> None:
        """Start the process, and again whenever it ended, as systemd does."""
        while True:
            if not replica.held:
                child = await self._children.start(f"{replica.name}.{replica.starts}", replica.command)
                replica.child = child
                replica.starts += 1
                code = await child.process.wait()
                if code != -signal.SIGKILL:
                    replica.ended.append(f"{replica.name} ended with {code}: {child.tail(3)}")
            await asyncio.sleep(_AGAIN)

    @staticmethod
    def _signal(replica: Replica, number: signal.Signals) -> None:
        child = replica.child
        if child is not None and child.process.returncode is None:
            child.process.send_signal(number)

    async def kill(self, name: str, seconds: float) -> None:
        """SIGKILL to a KMS process; it is started again after so long."""
        replica = self.replicas[name]
        replica.held = True
        try:
            self._signal(replica, signal.SIGCONT)
            self._signal(replica, signal.SIGKILL)
            await asyncio.sleep(seconds)
        finally:
            replica.held = False

    async def stop(self, name: str, seconds: float) -> None:
        """A KMS process that does nothing for so long, and then goes on as if nothing had been."""
        replica = self.replicas[name]
        self._signal(replica, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._signal(replica, signal.SIGCONT)

    async def kill_database(self, site: str, seconds: float) -> None:
        """SIGKILL to a site's PostgreSQL, which recovers after so long."""
        server = self.databases[site]
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)


def _files(paths: CredentialPaths) -> dict[str, Path]:
    return {"certificate": paths.certificate, "key": paths.key, "trust": paths.trust, "crl": paths.crl}


def _url(line: Line) -> str:
    host, port = line.address
    return f"https://{host}:{port}"
