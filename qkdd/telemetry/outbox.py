"""What waits for the MQTT broker, on disk and bounded: the oldest is dropped first, and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from qkdd.core.counters import Meter
from qkdd.core.database import Database
from qkdd.core.sqlite_file import SqliteFile

METADATA = sa.MetaData()
WAITING = sa.Table(
    "waiting",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("until", sa.Float, nullable=False),  # Unix seconds; later it is of no use
)
_SIZE = sa.func.length(WAITING.c.payload) + sa.func.length(WAITING.c.topic)


def _version_1(connection: sa.Connection) -> None:
    METADATA.create_all(connection)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message that waits. until: Unix seconds after which it is of no use."""

    id: int
    topic: str
    payload: bytes
    until: float


class Outbox:
    """One file. `await open()` first."""

    def __init__(self, path: Path, most_bytes: int, meter: Meter) -> None:
        self._database = Database(SqliteFile(path), (_version_1,))
        self._most, self._meter = most_bytes, meter
        self._bytes = 0

    async def open(self) -> None:
        await self._database.open()
        self._bytes = await self._database.run(
            lambda c: c.execute(sa.select(sa.func.coalesce(sa.func.sum(_SIZE), 0))).scalar_one()
        )
        self._meter.set("qkdd_mqtt_waiting_bytes", self._bytes)

    async def close(self) -> None:
        await self._database.close()

    async def put(self, topic: str, payload: bytes, until: float) -> None:
        """Durable when it returns. Raises StorageFull, StorageFailed."""

        def work(connection: sa.Connection) -> tuple[int, int]:
            connection.execute(WAITING.insert().values(topic=topic, payload=payload, until=until))
            change, dropped = len(payload) + len(topic), 0
            while self._bytes + change > self._most:
                row = connection.execute(sa.select(WAITING.c.id, _SIZE).order_by(WAITING.c.id).limit(1)).one()
                connection.execute(WAITING.delete().where(WAITING.c.id == row[0]))
                change, dropped = change - row[1], dropped + 1
            return change, dropped

        self._count(*await self._database.run(work))

    async def oldest(self, count: int, now: float) -> list[Letter]:
        """The next to be sent, in order; what is of no use any more is dropped and counted."""

        def work(connection: sa.Connection) -> tuple[int, int, list[Letter]]:
            old = WAITING.c.until < now
            gone = connection.execute(
                sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_SIZE), 0)).where(old)
            ).one()
            connection.execute(WAITING.delete().where(old))
            rows = connection.execute(sa.select(WAITING).order_by(WAITING.c.id).limit(count))
            return -gone[1], gone[0], [Letter(r.id, r.topic, r.payload, r.until) for r in rows]

        change, dropped, letters = await self._database.run(work)
        self._count(change, dropped)
        return letters

    async def sent(self, letter: Letter) -> None:
        """The broker has it."""
        await self._database.run(lambda c: c.execute(WAITING.delete().where(WAITING.c.id == letter.id)).rowcount)
        self._count(-len(letter.payload) - len(letter.topic), 0)

    def _count(self, change: int, dropped: int) -> None:
        self._bytes += change
        self._meter.set("qkdd_mqtt_waiting_bytes", self._bytes)
        if dropped:
            self._meter.add("qkdd_mqtt_dropped_total", dropped)
