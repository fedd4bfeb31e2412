"""A store in one SQLite file (WAL, synchronous=FULL) with one owner process."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from qkdd.core.errors import QkddError, StorageFailed, StorageFull, StorageSilent


class SqliteFile:
    """See `qkdd.core.database.Place`."""

    def __init__(self, path: Path, deadline: float = 10.0, page_size: int = 4096) -> None:
        """deadline: s; a lock that another program holds on the file is waited for half as long. page_size: bytes, of a file that
        is made now; large ones suit rows of megabytes."""
        self.path, self._patience, self._page_size = path, deadline / 2, page_size
        self._lock = -1
        self._raw: sqlite3.Connection | None = None
        self._guard = threading.Lock()  # of _raw, which another thread interrupts
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> sa.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except BlockingIOError:
            raise StorageFailed(
                f"{self.path}: another process has the store open", remedy="stop the other process; one owner per store"
            ) from None
        except OSError as error:
            raise self.error(error) from None
        self._engine = engine = sa.create_engine("sqlite+pysqlite://", creator=self._connect, poolclass=StaticPool)
        sa.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        try:
            self._connection = connection = engine.connect()
        except sa.exc.DBAPIError as error:
            raise self.error(error) from None
        connection.info["owner"] = secrets.randbits(62)
        return connection

    def _connect(self) -> Any:
        raw = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        for pragma in (
            f"busy_timeout = {1000 * self._patience:.0f}",
            f"page_size = {self._page_size}",
            "mmap_size = 0",  # a file that is erased while it is open is an error to SQLite, not the end of the process
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",
            "foreign_keys = ON",
            "temp_store = MEMORY",
        ):
            raw.execute(f"PRAGMA {pragma}")
        with self._guard:
            self._raw = raw
        return raw

    def interrupt(self) -> None:
        with self._guard:
            if self._raw is not None:
                self._raw.interrupt()

    def close(self) -> None:
        with self._guard:
            self._raw = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def reading(self) -> sa.URL:
        return sa.make_url(f"sqlite+pysqlite:///file:{self.path}?mode=ro&uri=true")

    def error(self, error: BaseException) -> QkddError:
        text = str(getattr(error, "orig", None) or error)
        if "disk is full" in text or "No space left" in text:
            return StorageFull(f"{self.path}: {text}")
        if "database is locked" in text:
            return StorageSilent(
                f"{self.path}: another program holds a lock on the file",
                remedy="end the program that has the file open (a backup, sqlite3); it goes on by itself",
            )
        if text == "interrupted":
            return StorageSilent(f"{self.path}: no answer within the deadline")
        return StorageFailed(f"{self.path}: {text}")
