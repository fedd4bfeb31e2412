"""A store in a PostgreSQL database that several processes (replicas) share.

Each transaction takes one advisory lock first, so that transactions of all replicas follow each other: the work functions of
a store were written for that, and group commit keeps it cheap. Each connection also holds an advisory lock of its own random
number; when the process or its line dies, PostgreSQL lets it go, and the others see that (`qkdd.core.database.is_alive`).

Nothing waits for the server without an end: it is connected to in 5 s, TCP gives up a line that acknowledges nothing, the server
itself ends a statement that takes too long, and a server that is there and says nothing has its line cut by `interrupt`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from qkdd.core.errors import ConfigError, QkddError, StorageFailed, StorageFull, StorageSilent

_WRITER = 0x716B6464  # key of the lock that transactions take, one store a database
_CONNECT = 5.0  # s, at most
_DISK_FULL = "53100"
# query_canceled (statement_timeout), lock_not_available, idle_in_transaction_session_timeout
_LATE = ("57014", "55P03", "25P03")


def _limits(deadline: float) -> dict[str, Any]:
    """Of a connection. A replica that hangs in a transaction, or whose host vanished, stops the others for no longer than the
    deadline, and what the server ends by itself it ends before the caller has gone."""
    options = {
        "lock_timeout": f"{500 * deadline:.0f}ms",
        "statement_timeout": f"{800 * deadline:.0f}ms",
        "idle_in_transaction_session_timeout": f"{1000 * deadline:.0f}ms",
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
    }
    return {
        "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        "connect_timeout": max(2, round(min(_CONNECT, deadline))),
        "tcp_user_timeout": round(1000 * deadline),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }


def parse(url: str) -> sa.URL:
    """The URL of a store. Raises ConfigError for another kind of database and for a password in it."""
    try:
        made = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"store: {error}", remedy='write "postgresql://user@host/database"') from None
    if made.drivername not in ("postgresql", "postgresql+psycopg"):
        raise ConfigError(
            f"store: {made.drivername} is not supported", remedy='write "postgresql://user@host/database", or nothing'
        )
    if made.password is not None:
        raise ConfigError(
            "store: the URL holds a password, which logs and process lists would show",
            remedy="put it into a passfile and name that: postgresql://user@host/database?passfile=/path",
        )
    return made.set(drivername="postgresql+psycopg")


class Postgres:
    """See `qkdd.core.database.Place`. Raises ConfigError as `parse`."""

    def __init__(self, url: str, deadline: float = 10.0) -> None:
        """deadline: s of a statement."""
        self._url, self._limits = parse(url), _limits(deadline)
        self._line: socket.socket | None = None  # a second name of the connection's socket
        self._guard = threading.Lock()  # of _line, which another thread cuts
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None

    @property
    def name(self) -> str:
        return f"postgresql://{self._url.host or 'local'}/{self._url.database}"

    def open(self) -> sa.Connection:
        try:
            engine = sa.create_engine(
                self._url, poolclass=NullPool, connect_args=self._limits, isolation_level="READ COMMITTED"
            )
        except ModuleNotFoundError:
            raise StorageFailed(
                f"{self.name}: the PostgreSQL driver is not installed", remedy="pip install 'qkdd[postgres]'"
            ) from None
        sa.event.listen(engine, "do_connect", self._connect)
        number = secrets.randbits(62)
        try:
            connection = engine.connect()
            connection.execute(sa.select(sa.func.pg_advisory_lock(number)))
            connection.commit()
        except sa.exc.DBAPIError as error:
            self.close()
            engine.dispose()
            raise self.error(error) from None
        sa.event.listen(engine, "begin", _take_turn)
        self._engine, self._connection = engine, connection
        connection.info["owner"] = number
        return connection

    def _connect(self, dialect: sa.Dialect, _record: object, words: Any, options: Any) -> Any:
        made = dialect.connect(*words, **options)
        with self._guard:
            self._line = socket.socket(fileno=os.dup(made.pgconn.socket))
        return made

    def interrupt(self) -> None:
        with self._guard:
            if self._line is not None:
                with contextlib.suppress(OSError):  # the server ended it first
                    self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._guard:
            line, self._line = self._line, None
            if line is not None:
                line.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # closes the session, whatever state it is in
            connection.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def reading(self) -> sa.URL:
        return self._url.update_query_dict({name: str(value) for name, value in self._limits.items()})

    def error(self, error: BaseException) -> QkddError:
        cause = getattr(error, "orig", None) or error
        text = " ".join(str(cause).split())
        if getattr(cause, "sqlstate", None) == _DISK_FULL:
            return StorageFull(f"{self.name}: {text}")
        if getattr(cause, "sqlstate", None) in _LATE or type(cause).__name__ == "ConnectionTimeout":
            return StorageSilent(f"{self.name}: {text}")
        return StorageFailed(f"{self.name}: {text}", remedy="Check the database server and the line to it.")


def _take_turn(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER})")
