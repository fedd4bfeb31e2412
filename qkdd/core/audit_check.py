"""Checking an audit log: every line in its place, every signature good, nothing cut off the end."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qkdd.core.audit import CONTINUED, GENESIS, SIGNED, SIGNER, link, signed_text
from qkdd.core.audit_files import closed_segments, head_path
from qkdd.core.errors import Kind, QkddError

# (certificates leaf first DER, message, signature) -> None; raises ValueError with the reason
Verifier = Callable[[list[bytes], bytes, bytes], None]


class AuditBroken(QkddError):
    code = "QKD-CORE-AUDIT"
    kind = Kind.PERMANENT
    meaning = "The audit log was changed: a line was altered, removed or cut off, or a signature is not good."
    default_remedy = "Keep the file as evidence, compare it with a copy elsewhere, and find out who had access."


@dataclass(frozen=True, slots=True)
class AuditReport:
    """first: number of the first line that is there (above 1 when older segments were archived). lines: from there on.
    segments: files. signatures: good ones. unsigned: lines behind the last of them, which only the chain protects."""

    first: int
    lines: int
    segments: int
    signatures: int
    unsigned: int


class _Chain:
    """Follows the lines of one log through its segments."""

    def __init__(self, verifier: Verifier | None, head: tuple[int, str] | None) -> None:
        self._verifier, self._head = verifier, head
        self.first = self.number = self.signed = self.signatures = 0
        self._chain, self._signer = GENESIS, list[bytes]()

    def follow(self, line: bytes) -> None:
        """Raises ValueError with what is wrong about the next line."""
        try:
            entry = json.loads(line)
            claimed = str(entry.pop("chain"))
            seq, event = int(entry["seq"]), entry["event"]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError("is not readable") from None
        if not self.first:
            self.first = 1
            if event == CONTINUED and seq > 1:  # what came before stands in an archived segment
                self.first, self.number, self._chain = seq, seq - 1, str(entry.get("after"))
        before, self._chain = self._chain, link(self._chain, json.dumps(entry, sort_keys=True))
        self.number += 1
        as_written = json.dumps({**entry, "chain": claimed}, sort_keys=True).encode() + b"\n"
        if self._chain != claimed or seq != self.number or line != as_written:
            raise ValueError("it was changed, or a line before it was removed")
        if self._head is not None and seq == self._head[0]:
            if claimed != self._head[1]:
                raise ValueError("the log goes on otherwise here than was signed once")
            self._head = None
        if event == SIGNER:
            self._signer = [_decoded(text) for text in entry.get("certificates", [])]
        elif event == SIGNED:
            if self._verifier is not None:
                self._verifier(self._signer, signed_text(seq - 1, before), _decoded(entry.get("value")))
            self.signed, self.signatures = seq, self.signatures + 1

    def end(self) -> None:
        """Raises ValueError when the log was cut off before a line that was signed once."""
        if self._head is not None and self._head[0] >= self.first:
            raise ValueError(f"the log ends here, but line {self._head[0]} was signed once")


def verify(
    path: Path, verifier: Verifier | None = None, *, alone: bool = False, progress: Callable[[int], None] | None = None
) -> AuditReport:
    """Check chain and signatures (without a verifier: the chain alone) of a log and the closed segments beside it.

    alone: only the file itself. progress is told the bytes that were read. Raises AuditBroken naming the first bad line.
    """
    closed = {} if alone else closed_segments(path)
    chain = _Chain(verifier, _head(path))
    file, number = path, 0
    files = [*closed.values(), path] if path.exists() or not closed else [*closed.values()]
    try:
        for file in files:
            number = 0
            with file.open("rb") as lines:
                for line in lines:
                    number += 1
                    chain.follow(line)
                    if progress is not None:
                        progress(len(line))
        chain.end()
    except ValueError as error:
        raise AuditBroken(f"audit log {file}: line {number}: {error}", line=number) from None
    lines_seen = chain.number - max(chain.first - 1, 0)
    unsigned = chain.number - max(chain.signed, chain.first - 1)
    return AuditReport(chain.first, lines_seen, len(files), chain.signatures, unsigned)


def _head(path: Path) -> tuple[int, str] | None:
    head = head_path(path)
    if not head.exists():
        return None
    try:
        last = json.loads(head.read_text(encoding="utf-8"))
        return int(last["seq"]), str(last["chain"])
    except (ValueError, TypeError, KeyError):
        raise AuditBroken(f"audit log {path}: {head.name} is not readable") from None


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error:
        raise ValueError("holds no base64") from None
