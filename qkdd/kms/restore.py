"""Taking a backup of the embedded store back.

A backup is the past: what it holds as undrawn may have been drawn since, and a restored twin at the other site would not know
either. So a restored store gives out only what was drawn before the backup and not yet fetched.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import sqlalchemy as sa

from qkdd.core.errors import ConfigError
from qkdd.core.sealing import Sealer, load_master_key
from qkdd.core.sqlite_file import SqliteFile
from qkdd.core.zeroise import refuse_zeroised
from qkdd.kms import chunks, revoke
from qkdd.kms.config import KmsConfig
from qkdd.kms.schema import CHUNKS, MATERIAL, AllocationState, kms_store


async def restored(config: KmsConfig, backup: Path) -> int:
    """Returns bytes of undrawn key that were used up. Raises ConfigError, Zeroised, SealError, CredentialError, StorageFailed.

    Nothing is left behind when it fails.
    """
    place = config.store_place()
    if not isinstance(place, SqliteFile):
        raise ConfigError("store: is in PostgreSQL", remedy="restore it with its own tools")
    refuse_zeroised(Path(config.kms.state_directory))
    if place.path.exists():
        raise ConfigError(f"{place.path}: there is a store", remedy="stop the KMS and move its store away")
    sealer = Sealer(load_master_key(Path(config.kms.master_key)), "kms")
    await asyncio.to_thread(_copy, backup, place.path)
    database = kms_store(place)
    try:
        await database.open()
        size = await database.run(lambda c: _only_drawn(c, sealer))
    except BaseException:
        await database.close()
        place.path.unlink()
        raise
    await database.close()
    return size


def _copy(backup: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with backup.open("rb") as source, os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())


def _only_drawn(connection: sa.Connection, sealer: Sealer) -> int:
    sample = connection.execute(
        sa.select(MATERIAL.c.sealed, CHUNKS.c.chunk_id).join(CHUNKS, CHUNKS.c.row == MATERIAL.c.row).limit(1)
    ).one_or_none()
    if sample is not None:
        sealer.open(sample.sealed, chunks.place(sample.chunk_id)).wipe()  # the right master key
    # what was reserved or being voided may have become anything since: its bytes stay used
    open_states = (AllocationState.RESERVED, AllocationState.VOIDING)
    revoke.forget(connection, open_states)
    return revoke.undrawn(connection, None)
