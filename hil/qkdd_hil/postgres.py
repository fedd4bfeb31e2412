"""A PostgreSQL server of a test's own: in a folder, on a UNIX socket, never as root, started, stopped, killed, brought back."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import psycopg.sql

USER = "postgres"  # whom the server runs as when we are root: it refuses to run as root
PORT = 5432  # part of the socket's name; nothing listens on TCP
_TRIES = 200
_PAUSE = 0.05  # s


class NoServer(Exception):
    """PostgreSQL's server is not installed, or does not start; the text says why."""


def programs() -> Path:
    """Folder of initdb and pg_ctl. Raises NoServer."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian keeps them out of PATH
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    if found is None:
        raise NoServer("PostgreSQL's server is not installed (Debian package postgresql)")
    return Path(found).parent


class PostgresServer:
    """`url(name)` of a database; `kill()` and `start()` bring it down and back with its data. Raises NoServer."""

    def __init__(self, folder: Path, connections: int = 50) -> None:
        """folder: an empty one; its path has to be short, since the socket stands in it."""
        self.folder, self._programs, self._connections = folder, programs(), connections
        self._as = pwd.getpwnam(USER) if os.geteuid() == 0 else None
        if self._as is not None:
            os.chown(folder, self._as.pw_uid, self._as.pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "qkdd", "--no-sync", "-E", "UTF8")
        self.start()

    @property
    def socket(self) -> Path:
        return self.folder / f".s.PGSQL.{PORT}"

    def _run(self, program: str, *arguments: str) -> None:
        done = self._try(program, *arguments)
        if done.returncode:
            raise NoServer(done.stdout + done.stderr)

    def _try(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._programs / program), *arguments],
            user=None if self._as is None else self._as.pw_uid,
            group=None if self._as is None else self._as.pw_gid,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self) -> None:
        """Start it, with recovery if it was killed; returns when it answers."""
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c max_connections={self._connections}"
        )
        words = ("-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o", options, "start")
        for _ in range(_TRIES):  # after a kill its orphaned children hold the shared memory for a moment
            done = self._try("pg_ctl", *words)
            if done.returncode == 0:
                return
            time.sleep(_PAUSE)
        raise NoServer(done.stdout + done.stderr + (self.folder / "log").read_text())

    def _pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])

    def kill(self) -> None:
        """SIGKILL to the server; what it had not written is what a crash loses."""
        os.kill(self._pid(), signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP to the server and its children: lines stand and new ones are accepted by the kernel, and nobody answers."""
        server = self._pid()
        os.kill(server, signal.SIGSTOP)  # first, so that it starts no further child
        for child in self._children(server):
            os.kill(child, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT; harmless when it runs."""
        server = self._pid()
        for process in (*self._children(server), server):
            os.kill(process, signal.SIGCONT)

    @staticmethod
    def _children(server: int) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]

    def stop(self) -> None:
        """At once; the data stays good. Idempotent."""
        self._try("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def create(self, name: str) -> str:
        """A fresh database; returns its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return self.url(name)

    def url(self, name: str, folder: Path | None = None) -> str:
        """folder: where another socket of the same name leads here, such as a line that can be cut."""
        where = folder or self.folder
        return f"postgresql://qkdd@/{name}?host={where}"
