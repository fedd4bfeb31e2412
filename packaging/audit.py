"""Known vulnerabilities of what a node runs: `.tools/bin/python packaging/audit.py`.

Asks pip-audit about requirements.lock. Exit 0: none known; 1: there are some, listed; 2: the vulnerability service could not be
asked, which says nothing about the packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"


def verdict(output: str, errors: str) -> tuple[int, str]:
    """Exit status and words for what pip-audit printed: JSON on its output, complaints beside it."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = next((line for line in reversed(errors.splitlines()) if line.strip()), "no reason given")
        return 2, f"the vulnerability service could not be asked, so nothing is known: {last.strip()[:300]}"
    found = [
        f"{package['name']} {package['version']}: {problem['id']}"
        + (f", corrected in {', '.join(problem['fix_versions'])}" if problem["fix_versions"] else "")
        for package in packages
        for problem in package.get("vulns", ())
    ]
    if found:
        return 1, "\n".join(
            [*found, f"{len(found)} known vulnerabilities; `make lock ARGS=--upgrade` takes new versions"]
        )
    return 0, f"{len(packages)} packages of {LOCK.name}, no known vulnerability"


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    status, words = verdict(done.stdout, done.stderr)
    print(words, file=sys.stderr if status else sys.stdout)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
