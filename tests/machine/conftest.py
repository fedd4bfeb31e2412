"""The packages of this tier, built once: the working tree's, and the one before it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from .machine import ROOT, needs

NEW, OLD = "0.1.0", "0.1.0~before"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _build(source: Path, folder: Path, version: str) -> Path:
    command = [sys.executable, "packaging/build_deb.py", "--output", str(folder), "--version", version, "--quick"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / f"qkdd_{version}_amd64.deb"


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the new package, and what is in it under `unpacked`."""
    if needs():
        pytest.skip(needs())
    folder = tmp_path_factory.mktemp("deb")
    began = time.monotonic()
    package = _build(ROOT, folder, NEW)
    print(
        f"\n{package.name} {package.stat().st_size / 1e6:.1f} MB (weak compression), {time.monotonic() - began:.0f} s"
    )
    subprocess.run(["dpkg-deb", "-R", str(package), str(folder / "unpacked")], check=True)
    return folder


@pytest.fixture(scope="session")
def with_previous(packages: Path) -> Path:
    """The same folder with the previous version too: of the last tag, else of the parent commit, under a lower number.

    Built by that version's own script. A checkout without history has none: that is said, and the new version's files serve.
    """
    revision = _git("describe", "--tags", "--abbrev=0") or _git("rev-parse", "--verify", "--quiet", "HEAD~1")
    source = packages / "previous"
    if revision:
        subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(source)], check=True)
        subprocess.run(["git", "-C", str(source), "checkout", "--quiet", "--detach", revision], check=True)
        _build(source, packages, OLD)
        print(f"\nprevious version: {revision[:12]}")
        return packages
    print("\nprevious version: this checkout has no history, the new files under a lower number stand for it")
    control = packages / "unpacked/DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {NEW}\n", f"Version: {OLD}\n"))
    target = packages / f"qkdd_{OLD}_amd64.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(packages / "unpacked"), str(target)]
    subprocess.run(build, check=True, capture_output=True)
    return packages
