"""A booted Debian of the test's own: real PID 1, real journald, real dpkg, in systemd-nspawn with a throw-away overlay."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("QKDD_MACHINE_CACHE", ROOT / "build" / "machine"))
PACKAGES = "systemd,systemd-sysv,dbus,udev,python3,libpam-systemd,procps"
# a control group of its own first, so that nothing else on the host is touched
_OWN_GROUP = """for h in unified systemd; do
  if [ -d /sys/fs/cgroup/$h ]; then mkdir -p /sys/fs/cgroup/$h/$0; echo $$ > /sys/fs/cgroup/$h/$0/cgroup.procs; fi
done
exec "$@"
"""
_HIERARCHIES = ("unified", "systemd")  # of a host with both generations of cgroups


def needs() -> str:
    """Why no machine can be booted here; empty when one can."""
    if os.geteuid() != 0:
        return "booting a container needs root"
    for program, package in (
        ("systemd-nspawn", "systemd-container"),
        ("mmdebstrap", "mmdebstrap"),
        ("nsenter", "util-linux"),
    ):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    if not sources():
        return "no apt sources of this machine to make a root file system from"
    return ""


def sources() -> list[str]:
    places = (*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list"))
    return [str(path) for path in places if path.exists() and path.stat().st_size > 0]


def base() -> Path:
    """The root file system, made once."""
    root = CACHE / "root"
    if not (root / "usr/lib/systemd/systemd").exists():
        shutil.rmtree(root, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={PACKAGES}",
            "bookworm",
            str(root),
            *sources(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return root


class Machine:
    """A booted container. `run` executes inside it as root, or as `user`."""

    def __init__(self, name: str, root: Path, binds: dict[Path, str]) -> None:
        self.name = name
        self._groups: list[Path] = []
        binding = [f"--bind-ro={host}:{inside}" for host, inside in binds.items()]
        command = [
            "sh", "-c", _OWN_GROUP, name,
            "systemd-nspawn", "--quiet", "-D", str(root), "-M", name, "--volatile=overlay", "--register=no", "--keep-unit",
            "--private-network", "--console=pipe", "--rlimit=RLIMIT_MEMLOCK=infinity", *binding, "--boot",
        ]  # fmt: skip
        started = time.monotonic()
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        self._leader = 0
        while self._state().strip() not in ("running", "degraded"):
            assert self._child.poll() is None, self._child.stderr and self._child.stderr.read().decode()
            assert time.monotonic() - started < 60, "the container does not come up"
            time.sleep(0.1)
        self.boot_seconds = time.monotonic() - started

    def _state(self) -> str:
        """While it boots; the process behind nspawn changes in the first moments."""
        done = subprocess.run(["pgrep", "-P", str(self._child.pid)], capture_output=True, text=True, check=False)
        if not done.stdout.strip():
            return ""
        self._leader = int(done.stdout.split()[0])
        return self.try_run("systemctl", "is-system-running").stdout

    def _inside(self, command: tuple[str, ...], user: str | None) -> list[str]:
        enter = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C"]
        clean = [
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LANG=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]
        return [*enter, *clean, *(["runuser", "-u", user, "--"] if user is not None else []), *command]

    def try_run(
        self, *command: str, user: str | None = None, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._inside(command, user),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            **({"input": text} if text is not None else {"stdin": subprocess.DEVNULL}),
        )

    def run(self, *command: str, user: str | None = None, text: str | None = None) -> str:
        done = self.try_run(*command, user=user, text=text)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, content: str, mode: str = "644", owner: str = "root:root") -> None:
        self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path, text=content)
        self.run("chmod", mode, path)
        self.run("chown", owner, path)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def until(self, unit: str, state: str, seconds: float = 60.0) -> None:
        ends = time.monotonic() + seconds
        while self.show(unit, "ActiveState") != state:
            assert time.monotonic() < ends, self.run("journalctl", "-u", unit, "--no-pager", "-n", "40")
            time.sleep(0.1)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader, signal.SIGRTMIN + 4)
        try:
            self._child.wait(30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stderr is not None:
            self._child.stderr.close()
        for hierarchy in _HIERARCHIES:
            top = Path("/sys/fs/cgroup") / hierarchy / self.name
            for group in sorted(top.rglob("*"), key=lambda path: -len(path.parts)) if top.is_dir() else ():
                if group.is_dir():
                    with contextlib.suppress(OSError):  # still emptying: the kernel removes it later
                        group.rmdir()
            with contextlib.suppress(OSError):
                top.rmdir()


@contextmanager
def booted(name: str, binds: dict[Path, str]) -> Iterator[Machine]:
    """Skips, with the reason, where no container can run."""
    reason = needs()
    if reason:
        pytest.skip(reason)
    machine = Machine(f"{name}-{os.getpid()}", base(), binds)
    try:
        yield machine
    finally:
        machine.stop()
