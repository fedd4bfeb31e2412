"""Key of other makers: a watched folder per source, in the format that docs/rooms/keys.md describes ("qkdd key file 1").

A file is erased once its key is stored durably; one that is refused is renamed to `….refused` and stays for a person to look
at; one that cannot be stored now (pool or disk full) stays and is tried again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import Kind, QkddError
from qkdd.core.secret import Secret
from qkdd.core.zeroise import erase_file
from qkdd.kms.errors import ChunkConflict, KmsError
from qkdd.kms.key_ids import canonical
from qkdd.kms.source_config import SourceConfig

FORMAT = "qkdd key file 1"
_PERIOD = 0.5
_LARGEST = 16 << 20
_LOG = log.get("kms")
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class KeyFileRefused(KmsError):
    code = "QKD-KMS-KEY-FILE"
    kind = Kind.PERMANENT
    meaning = (
        "A key file in a watched folder breaks the format, or is not what its source may bring; nothing was stored."
    )
    default_remedy = "Look at the file `….refused`; the message says what is wrong. Correct the program that writes it."


class KeyFile(msgspec.Struct, frozen=True):
    """What a file says; unknown members are ignored."""

    format: str
    id: str
    link: _Name
    index: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
    class_: str = msgspec.field(name="class")
    value: str = msgspec.field()
    auth: str | None = None
    proof: str | None = None
    epsilon: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class Taker(Protocol):
    """Who stores it: `qkdd.kms.service.KeyService`."""

    async def ingest(
        self, node: str, chunk_id: str, link: str, index: int, material: Secret, about: dict[str, object]
    ) -> None: ...


class WatchedFolder:
    """`await run()` for ever."""

    def __init__(self, name: str, config: SourceConfig, taker: Taker, clock: Clock, meter: Meter) -> None:
        self._name, self._config, self._taker, self._clock, self._meter = name, config, taker, clock, meter
        self._folder = Path(config.directory)
        self._waiting = False

    async def run(self) -> None:
        while True:
            await self.look()
            await self._clock.sleep(_PERIOD)

    async def look(self) -> int:
        """Take what is there, oldest name first; returns how many files were stored."""
        try:
            files = await asyncio.to_thread(lambda: sorted(p for p in self._folder.glob("*.json") if p.name[0] != "."))
            stored = 0
            for path in files:
                stored += await self._take(path)
        except (QkddError, OSError) as error:
            if not self._waiting:
                _LOG.warning("key files wait", source=self._name, error=str(error))
            self._waiting = True
            return 0
        self._waiting = False
        return stored

    async def _take(self, path: Path) -> int:
        try:
            file, material = await asyncio.to_thread(self._read, path)
            about: dict[str, object] = {
                "class": file.class_,
                "auth": file.auth,
                "proof": file.proof,
                "epsilon": file.epsilon if file.epsilon is not None else self._config.epsilon,
                "source": self._name,
            }
            try:
                await self._taker.ingest(self._name, canonical(file.id), file.link, file.index, material, about)
            finally:
                material.wipe()
        except (KeyFileRefused, ChunkConflict) as error:
            _LOG.error("key file refused", source=self._name, file=path.name, **log.error_fields(error))
            self._meter.add("qkdd_kms_source_files_total", source=self._name, result="refused")
            await asyncio.to_thread(path.rename, path.with_name(path.name + ".refused"))
            return 0
        await asyncio.to_thread(erase_file, path)
        self._meter.add("qkdd_kms_source_files_total", source=self._name, result="stored")
        return 1

    def _read(self, path: Path) -> tuple[KeyFile, Secret]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise KeyFileRefused(f"{path.name}: is a symbolic link") from None
            raise
        with os.fdopen(descriptor, "rb") as opened:
            facts = os.fstat(descriptor)
            if facts.st_mode & 0o077 or not stat.S_ISREG(facts.st_mode):
                raise KeyFileRefused(
                    f"{path.name}: no file that its owner alone may read", remedy="write it with mode 0600"
                )
            data = opened.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise KeyFileRefused(f"{path.name}: has more than {_LARGEST} bytes")
        try:
            file: Any = msgspec.json.decode(data, type=KeyFile)
            canonical(file.id)
            material = Secret(base64.b64decode(file.value, validate=True))
        except msgspec.DecodeError as error:
            raise KeyFileRefused(f"{path.name}: {error}") from None
        except (ValueError, binascii.Error):
            raise KeyFileRefused(f"{path.name}: id is no UUID, or value no base64") from None
        if file.format != FORMAT:
            raise KeyFileRefused(f"{path.name}: format is not {FORMAT!r}")
        if file.link != self._config.link:
            raise KeyFileRefused(f"{path.name}: is of link {file.link!r}, this folder is for {self._config.link!r}")
        if file.class_ != "its":
            raise KeyFileRefused(
                f"{path.name}: is of class {file.class_[:20]!r}; only key of a quantum link is taken in"
            )
        if not len(material):
            raise KeyFileRefused(f"{path.name}: holds no key")
        return file, material
