"""The virtual bench's PostgreSQL server for tests, which say so visibly when it is not installed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from qkdd_hil.postgres import NoServer, PostgresServer, programs


@contextmanager
def server() -> Iterator[PostgresServer]:
    try:
        programs()
    except NoServer as error:
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="qkdd-pg-"))
    folder.chmod(0o700)
    made = PostgresServer(folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)
