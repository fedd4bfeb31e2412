"""Runs every judge_*.py with the judges' own interpreter and prints a table. `make judges` calls it.

A judge is a program in the judges' virtual environment that uses somebody else's package against our simulators or files. It
prints `CHECK passed: …` lines. A run without a judge, or a judge without a check, is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE_S = 600
AT_ONCE = 2  # most of a judge's time is waiting: for gates of detectors, paddles that turn, streams


def main(arguments: list[str]) -> int:
    """`run.py PYTHON [NAME …]`: the judges' interpreter, then names of judges (default: all)."""
    python, names = arguments[0], arguments[1:]
    judges = [p for p in sorted(HERE.glob("judge_*.py")) if not names or p.stem.removeprefix("judge_") in names]
    environment = os.environ | {"QKDD_BIN": str(Path(sys.executable).parent), "PYTHONPATH": str(HERE)}
    rows, failed = [], not judges
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for judge, (said, code, seconds) in zip(
            judges, pool.map(partial(hear, python, environment), judges), strict=True
        ):
            print(f"--- {judge.stem}\n{said}", end="", flush=True)
            checks = said.count("CHECK passed: ")
            right = code == 0 and checks > 0
            failed = failed or not right
            rows.append(f"{judge.stem:24} {checks:4} checks {seconds:6.1f} s  {'ok' if right else f'FAILED ({code})'}")
    print("\n".join(["--- judges", *rows]) if rows else "no judge was executed")
    return int(failed)


def hear(python: str, environment: dict[str, str], judge: Path) -> tuple[str, int, float]:
    """One judge: what it printed, its exit code (-1: it took too long), seconds."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            [python, "-u", judge], env=environment, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False
        )
        said, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as late:
        said, code = (late.stdout or b"").decode(), -1
    return said, code, time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
