"""Append-only, hash-chained, signed audit log: who did what, never a key byte.

Each line is JSON with `seq`, `time`, `event`, fields, and `chain` = SHA-256(previous chain | line without chain). A removed or
changed line breaks the chain at its place. A line `audit signed` holds the process's ML-DSA signature of the chain before it, so
that nobody without that key can write the chain anew; `audit.log.head` names the last signed line, so that a log that was cut
off behind an earlier one is found too.

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
from qkdd.core.clock import Clock
from qkdd.core.errors import StorageFailed, StorageFull

GENESIS = "0" * 64
SIGNED = "audit signed"
SIGNER = "audit signer"
_LINES, _SECONDS = 1000, 600.0  # between signatures
_BACKLOG = 1 << 20  # bytes that may wait for a disk that does not take them


class Signer(Protocol):
    """Who signs the chain: `qkdd.peer.audit_key.CertificateSigner`."""

    def certificates(self) -> list[bytes]:
        """Leaf first, DER."""

    def sign(self, message: bytes) -> bytes: ...


def link(previous: str, body: str) -> str:
    """The chain value of a line: hexadecimal SHA-256."""
    return hashlib.sha256(previous.encode() + b"\n" + body.encode()).hexdigest()


def head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


class AuditLog:
    """Writer; one per process and file."""

    def __init__(self, path: Path, clock: Clock, signer: Signer | None = None) -> None:
        """Raises StorageFailed when the file cannot be opened or its last line is none of ours."""
        self._clock, self._path, self._signer = clock, path, signer
        self._seq, self._chain = 0, GENESIS
        self._pending, self._waiters = bytearray(), list[Future[None]]()
        self._unsigned, self._signed_at = 0, clock.monotonic()
        self._failure: StorageFailed | StorageFull | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._size = self._resume()
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)
        except OSError as error:
            raise StorageFailed(f"audit log {path}: {error.strerror}") from None
        self._work, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._serve, name=f"audit-{path.name}", daemon=True)
        self._thread.start()
        if signer is not None:
            self.write(SIGNER, certificates=[base64.b64encode(der).decode() for der in signer.certificates()])

    def _resume(self) -> int:
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):  # a crash cut the last line: it was never acknowledged
            os.truncate(self._path, len(whole))
        lines = whole.splitlines()
        if lines:
            try:
                last = json.loads(lines[-1])
                self._seq, self._chain = int(last["seq"]), str(last["chain"])
            except (ValueError, TypeError, KeyError):
                raise StorageFailed(
                    f"audit log {self._path}: its last line is damaged",
                    remedy="look at it with `qkdctl audit verify`, move it away, and keep it as evidence",
                ) from None
        return len(whole)

    def write(self, event: str, **fields: str | float | bool | list[str] | None) -> None:
        """Append one event. Raises StorageFull or StorageFailed when the disk takes nothing more; then it is not logged."""
        with self._work:
            if self._failure is not None and len(self._pending) > _BACKLOG:
                raise self._failure
            self._append(event, fields)
            self._unsigned += 1
            self._work.notify()
        if event != SIGNER:  # certificates are long, and stand in the log
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
        self._chain = link(self._chain, json.dumps(body, sort_keys=True))
        self._pending += json.dumps({**body, "chain": self._chain}, sort_keys=True).encode() + b"\n"

    def _serve(self) -> None:
        closing = False
        while not closing:
            with self._work:
                self._work.wait_for(lambda: self._closing or self._pending or self._waiters)
                closing = self._closing
                waiters, self._waiters = self._waiters, []
                head = self._sign(closing) if self._failure is None else None
                data = bytes(self._pending)
            failure = self._attempt(partial(self._write_out, data)) if data else None
            written = len(data) if failure is None else 0
            if failure is None and head is not None:
                failure = self._attempt(partial(self._remember, head))
            with self._work:
                del self._pending[:written]
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

    def _attempt(self, work: Callable[[], None]) -> StorageFailed | StorageFull | None:
        try:
            work()
        except OSError as error:
            kind = StorageFull if error.errno in (28, 122) else StorageFailed  # ENOSPC, EDQUOT
            return kind(f"audit log {self._path}: {error.strerror}")
        return None

    def _write_out(self, data: bytes) -> None:
        """All of it at the end of what is durable; what an earlier attempt left there is written over."""
        done = 0
        while done < len(data):
            done += os.pwrite(self._file, data[done:], self._size + done)
        os.fdatasync(self._file)
        self._size += len(data)

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
