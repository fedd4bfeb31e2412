"""What the judges share: simulators of ours as processes, and checks that are counted. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = Path(os.environ["QKDD_BIN"])
"""Folder with qkdd-sim, qkdd and the python that has qkdd."""


@contextlib.contextmanager
def simulator(model: str, *options: str) -> Iterator[dict[str, Any]]:
    """A `qkdd-sim` process; gives what it prints. Ends it with SIGINT and insists on a clean end."""
    process = subprocess.Popen([OURS / "qkdd-sim", model, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"qkdd-sim {model} said nothing; exit code {process.wait()}")
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(10)
    if code != 0:
        raise RuntimeError(f"qkdd-sim {model} ended with {code}")


def ours(script: str, *arguments: str) -> str:
    """Run a script with our interpreter; returns what it prints."""
    done = subprocess.run(
        [OURS / "python", "-c", script, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    return done.stdout


def check(what: str, passed: bool, seen: object = "") -> None:
    """One line that the runner counts; a failed check ends the judge."""
    print(f"CHECK {'passed' if passed else 'FAILED'}: {what}{f' ({seen})' if seen != '' else ''}", flush=True)
    if not passed:
        sys.exit(1)


def near(one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers agree."""
    return abs(one - other) <= tolerance
