"""Statements that the driver runs itself, for the few that are run for every request.

SQLAlchemy makes the text once, for each dialect; what it does around each execution (result objects, events, a copy of the
parameters) costs four times what the statement costs in SQLite. Failures look like SQLAlchemy's own, so a store's error
handling sees no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.expression import ClauseElement

_DIALECTS: dict[str, sa.Dialect] = {
    "sqlite": sqlite.pysqlite.dialect(paramstyle="named"),
    "postgresql": sa.make_url("postgresql+psycopg://").get_dialect()(),
}


class Prepared:
    """A statement with named parameters (`sa.bindparam`) of plain types: integers, floats, text, bytes, None."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._made: dict[str, tuple[str, dict[str, Any]]] = {}

    def text(self, dialect: str) -> tuple[str, dict[str, Any]]:
        """SQL, and the values of the statement's own constants."""
        made = self._made.get(dialect)
        if made is None:
            compiled = self._statement.compile(dialect=_DIALECTS[dialect])
            constants = {
                name: str(value) if isinstance(value, str) else value  # a driver need not know our enumerations
                for name, value in compiled.params.items()
                if value is not None
            }
            made = self._made[dialect] = (str(compiled), constants)
        return made


class Driver:
    """The driver's view of a connection, inside its transaction. Raises sqlalchemy.exc.DBAPIError."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection, self._dialect = connection, connection.dialect
        self._cursor = connection.connection.cursor()

    def rows(self, statement: Prepared, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        text, constants = statement.text(self._dialect.name)
        try:
            self._cursor.execute(text, {**constants, **values} if constants else values)
            return list(self._cursor.fetchall())
        except Exception as error:
            raise self._failure(text, error) from error

    def run(self, statement: Prepared, values: Sequence[Mapping[str, Any]]) -> int:
        """Once for each set of values; the number of rows that the last one (of several: some drivers all) changed."""
        text, constants = statement.text(self._dialect.name)
        try:
            if len(values) == 1:
                self._cursor.execute(text, {**constants, **values[0]} if constants else values[0])
            else:
                self._cursor.executemany(text, [{**constants, **one} for one in values] if constants else values)
            return int(self._cursor.rowcount)
        except Exception as error:
            raise self._failure(text, error) from error

    def _failure(self, text: str, error: Exception) -> BaseException:
        """What SQLAlchemy would have raised; the error itself when it is none of the driver's."""
        dbapi, raw = self._dialect.dbapi, self._connection.connection.dbapi_connection
        if dbapi is None or not isinstance(error, dbapi.Error):
            return error
        lost = self._dialect.is_disconnect(error, raw, None)
        if lost:
            self._connection.invalidate(error)
        return sa.exc.DBAPIError.instance(
            text, None, error, dbapi.Error, connection_invalidated=lost, dialect=self._dialect
        )
