"""A store in a PostgreSQL database that several processes (replicas) share.

Each transaction takes one advisory lock first, so that transactions of all replicas follow each other: the work functions of
a store were written for that, and group commit keeps it cheap. Each connection also holds an advisory lock of its own random
number; when the process or its line dies, PostgreSQL lets it go, and the others see that (`qkdd.core.database.is_alive`).
"""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from qkdd.core.errors import ConfigError, QkddError, StorageFailed, StorageFull

_WRITER = 0x716B6464  # key of the lock that transactions take, one store a database
# A replica that hangs in a transaction, or whose host vanished, must not stop the others for longer than this.
_OPTIONS = (
    "-c lock_timeout=10s -c statement_timeout=20s -c idle_in_transaction_session_timeout=20s "
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
)
_DISK_FULL = "53100"


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

    def __init__(self, url: str) -> None:
        self._url = parse(url)
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None

    @property
    def name(self) -> str:
        return f"postgresql://{self._url.host or 'local'}/{self._url.database}"

    def open(self) -> sa.Connection:
        arguments: dict[str, Any] = {"options": _OPTIONS, "connect_timeout": 5, "tcp_user_timeout": 10_000}
        try:
            engine = sa.create_engine(
                self._url, poolclass=NullPool, connect_args=arguments, isolation_level="READ COMMITTED"
            )
        except ModuleNotFoundError:
            raise StorageFailed(
                f"{self.name}: the PostgreSQL driver is not installed", remedy="pip install 'qkdd[postgres]'"
            ) from None
        number = secrets.randbits(62)
        try:
            connection = engine.connect()
            connection.execute(sa.select(sa.func.pg_advisory_lock(number)))
            connection.commit()
        except sa.exc.DBAPIError as error:
            engine.dispose()
            raise self.error(error) from None
        sa.event.listen(engine, "begin", _take_turn)
        self._engine, self._connection = engine, connection
        connection.info["owner"] = number
        return connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # closes the session, whatever state it is in
            connection.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def reading(self) -> sa.URL:
        return self._url

    def error(self, error: BaseException) -> QkddError:
        cause = getattr(error, "orig", None) or error
        text = " ".join(str(cause).split())
        if getattr(cause, "sqlstate", None) == _DISK_FULL:
            return StorageFull(f"{self.name}: {text}")
        return StorageFailed(f"{self.name}: {text}", remedy="Check the database server and the line to it.")


def _take_turn(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER})")
