"""Write the two lock files: `python packaging/lock.py` (needs pip-tools; takes minutes).

requirements.lock: what a node runs, with the hashes of every file. requirements-dev.lock: and what tests need.
Versions that stand in requirements-dev.lock are kept unless `--upgrade` is given.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMON = (
    "--quiet", "--generate-hashes", "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links", "--no-header",
    "--no-annotate", "--strip-extras", "--allow-unsafe",
)  # fmt: skip


def compiled(constraints: Path | None, *wanted: str) -> str:
    """The text of a lock file of the project, with further options or requirement files."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "lock"
        options = [*COMMON, "--output-file", str(target)]
        if constraints is not None:
            options += ["--constraint", str(constraints)]
        command = [sys.executable, "-m", "piptools", "compile", *options, "pyproject.toml", *wanted]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "CUSTOM_COMPILE_COMMAND": "packaging/lock.py"})
        return target.read_text(encoding="utf-8")


def versions(lock: Path, folder: Path) -> Path:
    """The pins of a lock file as constraints, without hashes."""
    pins = [
        line.split(" ")[0].strip() for line in lock.read_text().splitlines() if "==" in line and line[0] not in " #"
    ]
    path = folder / "constraints.txt"
    path.write_text("\n".join(pins) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    wanted = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    dev, run = ROOT / "requirements-dev.lock", ROOT / "requirements.lock"
    with tempfile.TemporaryDirectory() as folder:
        kept = None if wanted.upgrade else versions(dev, Path(folder))
        tools = Path(folder) / "dev.in"
        tools.write_text("\n".join(project["dependency-groups"]["dev"]) + "\n")
        dev.write_text(compiled(kept, "--all-extras", str(tools)), encoding="utf-8")
        run.write_text(compiled(versions(dev, Path(folder)), "--extra", "postgres"), encoding="utf-8")
    for path in (dev, run):
        print(path.name, sum("==" in line for line in path.read_text().splitlines()), "packages")


if __name__ == "__main__":
    main()
