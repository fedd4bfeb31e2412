"""Append-only, hash-chained, signed audit log: who did what, never a key byte.

Each line is JSON with `seq`, `time`, `event`, fields, and `chain` = SHA-256(previous chain | line without chain). A removed or
changed line breaks the chain at its place. A line `audit signed` holds the process's ML-DSA signature of the chain before it, so
that nobody without that key can write the chain anew; `audit.log.head` names the last signed line, so that a log that was cut
off behind an earlier one is found too. A file that has grown to `segment` bytes is signed, closed and put aside
(`qkdd.core.audit_files`); the next one begins with a line `audit continued` that repeats the chain it goes on from.

Lines become durable in groups, on a thread of the log's own: `write` never waits for a disk, `settled` does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from qkdd.core import log
from qkdd.core.audit_files import SEGMENT, closed_path, closed_segments, first_line, head_path, whole_lines
from qkdd.core.clock import Clock
from qkdd.core.errors import StorageFailed, StorageFull
from qkdd.core.folders import sync_folder

GENESIS = "0" * 64
SIGNED = "audit signed"
SIGNER = "audit signer"
CONTINUED = "audit continued"
_LINES, _SECONDS = 1000, 600.0  # between signatures
_BACKLOG = 1 << 20  # bytes that may wait for a disk that does not take them
_text = json.JSONEncoder(sort_keys=True).encode  # one encoder for all lines


class Signer(Protocol):
    """Who signs the chain: `qkdd.peer.audit_key.CertificateSigner`."""

    def certificates(self) -> list[bytes]:
        """Leaf first, DER."""

    def sign(self, message: bytes) -> bytes: ...


def link(previous: str, body: str) -> str:
    """The chain value of a line: hexadecimal SHA-256."""
    return hashlib.sha256(previous.encode() + b"\n" + body.encode()).hexdigest()


class AuditLog:
    """Writer; one per process and file."""

    def __init__(self, path: Path, clock: Clock, signer: Signer | None = None, segment: int = SEGMENT) -> None:
        """Raises StorageFailed when the file cannot be opened or its last line is none of ours."""
        self._clock, self._path, self._signer, self._segment = clock, path, signer, segment
        self._seq, self._chain = 0, GENESIS
        self._first = self._next_first = 1  # lines that this segment and the next begin with
        self._pending, self._waiters = bytearray(), list[Future[None]]()
        self._cut: int | None = None  # so many of the pending bytes belong to the segment that is being closed
        self._unsigned, self._signed_at = 0, clock.monotonic()
        self._failure: StorageFailed | StorageFull | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._size = self._resume()
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)
        except OSError as error:
            raise StorageFailed(f"audit log {path}: {error.strerror}") from None
        self._work, self._closing = threading.Condition(), False
        if self._size == 0 and self._seq:  # it ended between closing one segment and beginning the next
            self._first = self._seq + 1
            self._append(CONTINUED, {"after": self._chain})
        self._introduce()
        self._thread = threading.Thread(target=self._serve, name=f"audit-{path.name}", daemon=True)
        self._thread.start()

    def _resume(self) -> int:
        """Take up the chain where it ended; returns the bytes of the open segment."""
        size, last = 0, b""
        if self._path.exists():
            size, last = whole_lines(self._path)
            os.truncate(self._path, size)  # a crash cut the last line: it was never acknowledged
            if last:
                self._first = self._read(self._path, first_line(self._path))[0]
                self._seq, self._chain = self._read(self._path, last)
                return size
        for closed in list(closed_segments(self._path).values())[-1:]:
            self._seq, self._chain = self._read(closed, whole_lines(closed)[1])
        return 0

    def _read(self, path: Path, line: bytes) -> tuple[int, str]:
        try:
            entry = json.loads(line)
            return int(entry["seq"]), str(entry["chain"])
        except (ValueError, TypeError, KeyError):
            raise StorageFailed(
                f"audit log {path}: its first or last line is damaged",
                remedy="look at it with `qkdctl audit verify`, move it away, and keep it as evidence",
            ) from None

    def _introduce(self) -> None:
        """The certificates that the signatures of this segment are checked with."""
        if self._signer is not None:
            self._append(
                SIGNER, {"certificates": [base64.b64encode(der).decode() for der in self._signer.certificates()]}
            )
            self._unsigned += 1

    def write(self, event: str, **fields: str | float | bool | list[str] | None) -> None:
        """Append one event. Raises StorageFull or StorageFailed when the disk takes nothing more; then it is not logged."""
        with self._work:
            if self._failure is not None and len(self._pending) > _BACKLOG:
                raise self._failure
            self._append(event, fields)
            self._unsigned += 1
            self._work.notify()
        level = "warning" if fields.get("verdict") == "denied" else "notice"
        log.tell({"event": event, "level": level, "room": "audit", **fields})

    async def settled(self) -> None:
        """Wait until every line so far is durable. Raises StorageFull, StorageFailed; the lines are tried again later."""
        await asyncio.wrap_future(self._settle())

    def _settle(self) -> Future[None]:
        done: Future[None] = Future()
        with self._work:
            if self._pending:
                self._waiters.append(done)
                self._work.notify()
            else:
                done.set_result(None)
        return done

    def close(self) -> None:
        """Sign, make everything durable, close. Raises StorageFull, StorageFailed for lines that could not be written."""
        with self._work:
            if self._closing:
                return
            self._closing = True
            self._work.notify()
        self._thread.join()
        os.close(self._file)
        if self._pending and self._failure is not None:
            raise self._failure

    def _append(self, event: str, fields: dict[str, Any]) -> None:
        self._seq += 1
        body = {"seq": self._seq, "time": round(self._clock.wall(), 3), "event": event, **fields}
        self._chain = link(self._chain, _text(body))
        self._pending += _text({**body, "chain": self._chain}).encode() + b"\n"

    def _serve(self) -> None:
        closing = False
        while not closing:
            with self._work:
                self._work.wait_for(lambda: self._closing or self._pending or self._waiters)
                closing = self._closing
                waiters, self._waiters = self._waiters, []
                healthy = self._failure is None
                full = healthy and self._cut is None and self._size + len(self._pending) >= self._segment
                head = self._sign(closing or full) if healthy else None
                if full and not closing:
                    self._begin_segment()
                data, cut = bytes(self._pending), self._cut
            failure = self._attempt(partial(self._make_durable, data, cut, head))
            with self._work:
                self._failure = failure
            for waiter in waiters:
                if not waiter.set_running_or_notify_cancel():
                    continue
                if failure is not None:
                    waiter.set_exception(failure)
                else:
                    waiter.set_result(None)
            if failure is not None and not closing:
                with self._work:  # the next line or waiter tries again
                    tried = len(self._pending)
                    while not (self._closing or self._waiters or len(self._pending) > tried):
                        self._work.wait()

    def _sign(self, closing: bool) -> dict[str, object] | None:
        """Append a signature when one is due; returns what the head file will say."""
        due = self._unsigned >= _LINES or self._clock.monotonic() - self._signed_at >= _SECONDS or closing
        if self._signer is None or not self._unsigned or not due:
            return None
        seq, chain = self._seq, self._chain
        value = base64.b64encode(self._signer.sign(signed_text(seq, chain))).decode()
        self._append(SIGNED, {"value": value})
        self._unsigned, self._signed_at = 0, self._clock.monotonic()
        return {"seq": self._seq, "chain": self._chain}

    def _begin_segment(self) -> None:
        """What is pending ends this segment; what is appended from here on belongs to the next."""
        self._cut, self._next_first = len(self._pending), self._seq + 1
        self._append(CONTINUED, {"after": self._chain})
        self._introduce()

    def _make_durable(self, data: bytes, cut: int | None, head: dict[str, object] | None) -> None:
        if cut is not None:
            self._write_out(data[:cut])
            if head is not None:
                self._remember(head)
                head = None
            self._put_aside()
            data = data[cut:]
        self._write_out(data)
        if head is not None:
            self._remember(head)

    def _attempt(self, work: Callable[[], None]) -> StorageFailed | StorageFull | None:
        try:
            work()
        except OSError as error:
            kind = StorageFull if error.errno in (28, 122) else StorageFailed  # ENOSPC, EDQUOT
            return kind(f"audit log {self._path}: {error.strerror}")
        return None

    def _write_out(self, data: bytes) -> None:
        """All of it at the end of what is durable; what an earlier attempt left there is written over."""
        if not data:
            return
        done = 0
        while done < len(data):
            done += os.pwrite(self._file, data[done:], self._size + done)
        os.fdatasync(self._file)
        self._size += len(data)
        with self._work:
            del self._pending[: len(data)]
            if self._cut is not None:
                self._cut -= len(data)

    def _put_aside(self) -> None:
        """Close the full segment under its number and begin the next. A crash between the two is healed by `_resume`."""
        aside = closed_path(self._path, self._first)
        if not aside.exists():  # an attempt that failed later may have been here
            os.replace(self._path, aside)
        new = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o640)
        try:
            sync_folder(self._path.parent)
        except OSError:
            os.close(new)
            raise
        os.close(self._file)
        self._file, self._size, self._first = new, 0, self._next_first
        with self._work:
            self._cut = None

    def _remember(self, head: dict[str, object]) -> None:
        target = head_path(self._path)
        scratch = target.with_name(target.name + ".new")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(head, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)


def signed_text(seq: int, chain: str) -> bytes:
    """What a signature stands under."""
    return f"qkdd audit 1 {seq} {chain}".encode()
