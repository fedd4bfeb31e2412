"""The benchmark of draws runs and says what it measured; a key shows nothing of itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from qkdd.kms.allocation import Allocation
from qkdd.kms.bench import _Noting
from qkdd.kms.cli import app
from qkdd.kms.key_ids import key_id, split
from qkdd.kms.plane import Rest, Void, Voided
from qkdd.kms.service import KeyBatch


def test_bench_prints_its_rows() -> None:
    done = CliRunner().invoke(
        app, ["bench", "--batches", "4", "--amount", "8", "--concurrency", "2", "--largest", "10000", "--json"]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["keys_per_s"] > 0
    assert [row["pool_keys"] for row in result["pool_sizes"]] == [1_000, 10_000]


@pytest.mark.parametrize("message", [Rest("00" * 12, 1, [("c", 0, 32)]), Void("00" * 12, [("c", 0, 32)])])
def test_the_stub_forgets_what_it_is_asked_to_forget(message: Any) -> None:
    """A run of some seconds gives leases back."""
    assert asyncio.run(_Noting().call("", message, Voided)) == Voided(True)


def test_a_batch_is_a_sequence_of_keys() -> None:
    allocation = Allocation(bytes(range(12)), "m", ("s",), 4, 3, ())
    batch = KeyBatch(allocation, b"aaaabbbbcccc", False)
    assert [k.key for k in batch] == [b"aaaa", b"bbbb", b"cccc"]
    assert batch[-1].key_id == key_id(allocation.id, 2)
    assert split(batch[1].key_id) == (allocation.id, 1)
    assert [k.key for k in batch[1:]] == [b"bbbb", b"cccc"]
    for text in (repr(batch), repr(batch[0]), str(list(batch))):
        assert "aaaa" not in text
        assert "bbbb" not in text
