"""JSON bodies of the firmware routes, and what they ask of the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from qkdd.control.views import Done, View


class FirmwareSlotView(View, frozen=True):
    name: str
    state: str
    version: str
    counter: int


class FirmwareView(View, frozen=True):
    """One board. `trial`: slot that runs unconfirmed, empty when none does. received of size: an image on its way."""

    device: str
    model: str
    version: str
    running: str
    trial: str
    rollback_counter: int
    slots: list[FirmwareSlotView]
    received: int
    size: int


class ImageView(View, frozen=True):
    """A verified image and a device that it fits."""

    device: str
    model: str
    version: str
    counter: int
    size: int
    digest: str
    signer: str


class FirmwareOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body: the image's full path (as the daemon sees it) and the devices; none named means all that it fits."""

    image: str = ""
    devices: list[str] = []


class FirmwareControl(Protocol):
    """Implemented by `qkdd.node.firmware.FirmwareService`."""

    async def list_boards(self) -> list[FirmwareView]: ...

    def verify(self, image: str, devices: Sequence[str]) -> list[ImageView]: ...

    async def stage(self, image: str, devices: Sequence[str]) -> Done: ...

    async def update(self, image: str, devices: Sequence[str]) -> Done: ...

    async def rollback(self, devices: Sequence[str]) -> Done: ...
