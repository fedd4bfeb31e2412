"""Role of a device whose firmware the daemon can replace: signed images, two slots, trial, confirmation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

Progress = Callable[[int, int], None]
"""Called with (bytes on the device, bytes of the image)."""


@dataclass(frozen=True, slots=True)
class FirmwareSlot:
    """state: empty, receiving, staged (verified), confirmed (ran and was found good), bad (its trial failed)."""

    name: str
    state: str
    version: str
    counter: int


@dataclass(frozen=True, slots=True)
class FirmwareStatus:
    """running, trial: names of slots; trial is empty when nothing runs on trial. rollback: anti-rollback counter of the
    device, which never falls. received of size: bytes of an image on its way."""

    model: str
    version: str
    running: str
    trial: str
    rollback: int
    slots: tuple[FirmwareSlot, ...]
    received: int
    size: int


@dataclass(frozen=True, slots=True)
class FirmwareImage:
    """A verified image."""

    model: str
    version: str
    counter: int
    size: int
    digest: str
    signer: str


@runtime_checkable
class FirmwareTarget(Protocol):
    """Every verb but `inspect_firmware` also works while the device is refused for its old firmware."""

    def inspect_firmware(self, image: bytes, trusted: Sequence[Path]) -> FirmwareImage:
        """Verify an image against trusted public keys (PEM files); no I/O to the device. Raises QkddError."""

    async def firmware_status(self) -> FirmwareStatus: ...

    async def stage_firmware(self, image: bytes, progress: Progress) -> None:
        """Bring an image into the free slot, from where an interrupted try left off; the device verifies it itself."""

    async def start_firmware(self, confirm_s: int) -> None:
        """Restart into the staged image, on trial: not confirmed in this time, the device goes back by itself."""

    async def confirm_firmware(self) -> None: ...

    async def rollback_firmware(self) -> None:
        """Restart into the other slot. Refused when its anti-rollback counter is too low."""
