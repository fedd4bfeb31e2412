"""A PostgreSQL server of the test's own, run as an unprivileged user on a UNIX socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import psycopg.sql
import pytest

_USER = "postgres"  # the server refuses to run as root


def _programs() -> Path | None:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian keeps them out of PATH
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return Path(found).parent if found is not None else None


class Server:
    """`url(name)` of a database; `stop(hard=True)` kills it, `start()` brings it back with its data."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._programs = folder, programs
        self._as = pwd.getpwnam(_USER) if os.geteuid() == 0 else None
        if self._as is not None:
            os.chown(folder, self._as.pw_uid, self._as.pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "qkdd", "--no-sync", "-E", "UTF8")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = self._try(program, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def _try(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._programs / program), *arguments],
            user=None if self._as is None else self._as.pw_uid,
            group=None if self._as is None else self._as.pw_gid,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self) -> None:
        for _ in range(100):  # after a kill its orphaned children hold the shared memory for a moment
            done = self._try("pg_ctl", *self._start())
            if done.returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError(done.stdout + done.stderr + (self._folder / "log").read_text())

    def _start(self) -> tuple[str, ...]:
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder} -c max_connections=50"
        return ("-D", str(self._folder / "data"), "-l", str(self._folder / "log"), "-w", "-o", options, "start")

    def stop(self, *, hard: bool = False) -> None:
        if hard:
            pid = int((self._folder / "data" / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGKILL)
            return
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")

    def create(self, name: str) -> str:
        """A fresh database; returns its URL."""
        with psycopg.connect(f"postgresql://qkdd@/postgres?host={self._folder}", autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return f"postgresql://qkdd@/{name}?host={self._folder}"


@contextmanager
def server() -> Iterator[Server]:
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (Debian package postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="qkdd-pg-"))
    folder.chmod(0o700)
    made = Server(folder, programs)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)
