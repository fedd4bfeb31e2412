"""Masks: never twice, also after a crash; equal on both nodes. The ledger: durable, exact, not to be edited."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from qkdd.core.errors import SealError, StorageFull
from qkdd.core.secret import Secret
from qkdd.keys import LedgerFile, node_store
from qkdd.keys.schema import DOCUMENTS
from qkdd.peer import ALICE_TO_BOB, BOB_TO_ALICE, MaskStore
from qkdd.security.ledger import EpsilonLedger

from .nodes import MASTER, TARGET, Node, check_equal, committed, pair


def test_masks_are_reserved_once_and_burnt_after_a_crash(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        store: MaskStore = a.masks
        assert store.hash_key() is None
        assert store.reserve(ALICE_TO_BOB, 3) == range(0, 0)
        assert not store.established
        await committed(a, b, 1)
        assert a.masks.reserve(ALICE_TO_BOB, 3) == range(0, 3)
        assert a.masks.available(ALICE_TO_BOB) == TARGET - 3
        assert a.masks.available(BOB_TO_ALICE) == TARGET
        for direction in (ALICE_TO_BOB, BOB_TO_ALICE):
            for index in range(TARGET):
                assert a.masks.mask(direction, index).same_as(b.masks.mask(direction, index))
        assert len({bytes(m) for m in a.mask_bytes().values()}) == 2 * TARGET
        b.masks.spent(ALICE_TO_BOB, 1)
        with pytest.raises(KeyError):
            b.masks.mask(ALICE_TO_BOB, 1)
        assert b.masks.available(ALICE_TO_BOB) == TARGET - 2
        with pytest.raises(KeyError):
            a.masks.mask(ALICE_TO_BOB, TARGET)
        await a.close()  # no spent() was made durable: the reserved three are burnt all the same
        a = await Node(tmp_path / "a.db", "alice").open()
        assert a.masks.established
        with pytest.raises(KeyError):
            a.masks.mask(ALICE_TO_BOB, 2)
        assert a.masks.reserve(ALICE_TO_BOB, 100) == range(3, TARGET)
        assert a.masks.reserve(ALICE_TO_BOB, 1) == range(TARGET, TARGET)
        # the next block refills both directions by what the scarcer one lacks
        records = await committed(a, b, 2)
        assert records[0].masks == TARGET
        assert a.masks.reserve(ALICE_TO_BOB, 1) == range(TARGET, TARGET + 1)
        assert await check_equal(a, b) == 2
        await a.close()
        await b.close()

    asyncio.run(main())


def test_rebootstrap_forgets_and_the_next_first_block_fills_again(tmp_path: Path) -> None:
    async def main() -> None:
        a, b = await pair(tmp_path)
        await committed(a, b, 1)
        for node in (a, b):
            node.masks.reserve(ALICE_TO_BOB, 1)
            node.masks.rebootstrap()
            assert node.masks.hash_key() is None
            assert not node.masks.established
            assert node.masks.available(ALICE_TO_BOB) == 0
        records = await committed(a, b, 2)
        assert records[0].first
        assert a.masks.available(ALICE_TO_BOB) == TARGET
        assert await check_equal(a, b) == 2
        await a.close()
        await b.close()

    asyncio.run(main())


def test_the_ledger_survives_and_cannot_be_edited(tmp_path: Path) -> None:
    async def main() -> None:
        database = node_store(tmp_path / "n.db")
        await database.open()
        ledger = EpsilonLedger(LedgerFile(database, Secret(MASTER), "a-b"), now=1.0)
        ledger.charge(1e-12, now=2.0)
        await database.close()
        await database.open()
        again = EpsilonLedger(LedgerFile(database, Secret(MASTER), "a-b"), now=3.0)
        assert again.view(now=3.0) == ledger.view(now=3.0)
        assert LedgerFile(database, Secret(MASTER), "other").load() is None
        pages = await database.run(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
        await database.run(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())
        with pytest.raises(StorageFull):
            await database.run(lambda c: c.execute(DOCUMENTS.insert().values(name="x", content=bytes(100_000))))
        await database.run(lambda c: c.execute(sa.update(DOCUMENTS).values(content=b"QS1\x01" + bytes(60))))
        with pytest.raises(SealError):
            LedgerFile(database, Secret(MASTER), "a-b").load()
        await database.close()

    asyncio.run(main())
