"""Append-only, hash-chained audit log: who did what, never a key byte.

Each line is JSON with `seq`, `time`, `event`, fields, and `chain` = SHA-256(previous chain | line without chain). A removed
or changed line breaks the chain at its place.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from qkdd.core.clock import Clock
from qkdd.core.errors import StorageFailed

_GENESIS = "0" * 64


def _link(previous: str, body: str) -> str:
    return hashlib.sha256(previous.encode() + b"\n" + body.encode()).hexdigest()


class AuditLog:
    """Writer; one per process and file."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._path = path
        self._seq, self._chain = 0, _GENESIS
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._resume()
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            raise StorageFailed(f"audit log {path}: {error.strerror}") from None

    def _resume(self) -> None:
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):  # a crash cut the last line: it was never acknowledged
            os.truncate(self._path, len(whole))
        lines = whole.splitlines()
        if lines:
            last = json.loads(lines[-1])
            self._seq, self._chain = last["seq"], last["chain"]

    def write(self, event: str, **fields: str | float | bool | None) -> None:
        """Append one event and make it durable."""
        self._seq += 1
        body = {"seq": self._seq, "time": round(self._clock.wall(), 3), "event": event, **fields}
        text = json.dumps(body, sort_keys=True)
        self._chain = _link(self._chain, text)
        line = json.dumps({**body, "chain": self._chain}, sort_keys=True) + "\n"
        try:
            os.write(self._file, line.encode())
            os.fdatasync(self._file)
        except OSError as error:
            raise StorageFailed(f"audit log {self._path}: {error.strerror}") from None

    def close(self) -> None:
        os.close(self._file)


def verify(path: Path) -> int:
    """Check the chain; returns the number of lines. Raises StorageFailed naming the first bad line."""
    chain, count = _GENESIS, 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        entry = json.loads(line)
        claimed = entry.pop("chain")
        chain = _link(chain, json.dumps(entry, sort_keys=True))
        if chain != claimed or entry["seq"] != number:
            raise StorageFailed(f"audit log {path}: line {number} was changed, or a line before it was removed")
        count = number
    return count
