"""Draws of a pair that may have key of some sources only, or of a bounded claimed epsilon.

`take`, `available` and `fits` are functions of a connection. The epsilon of a draw is the sum of what is claimed for its
chunks; a chunk that claims nothing never fits a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from qkdd.kms import chunks
from qkdd.kms.allocation import Piece
from qkdd.kms.schema import CHUNKS, DRAWABLE, RETURNED

_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Only:
    """sources: names, or nothing for any; max_epsilon: of a whole draw."""

    sources: tuple[str, ...] = ()
    max_epsilon: float | None = None

    @property
    def all(self) -> bool:
        """Whether nothing is asked for."""
        return not self.sources and self.max_epsilon is None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """On `chunks`."""
        found: list[sa.ColumnElement[bool]] = []
        if self.sources:
            found.append(CHUNKS.c.source.in_(self.sources))
        if self.max_epsilon is not None:
            found.append(CHUNKS.c.epsilon <= self.max_epsilon)
        return found


ANY = Only()


def together(parts: Sequence[Only]) -> Only | None:
    """What satisfies all of them; None when nothing can."""
    named = [set(part.sources) for part in parts if part.sources]
    sources = tuple(sorted(set.intersection(*named))) if named else ()
    if named and not sources:
        return None
    bounds = [part.max_epsilon for part in parts if part.max_epsilon is not None]
    return Only(sources, min(bounds) if bounds else None)


def take(connection: sa.Connection, own: str, peer: str, need: int, only: Only) -> list[Piece] | None:
    """Cut `need` bytes off chunks that fit, what came back first; None, and nothing cut, when there are too few."""
    budget = _Budget(only)
    back: list[tuple[sa.Row[tuple[object, ...]], int]] = []
    returned = (
        sa.select(RETURNED, CHUNKS.c.chunk_id, CHUNKS.c.epsilon)
        .join(CHUNKS, CHUNKS.c.row == RETURNED.c.row)
        .where(RETURNED.c.peer == peer, *only.conditions())
        .order_by(RETURNED.c.row, RETURNED.c.start)
        .limit(_AT_ONCE)
    )
    left = need
    for row in connection.execute(returned).all():
        if left and budget.has(row.row, row.epsilon):
            size = min(left, row.stop - row.start)
            back.append((row, row.start + size))
            left -= size
    cuts: list[tuple[str, chunks.Cut]] = []
    after = -1
    while left:
        found = connection.execute(
            sa.select(CHUNKS.c.row, CHUNKS.c.chunk_id, CHUNKS.c.bytes, CHUNKS.c.cursor, CHUNKS.c.epsilon)
            .where(CHUNKS.c.peer == peer, CHUNKS.c.owner == own, CHUNKS.c.row > after, DRAWABLE, *only.conditions())
            .order_by(CHUNKS.c.row)
            .limit(_AT_ONCE)
        ).all()
        if not found:
            return None
        for row in found:
            if left and budget.has(row.row, row.epsilon):
                stop = min(row.bytes, row.cursor + left)
                cuts.append((row.chunk_id, (row.row, row.cursor, stop)))
                left -= stop - row.cursor
        after = found[-1].row
    pieces: list[Piece] = []
    for row, stop in back:
        connection.execute(RETURNED.delete().where(RETURNED.c.row == row.row, RETURNED.c.start == row.start))
        if stop < row.stop:
            connection.execute(RETURNED.insert().values(row=row.row, start=stop, stop=row.stop, peer=peer))
        chunks.use(connection, row.row, row.start, stop, opened=True)
        pieces.append((row.chunk_id, row.start, stop))
    if cuts:
        chunks.cut(connection, [cut for _, cut in cuts])
    return pieces + [(chunk_id, start, stop) for chunk_id, (_, start, stop) in cuts]


class _Budget:
    def __init__(self, only: Only) -> None:
        self._left, self._rows = only.max_epsilon, dict[int, float]()

    def has(self, row: int, epsilon: float | None) -> bool:
        """Whether a draw may have this chunk too; then it is counted."""
        if self._left is None or row in self._rows:
            return True
        if epsilon is None or math.fsum([*self._rows.values(), epsilon]) > self._left:
            return False
        self._rows[row] = epsilon
        return True


def fits(connection: sa.Connection, pieces: Sequence[Piece], only: Only) -> bool:
    """Whether all of these pieces that are known here may be in one draw."""
    ids = {chunk_id for chunk_id, _, _ in pieces}
    query = sa.select(CHUNKS.c.row, CHUNKS.c.source, CHUNKS.c.epsilon).where(CHUNKS.c.chunk_id.in_(ids))
    rows, budget = connection.execute(query).all(), _Budget(only)
    return all((not only.sources or row.source in only.sources) and budget.has(row.row, row.epsilon) for row in rows)


def available(connection: sa.Connection, own: str, peer: str, only: Only) -> int:
    """Bytes of ours that fit, each chunk by itself."""
    query = sa.select(sa.func.coalesce(sa.func.sum(CHUNKS.c.bytes - CHUNKS.c.cursor), 0)).where(
        CHUNKS.c.peer == peer, CHUNKS.c.owner == own, DRAWABLE, *only.conditions()
    )
    return int(connection.execute(query).scalar_one())
