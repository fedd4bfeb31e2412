"""What an agent must know after a crash: the key in use, the one before, and the one that may be in use at the other end.

One sealed file, replaced by a rename and synced before anything is done that depends on it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from qkdd.core.errors import SealError, StorageFailed
from qkdd.core.folders import sync_folder
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.psk.errors import StateBroken
from qkdd.psk.keys import PSK_BYTES, AgreedKey

_PLACE = "qkd-psk state 1"


class State(msgspec.Struct, frozen=True):
    """`next` is not None exactly while the other end may already use it: the agent is in doubt."""

    current: AgreedKey | None = None
    previous: AgreedKey | None = None
    next: AgreedKey | None = None

    def ids(self) -> tuple[str | None, ...]:
        """Key IDs of current, previous and next."""
        return tuple(key.key_id if key is not None else None for key in (self.current, self.previous, self.next))


class _Key(msgspec.Struct, frozen=True):
    key_id: str
    psk: bytes
    made: float


class _File(msgspec.Struct, frozen=True):
    purpose: str
    current: _Key | None
    previous: _Key | None
    next: _Key | None


class StateFile:
    """`state.bin` of a directory, mode 0600. `purpose`: a state of WireGuard is not read as one of strongSwan."""

    def __init__(self, directory: Path, sealer: Sealer, purpose: str) -> None:
        self._path, self._sealer, self._purpose = directory / "state.bin", sealer, purpose

    async def load(self) -> State:
        """An empty state when there is no file. Raises StateBroken, StorageFailed."""
        return await asyncio.to_thread(self.read)

    async def save(self, state: State) -> None:
        """Durable when it returns. Raises StorageFailed; the earlier state stays then, or the new one is there."""
        await asyncio.to_thread(self._write, state)

    def read(self) -> State:
        """As `load`."""
        try:
            record = self._path.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise StorageFailed(f"{self._path}: {error.strerror}") from None
        try:
            plain = self._sealer.open(record, _PLACE)
            found = msgspec.msgpack.decode(plain.reveal(), type=_File)
        except (SealError, msgspec.MsgspecError) as error:
            raise StateBroken(f"{self._path}: {error}") from None
        if found.purpose != self._purpose:
            raise StateBroken(f"{self._path}: is of {found.purpose}, not of {self._purpose}")
        return State(_agreed(found.current), _agreed(found.previous), _agreed(found.next))

    def _write(self, state: State) -> None:
        plain = msgspec.msgpack.encode(
            _File(self._purpose, _plain(state.current), _plain(state.previous), _plain(state.next))
        )
        scratch = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._sealer.seal(plain, _PLACE))
                file.flush()
                os.fsync(file.fileno())
            scratch.rename(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise StorageFailed(f"{self._path}: {error.strerror}") from None


def _plain(key: AgreedKey | None) -> _Key | None:
    return None if key is None else _Key(key.key_id, bytes(key.psk.reveal()), key.made)


def _agreed(key: _Key | None) -> AgreedKey | None:
    if key is None:
        return None
    if len(key.psk) != PSK_BYTES:
        raise StateBroken("a key in the state file has the wrong length")
    return AgreedKey(key.key_id, Secret(key.psk), None, key.made)
