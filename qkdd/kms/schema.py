"""Tables of the KMS and their migrations.

A chunk is one hand-over of a node, held by both sites; an allocation is one draw of `amount` keys of `key_bytes` bytes, cut
from byte ranges (pieces) of chunks. Behind a chunk's cursor only `returned` ranges can be cut off again. Key material stands
only in `material`, sealed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum

import sqlalchemy as sa

from qkdd.core.clock import Clock
from qkdd.core.database import Database, Place


class ChunkState(StrEnum):
    WAITING = "waiting"  # here, not known to be at the other site
    LIVE = "live"  # at both sites
    SPENT = "spent"  # every byte drawn and fetched; the material is erased


class AllocationState(StrEnum):
    RESERVED = "reserved"  # cut off here, not yet known to the other site; never left
    DELIVERED = "delivered"  # drawn here, given to the master
    RECORDED = "recorded"  # drawn at the other site
    VOIDING = "voiding"  # abandoned here; the other site is being asked to forget it
    VOIDED = "voided"  # the other site abandoned it: an announcement that still comes is refused


_RESERVED, _DONE = sa.text("state = 'reserved'"), sa.text("done IS NOT NULL")  # of partial indexes
METADATA = sa.MetaData()

_Row = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # a rowid in SQLite

CHUNKS = sa.Table(
    "chunks",
    METADATA,
    sa.Column("row", _Row, primary_key=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("chunk_id", sa.Text, nullable=False, unique=True),
    sa.Column("link", sa.Text, nullable=False),
    sa.Column("idx", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),  # first byte that its owner has not cut off
    sa.Column("used", sa.BigInteger, nullable=False),  # bytes covered by pieces
    sa.Column("open", sa.BigInteger, nullable=False),  # allocations that still need the material here
    sa.Column("owner", sa.Text, nullable=False),  # id of the KMS that may draw from it
    sa.Column("epoch", sa.BigInteger, nullable=False),  # counts changes of owner
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False, server_default="own"),  # name of a source, or our own nodes
    sa.Column("epsilon", sa.Float),  # claimed
    sa.Index("chunks_by_state", "state", "row"),
)

# Conditions with literals: SQLite uses a partial index only for a condition that it can read when it plans the query.
DRAWABLE = sa.text("chunks.state = 'live' AND chunks.cursor < chunks.bytes")
RESERVED = sa.text("allocations.state = 'reserved'")
VOIDING = sa.text("allocations.state = 'voiding'")

MATERIAL = sa.Table(
    "material",
    METADATA,
    sa.Column("row", _Row, primary_key=True, autoincrement=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

POOLS = sa.Table(
    "pools",
    METADATA,
    sa.Column("peer", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # of live chunks of that owner, behind the cursor
)

ALLOCATIONS = sa.Table(
    "allocations",
    METADATA,
    sa.Column("id", sa.LargeBinary(12), primary_key=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("master", sa.Text, nullable=False),
    sa.Column("slaves", sa.Text, nullable=False),
    sa.Column("key_bytes", sa.BigInteger, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("pieces", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("claimant", sa.BigInteger),  # the opening of the store whose request holds the reservation
    sa.Column("expected", sa.BigInteger, nullable=False),  # fetches by applications of this site
    sa.Column(
        "fetched", sa.BigInteger, nullable=False
    ),  # of those; of the rest of a lease that is voiding: its first key's number
    sa.Column("created", sa.Float, nullable=False),  # service time, see qkdd.kms.store.Store.now
    sa.Column("done", sa.Float),
    sa.Column("key_class", sa.Text, nullable=False, server_default="its"),  # qkdd.kms.classes.KeyClass
    sa.Column("offer", sa.Text),  # qkdd.kms.exchange.Offer, of a class that has a post-quantum share
    sa.Column("mix", sa.LargeBinary),  # that share, sealed; erased with the row
    sa.Index("allocations_reserved", "state", sqlite_where=_RESERVED, postgresql_where=_RESERVED),
    sa.Index("allocations_by_age", "created"),
    sa.Index("allocations_done", "done", sqlite_where=_DONE, postgresql_where=_DONE),
)

PIECES = sa.Table(
    "pieces",
    METADATA,
    sa.Column("row", _Row, primary_key=True, autoincrement=False),
    sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("stop", sa.BigInteger, nullable=False),
)

RETURNED = sa.Table(
    "returned",
    METADATA,
    sa.Column("row", _Row, primary_key=True, autoincrement=False),
    sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("stop", sa.BigInteger, nullable=False),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Index("returned_by_peer", "peer", "row", "start"),
)

DELIVERIES = sa.Table(
    "deliveries",
    METADATA,
    sa.Column("allocation", sa.LargeBinary(12), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),  # of the first key of a run
    sa.Column("sae", sa.Text, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column(
        "amount", sa.BigInteger, nullable=False, server_default="1"
    ),  # of the run; those of one SAE do not overlap
)

EXCHANGES = sa.Table(
    "exchanges",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),  # service time
    sa.Column("bundle", sa.LargeBinary, nullable=False),  # qkdd.kms.exchange.Bundle
    sa.Column("sealed", sa.LargeBinary, nullable=False),  # its private keys
)

# Key streams (ETSI GS QKD 004). Both sites know a stream; `drawing` is the KMS that cuts its keys.
STREAMS = sa.Table(
    "streams",
    METADATA,
    sa.Column("ksid", sa.Text, primary_key=True),
    sa.Column("peer", sa.Text, nullable=False),  # the other KMS, whose link pays
    sa.Column("drawing", sa.Text, nullable=False),
    sa.Column("qos", sa.Text, nullable=False),  # qkdd.kms.stream_messages.Qos
    sa.Column("created", sa.Float, nullable=False),  # service time
)

STREAM_ENDS = sa.Table(
    "stream_ends",
    METADATA,
    sa.Column("ksid", sa.Text, primary_key=True),
    sa.Column("end", sa.BigInteger, primary_key=True, autoincrement=False),  # 0: who opened it, 1: the other
    sa.Column("sae", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # qkdd.kms.streams.EndState
    sa.Column("next", sa.BigInteger, nullable=False),  # index that it gets when it names none
    sa.Column("touched", sa.Float, nullable=False),  # service time of its last call
)

# Which key of the pool is which chunk of a stream; at the drawing site.
STREAM_KEYS = sa.Table(
    "stream_keys",
    METADATA,
    sa.Column("ksid", sa.Text, primary_key=True),
    sa.Column("idx", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)

META = sa.Table("meta", METADATA, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Float))


def _version_1(connection: sa.Connection) -> None:
    METADATA.create_all(connection)


def _version_2(connection: sa.Connection) -> None:
    """Ranges that came back from abandoned reservations; a draw costs the same however many wait to be fetched."""
    RETURNED.create(connection, checkfirst=True)
    connection.exec_driver_sql("CREATE INDEX allocations_voiding ON allocations (peer) WHERE state = 'voiding'")
    connection.exec_driver_sql("DROP INDEX IF EXISTS chunks_by_owner")  # the planner would prefer it to the partial one
    connection.exec_driver_sql(
        """CREATE INDEX chunks_drawable ON chunks (peer, owner, "row") WHERE state = 'live' AND "cursor" < bytes"""
    )


def _version_3(connection: sa.Connection) -> None:
    """Who holds a reservation: several processes may serve one store. What a version 2 left is free for anybody."""
    columns = {column["name"] for column in sa.inspect(connection).get_columns("allocations")}
    if "claimant" not in columns:
        connection.exec_driver_sql("ALTER TABLE allocations ADD COLUMN claimant BIGINT")
        connection.exec_driver_sql("ALTER TABLE allocations DROP COLUMN claimed")


def _version_4(connection: sa.Connection) -> None:
    """Classes of keys with a post-quantum share. What a version 3 drew is of class its."""
    EXCHANGES.create(connection, checkfirst=True)
    columns = {column["name"] for column in sa.inspect(connection).get_columns("allocations")}
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for name, kind in (("key_class", "TEXT NOT NULL DEFAULT 'its'"), ("offer", "TEXT"), ("mix", blob)):
        if name not in columns:
            connection.exec_driver_sql(f"ALTER TABLE allocations ADD COLUMN {name} {kind}")


def _version_5(connection: sa.Connection) -> None:
    """Source and claimed epsilon of a chunk where a draw can ask for them; key streams."""
    for table in (STREAMS, STREAM_ENDS, STREAM_KEYS):
        table.create(connection, checkfirst=True)
    columns = {column["name"] for column in sa.inspect(connection).get_columns("chunks")}
    if "source" in columns:
        return
    connection.exec_driver_sql("ALTER TABLE chunks ADD COLUMN source TEXT NOT NULL DEFAULT 'own'")
    connection.exec_driver_sql("ALTER TABLE chunks ADD COLUMN epsilon DOUBLE PRECISION")
    rows = connection.execute(sa.select(CHUNKS.c.row, CHUNKS.c.about).where(CHUNKS.c.state != ChunkState.SPENT)).all()
    for row, about in rows:
        facts = json.loads(about)
        values = {"source": facts.get("source") or "own", "epsilon": facts.get("epsilon")}
        connection.execute(CHUNKS.update().where(CHUNKS.c.row == row).values(**values))


def _version_6(connection: sa.Connection) -> None:
    """Keys that are fetched one behind the other are one delivery. What a version 5 delivered are runs of one key."""
    if "amount" not in {column["name"] for column in sa.inspect(connection).get_columns("deliveries")}:
        connection.exec_driver_sql("ALTER TABLE deliveries ADD COLUMN amount BIGINT NOT NULL DEFAULT 1")


MIGRATIONS = (_version_1, _version_2, _version_3, _version_4, _version_5, _version_6)


def kms_store(
    place: Place,
    deadline: float | None = None,
    clock: Clock | None = None,
    on_silence: Callable[[bool], object] = lambda _silent: None,
) -> Database:
    """The database of a KMS, not yet open. deadline: s, see `qkdd.core.database.Database`."""
    return Database(place, MIGRATIONS, deadline=deadline, clock=clock, on_silence=on_silence)
