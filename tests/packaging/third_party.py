"""`make example`: the example of docs/examples/third-party-driver as its author would use it; needs a package registry.

Our wheel and the example are built, installed in a fresh environment, the example's tests (the contract suite) are run there from
outside of both checkouts, and `qkdd drivers` must list the driver with the package that brings it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs/examples/third-party-driver"
LEAST = 25  # tests that the contract suite has at the least


def run(*command: object, cwd: Path) -> str:
    """Run, show what it says when it fails, return its output."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="qkdd-example-") as name:
        folder = Path(name)
        pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
        build = (f"--config-settings=build-dir={folder}/build", f"--wheel-dir={folder}")
        run(sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", *build, ROOT, cwd=folder)
        shutil.copytree(EXAMPLE, folder / "acme", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        python = folder / "venv/bin/python"
        run(python, *pip, "wheel", "--no-deps", f"--wheel-dir={folder}", folder / "acme", cwd=folder)
        wheels = sorted(folder.glob("*.whl"))
        print("built:", ", ".join(wheel.name for wheel in wheels))
        run(python, *pip, "install", *wheels, "pytest>=9,<10", cwd=folder)
        listed = json.loads(run(folder / "venv/bin/qkdd", "drivers", "--json", cwd=folder))
        ours = next(record for record in listed if record["name"] == "acme_voa1")
        if ours["problem"] or not ours["distribution"].startswith("acme-qkd "):
            raise SystemExit(f"qkdd drivers: {ours}")
        print("listed:", ours["name"], "of", ours["distribution"])
        shutil.move(folder / "acme/tests", folder / "tests")
        said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder / "tests", cwd=folder)
        passed = re.search(r"(\d+) passed", said)
        if passed is None or int(passed[1]) < LEAST:
            raise SystemExit(f"fewer than {LEAST} tests: {said[-500:]}")
        print(f"tests: {passed[0]} in a fresh environment")


if __name__ == "__main__":
    main()
