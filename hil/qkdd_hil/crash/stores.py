"""What the four databases hold after the campaign: both sides must tell the same story."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

HELD = ("sealed", "offered", "acknowledged", "released")


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        return connection.execute(query).fetchall()


def blocks(path: Path) -> dict[bytes, str]:
    """Block id to state in a node's store."""
    return {
        bytes(block): str(state)
        for block, state in _rows(path, "SELECT id, state FROM blocks")
        if isinstance(block, bytes)
    }


def chunks(path: Path) -> dict[str, str]:
    """Chunk id to state in a KMS's store."""
    return {str(chunk): str(state) for chunk, state in _rows(path, "SELECT chunk_id, state FROM chunks")}


def disagreements(alice: dict[bytes, str], bob: dict[bytes, str]) -> Iterator[str]:
    """Blocks that one node holds as key and the other does not."""
    for block in sorted(alice.keys() | bob.keys()):
        here, there = alice.get(block, "absent"), bob.get(block, "absent")
        if (here in HELD) != (there in HELD):
            yield f"block {block.hex()}: alice {here}, bob {there}"


def missing_chunks(alice: dict[str, str], bob: dict[str, str]) -> Iterator[str]:
    """Chunks that only one KMS has: acknowledged key that is lost for applications."""
    for chunk in sorted(alice.keys() ^ bob.keys()):
        yield f"chunk {chunk}: only at {'kms-alice' if chunk in alice else 'kms-bob'}"
