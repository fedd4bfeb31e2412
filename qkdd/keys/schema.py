"""Tables of a node's key store (one SQLite file) and their migrations.

From `prepared` on a block's row holds the sealed head of its key, from which masks are made, and its row in `CHUNKS` the rest,
which becomes key: megabytes that are written once, while the small row changes its state (decision 0220). `released` and
`voided` blocks have neither. Masks and the ledger live in the same file, so that a block becomes key, masks and a ledger
entry in one commit.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from qkdd.core.database import Database
from qkdd.core.sqlite_file import SqliteFile


class BlockState(StrEnum):
    """`prepared → committed → sealed → offered → acknowledged → released`, or `voided`."""

    PREPARED = "prepared"  # durable here, no decision known
    COMMITTED = "committed"  # the decision is commit, not yet covered by a tag
    SEALED = "sealed"  # both nodes hold it; waits for the KMS
    OFFERED = "offered"  # about to be sent or maybe stored at the KMS
    ACKNOWLEDGED = "acknowledged"  # the KMS holds it durably
    RELEASED = "released"  # and this node's copy is erased
    VOIDED = "voided"  # never became key; erased


IN_DOUBT = (BlockState.PREPARED, BlockState.COMMITTED)
WAITING = (BlockState.SEALED, BlockState.OFFERED)
HELD = (BlockState.SEALED, BlockState.OFFERED, BlockState.ACKNOWLEDGED, BlockState.RELEASED)

METADATA = sa.MetaData()
_PAGE = 1 << 14  # a chunk of megabytes is written in a quarter of the calls; the small rows fill one page anyway

BLOCKS = sa.Table(
    "blocks",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.LargeBinary(16), nullable=False, unique=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("first", sa.Boolean, nullable=False),
    sa.Column("masks", sa.Integer, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("sealed", sa.LargeBinary),  # the head, until it became masks; before version 3 the whole key
    sa.Column("target", sa.Text),  # where it was offered first: it may be stored there and goes nowhere else
    sa.Column(
        "withdrawn", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # offered, erased here, to be voided there
    sa.Index("blocks_by_state", "state", "sequence"),
)

CHUNKS = sa.Table(
    "chunks",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

MASKS = sa.Table(
    "masks",
    METADATA,
    sa.Column("direction", sa.Text, primary_key=True),
    sa.Column("start", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

MASK_STATE = sa.Table(
    "mask_state",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)

HASH_KEY = sa.Table(
    "hash_key",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

DOCUMENTS = sa.Table(
    "documents",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)


def _version_1(connection: sa.Connection) -> None:
    METADATA.create_all(connection)


def _version_2(connection: sa.Connection) -> None:
    """Where a chunk was offered, and whether that is being taken back."""
    columns = {column["name"] for column in sa.inspect(connection).get_columns("blocks")}
    if "target" not in columns:
        connection.exec_driver_sql("ALTER TABLE blocks ADD COLUMN target TEXT")
        connection.exec_driver_sql("ALTER TABLE blocks ADD COLUMN withdrawn BOOLEAN NOT NULL DEFAULT 0")


def _version_3(connection: sa.Connection) -> None:
    """Chunks beside their blocks. What is in doubt stays whole: only who has the master key can cut it."""
    CHUNKS.create(connection, checkfirst=True)
    whole = (BLOCKS.c.state.in_([*WAITING, BlockState.ACKNOWLEDGED]), BLOCKS.c.sealed.is_not(None))
    connection.execute(
        CHUNKS.insert().from_select(["sequence", "sealed"], sa.select(BLOCKS.c.sequence, BLOCKS.c.sealed).where(*whole))
    )
    connection.execute(BLOCKS.update().where(*whole).values(sealed=None))


MIGRATIONS = (_version_1, _version_2, _version_3)


def node_store(path: Path) -> Database:
    """The key store of a node, not yet open."""
    return Database(SqliteFile(path, page_size=_PAGE), MIGRATIONS)
