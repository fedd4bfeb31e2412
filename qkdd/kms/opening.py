"""Sealed chunks, opened for the keys of one transaction: each once, however many draws have their keys in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from qkdd.core.driver_sql import Driver, Prepared
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.kms import chunks
from qkdd.kms.allocation import Allocation, Origin
from qkdd.kms.schema import CHUNKS, MATERIAL

_FACTS = Prepared(
    sa.select(CHUNKS.c.row, CHUNKS.c.link, CHUNKS.c.about).where(
        CHUNKS.c.chunk_id == sa.bindparam("chunk", type_=sa.Text)
    )
)
_SEALED = Prepared(sa.select(MATERIAL.c.sealed).where(MATERIAL.c.row == sa.bindparam("of", type_=sa.BigInteger)))

_Facts = tuple[int, str, dict[str, Any]]  # row, link, about
_KEPT_S = 1.0
_KEPT_BYTES = 4 << 20


class Kept:
    """Chunks that stay open from one transaction to the next, for a second and some megabytes: under load the next transactions
    need the same ones. Belongs to the store's thread. Nothing is given out because it is here: each transaction looks its draws
    up in the store."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic, self._since = monotonic, 0.0
        self.facts: dict[str, _Facts] = {}
        self.open: dict[str, Secret] = {}

    def begin(self) -> None:
        """A transaction that needs chunks."""
        if not self.open:
            self._since = self._monotonic()

    def end(self) -> None:
        """What is too old or too much is wiped."""
        if self._monotonic() - self._since > _KEPT_S or sum(map(len, self.open.values())) > _KEPT_BYTES:
            self.wipe()

    def wipe(self) -> None:
        for chunk in self.open.values():
            chunk.wipe()
        self.open.clear()
        self.facts.clear()


class Opener:
    """Of one transaction; made by `opened`."""

    def __init__(self, driver: Driver, sealer: Sealer, facts: dict[str, _Facts], chunks: dict[str, Secret]) -> None:
        self._driver, self._sealer = driver, sealer
        self._facts, self._open = facts, chunks

    def row(self, chunk_id: str) -> int:
        """Of a chunk that is here."""
        return self._known(chunk_id)[0]

    def text(self, allocation: Allocation, first: int, amount: int) -> bytes:
        """The bytes of the quantum link of `amount` keys from number `first` on; nothing for a draw that has none."""
        if not allocation.pieces:
            return b""
        start, stop = first * allocation.key_bytes, (first + amount) * allocation.key_bytes
        parts, at = [], 0
        for chunk_id, begin, end in allocation.pieces:
            if at < stop and at + end - begin > start:
                chunk = self._material(chunk_id).reveal()
                parts.append(chunk[begin + max(start - at, 0) : begin + min(stop - at, end - begin)])
            at += end - begin
        return b"".join(parts)

    def origin(self, allocation: Allocation) -> Origin:
        """Of the whole draw, as each of its keys says."""
        parts = [self._known(chunk_id) for chunk_id in {chunk_id for chunk_id, _, _ in allocation.pieces}]
        claims: list[Any] = [about.get("epsilon") for _, _, about in parts]
        return Origin(
            links=tuple(sorted({link for _, link, _ in parts})),
            sources=tuple(sorted({about["source"] for _, _, about in parts if "source" in about})),
            epsilon=None if not claims or None in claims else float(sum(claims)),
        )

    def _known(self, chunk_id: str) -> _Facts:
        found = self._facts.get(chunk_id)
        if found is None:
            [(row, link, about)] = self._driver.rows(_FACTS, {"chunk": chunk_id})
            found = self._facts[chunk_id] = (row, link, json.loads(about))
        return found

    def _material(self, chunk_id: str) -> Secret:
        found = self._open.get(chunk_id)
        if found is None:
            [(sealed,)] = self._driver.rows(_SEALED, {"of": self.row(chunk_id)})
            found = self._open[chunk_id] = self._sealer.open(bytes(sealed), chunks.place(chunk_id))
        return found


@contextmanager
def opened(driver: Driver, sealer: Sealer, kept: Kept | None = None) -> Iterator[Opener]:
    """What is opened inside is wiped behind it, or `kept`."""
    chunks_of = kept if kept is not None else Kept(lambda: 0.0)
    chunks_of.begin()
    try:
        yield Opener(driver, sealer, chunks_of.facts, chunks_of.open)
    finally:
        if kept is not None:
            kept.end()
        else:
            chunks_of.wipe()
