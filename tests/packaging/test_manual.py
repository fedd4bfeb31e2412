"""Every program of the package has a man page that tells of all its commands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = {name: place.partition(":")[0] for name, place in PROJECT["scripts"].items()}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_page_for_each_program(name: str) -> None:
    command = [sys.executable, "-I", str(ROOT / "packaging/manual_page.py"), "", name, SCRIPTS[name], "1.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for part in (".SH NAME", ".SH SYNOPSIS", ".SH COMMANDS", ".SS ", ".SH EXIT STATUS"):
        assert part in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("'")]


def test_the_package_installs_every_program() -> None:
    text = (ROOT / "packaging/build_deb.py").read_text()
    assert not [name for name in SCRIPTS if f'"{name}": (' not in text]
