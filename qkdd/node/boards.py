"""The node's boards as the firmware service sees them: by name, whichever driver object is open at the moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qkdd.core.errors import Kind
from qkdd.device import Driver
from qkdd.device.errors import DeviceError
from qkdd.device.firmware import FirmwareImage, FirmwareStatus, FirmwareTarget, Progress
from qkdd.node.devices import DeviceSlot
from qkdd.node.roles import plays


class Board:
    """One device with firmware. While its driver is open that one is used (and the supervisor told when it fails), else a
    closed one, which reaches the board for each call: a board whose firmware is refused can still be updated."""

    def __init__(self, slot: DeviceSlot, closed: Driver) -> None:
        self._slot, self._closed = slot, closed

    def inspect_firmware(self, image: bytes, trusted: Sequence[Path]) -> FirmwareImage:
        return self._target().inspect_firmware(image, trusted)

    async def firmware_status(self) -> FirmwareStatus:
        try:
            return await self._target().firmware_status()
        except DeviceError as error:
            if error.kind is Kind.TRANSIENT:
                self._slot.fail(error)
            raise

    async def stage_firmware(self, image: bytes, progress: Progress) -> None:
        await self._target().stage_firmware(image, progress)

    async def start_firmware(self, confirm_s: int) -> None:
        await self._target().start_firmware(confirm_s)

    async def confirm_firmware(self) -> None:
        await self._target().confirm_firmware()

    async def rollback_firmware(self) -> None:
        await self._target().rollback_firmware()

    def _target(self) -> FirmwareTarget:
        return self._slot.driver or self._closed  # type: ignore[return-value]  # boards_of saw the role


def boards_of(slots: dict[str, DeviceSlot], build: Callable[[str], Driver]) -> dict[str, FirmwareTarget]:
    """Every device whose driver is a FirmwareTarget. `build` makes a closed driver; no I/O."""
    boards: dict[str, FirmwareTarget] = {}
    for name, slot in slots.items():
        closed = build(name)
        if plays(closed, FirmwareTarget):
            boards[name] = Board(slot, closed)
    return boards
