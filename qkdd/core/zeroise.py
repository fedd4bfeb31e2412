"""Emergency erasure: keys first, then stores, then a mark that keeps the service from starting until a re-bootstrap.

Everything at rest is sealed under the master key, so overwriting its 32 bytes makes all of it unreadable at once
(cryptographic erase, NIST SP 800-88); private TLS keys go the same way, and the stores are cut to nothing and removed. On a
medium that remaps writes (SSD, SD card, copy-on-write file system) the old 32 bytes may survive in cells that only the drive
reads: keep the master key in a TPM or on tmpfs (a systemd credential), or use an encrypting drive.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qkdd.core.config import Section
from qkdd.core.errors import Kind, QkddError
from qkdd.core.folders import sync_folder

MARK = "zeroised.json"
EXIT_ZEROISED = 4  # exit code of a service that was zeroised while it ran
_AT_MOST = 64 << 20  # bytes of a file that are overwritten
_PIECE = 1 << 20
# SQLite's index of its log: page numbers and checksums, no content. Whoever has the store open has it mapped, so cutting it would
# kill that process (SIGBUS) before the mark stands; it is only removed.
_INDEX = "-shm"


class Zeroised(QkddError):
    code = "QKD-CORE-ZEROISED"
    kind = Kind.PERMANENT
    meaning = "All key of this service was erased on purpose; it does not start until it is bootstrapped again."
    default_remedy = "Find out why it was zeroised; then make new keys and certificates and run `qkdctl rebootstrap`."


class ZeroiseConfig(Section, frozen=True, kw_only=True):
    """[zeroise]. `also`: further files to erase, such as an encrypted credential that the service manager passes.

    Tamper inputs, any of which erases: `tamper_file` (a GPIO's value file, or any other) reads `tamper_value`; a byte arrives
    on the inherited descriptor `tamper_descriptor`; `tamper_command` prints the line `tamper`.
    """

    also: tuple[str, ...] = ()
    tamper_file: str | None = None
    tamper_value: str = "1"
    tamper_descriptor: int | None = None
    tamper_command: tuple[str, ...] = ()

    def check(self) -> Iterator[tuple[str, str, str]]:
        if self.tamper_descriptor is not None and self.tamper_descriptor < 3:
            yield "tamper_descriptor", "0, 1 and 2 are the standard streams", "pass another one, 3 or higher"
        if not self.tamper_value.strip():
            yield "tamper_value", "is empty, as a file that was just made", 'use "1"'


class ZeroiseOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """confirm: the id of the node or KMS, typed by a person."""

    confirm: str


class ZeroiseView(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased in how many seconds, and what could not be."""

    seconds: float
    erased: int
    failed: list[str]


@dataclass(frozen=True, slots=True)
class Report:
    """What was done. `failed`: files that could not be erased, each with the reason."""

    seconds: float
    erased: int
    failed: tuple[str, ...]

    def view(self) -> ZeroiseView:
        return ZeroiseView(seconds=self.seconds, erased=self.erased, failed=list(self.failed))


def zeroise(directory: Path, keys: list[Path], stores: list[Path], reason: str, wall: float) -> Report:
    """Erase `keys` (overwritten, then removed) and `stores` (cut, then removed) and leave the mark in `directory`.

    Goes on after every failure; a file that is not there is no failure.
    """
    start = time.monotonic()
    erased, failed = 0, list[str]()
    for path in dict.fromkeys([*keys, *stores]):
        try:
            if path not in keys and path.name.endswith(_INDEX):
                path.unlink()
            else:  # a store is sealed and only cut, unless a key that opens it may be left
                erase_file(path, overwrite=path in keys or bool(failed))
        except FileNotFoundError:
            continue
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
        else:
            erased += 1
    text = json.dumps({"time": round(wall, 3), "reason": reason, "erased": erased, "failed": failed}) + "\n"
    try:
        scratch = directory / f"{MARK}.new"
        _write(scratch, text.encode())
        scratch.replace(directory / MARK)  # whoever sees the mark sees all of it
        sync_folder(directory)
    except OSError as error:
        failed.append(f"{directory / MARK}: {error.strerror}")
    return Report(time.monotonic() - start, erased, tuple(failed))


def refuse_zeroised(directory: Path) -> None:
    """Raises Zeroised when the mark is there."""
    mark = directory / MARK
    if mark.exists():
        raise Zeroised(f"{directory}: zeroised, see {mark}")


def clear(directory: Path, stores: list[Path]) -> None:
    """Part of a re-bootstrap: take the mark away (it is kept under another name). Raises Zeroised while a store is there."""
    left = [str(path) for path in stores if path.exists()]
    if left:
        raise Zeroised(
            f"{directory}: holds {', '.join(left)}", remedy="a store from before must not come back; remove it"
        )
    mark = directory / MARK
    if not mark.exists():
        raise Zeroised(f"{directory}: is not zeroised", remedy="nothing is to be done")
    mark.rename(mark.with_name(f"zeroised-{int(mark.stat().st_mtime)}.json"))


def store_files(path: Path) -> list[Path]:
    """A SQLite file and what stands beside it."""
    return [path, *(path.with_name(path.name + end) for end in ("-wal", _INDEX, "-journal"))]


def erase_file(path: Path, *, overwrite: bool = True) -> None:
    """Overwrite (up to 64 MiB), cut and remove, each durable before the next. Raises OSError."""
    with suppress(PermissionError):
        path.chmod(0o600)  # 0400 is usual for keys; root needs no more, and whoever is neither learns it from open()
    descriptor = os.open(path, os.O_WRONLY)
    try:
        if overwrite:
            size = min(os.fstat(descriptor).st_size, _AT_MOST)
            for start in range(0, size, _PIECE):
                os.pwrite(descriptor, secrets.token_bytes(min(_PIECE, size - start)), start)
            os.fdatasync(descriptor)
        os.ftruncate(descriptor, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_folder(path.parent)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
