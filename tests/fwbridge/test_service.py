"""Update of several boards: drained link, canary group, watch, rollback on degradation; on real drivers and boards once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from qkdd_drivers.qkdd_board.sim import BoardSim, development_key

from qkdd.control.errors import BadRequest, NotFound
from qkdd.control.views import Done
from qkdd.core.audit import AuditLog
from qkdd.core.audit_check import verify
from qkdd.core.clock import SystemClock
from qkdd.core.units import Seconds
from qkdd.device.errors import DeviceOffline
from qkdd.device.firmware import FirmwareImage, FirmwareSlot, FirmwareStatus, Progress
from qkdd.node.firmware import FirmwareBusy, FirmwareConfig, FirmwareDegraded, FirmwareService, Sight
from qkdd.testing.clock import FakeClock
from qkdd.testing.patience import PATIENCE_S

from .boards import signed
from .test_driver import build


class FakeBoard:
    """A mock board; `dies`: does not come back from its restart."""

    def __init__(self, log: list[str], name: str, dies: bool = False) -> None:
        self.log, self.name, self.dies = log, name, dies
        self.version, self.trial, self.away = "2.0.0", "", False

    def inspect_firmware(self, image: bytes, trusted: Sequence[Path]) -> FirmwareImage:
        return FirmwareImage("M", "2.1.0", 2, len(image), hashlib.sha256(image).hexdigest(), "k")

    async def firmware_status(self) -> FirmwareStatus:
        if self.away:
            raise DeviceOffline(self.name, "line", "status", "gone")
        slot = FirmwareSlot("A", "confirmed", "2.0.0", 1)
        return FirmwareStatus("M", self.version, "A", self.trial, 1, (slot, slot), 0, 0)

    async def stage_firmware(self, image: bytes, progress: Progress) -> None:
        self.log.append(f"stage {self.name}")
        progress(len(image), len(image))

    async def start_firmware(self, confirm_s: int) -> None:
        self.log.append(f"start {self.name}")
        self.version, self.trial, self.away = "2.1.0", "B", self.dies

    async def confirm_firmware(self) -> None:
        self.log.append(f"confirm {self.name}")
        self.trial = ""

    async def rollback_firmware(self) -> None:
        self.log.append(f"rollback {self.name}")
        self.version, self.trial = "2.0.0", ""


class FakeLink:
    def __init__(self, log: list[str], clock: Any) -> None:
        self.log, self.clock = log, clock
        self.is_drained = True
        self.after: Sight | None = None
        self.blocks = 5

    def drained(self) -> bool:
        return self.is_drained

    def sight(self) -> Sight:
        if not self.is_drained:
            self.blocks += 1
            if self.after is not None:
                return self.after
        return Sight(0.02, 1e5, self.blocks)

    async def resume(self) -> Done:
        self.log.append("resume")
        self.is_drained = False
        return Done(message="")

    async def drain(self) -> Done:
        self.log.append("drain")
        self.is_drained = True
        return Done(message="")


class Site:
    def __init__(self, tmp_path: Path, **boards: bool) -> None:
        self.log: list[str] = []
        self.events: list[str] = []
        self.clock = FakeClock()
        self.boards = {name: FakeBoard(self.log, name, dies) for name, dies in boards.items()}
        self.link = FakeLink(self.log, self.clock)
        self.image = tmp_path / "image"
        self.image.write_bytes(b"image")
        self.audit = tmp_path / "audit"
        self.audit_log = AuditLog(self.audit, self.clock)
        self.service = FirmwareService(
            FirmwareConfig(canary=("b",)), self.boards, self.link, self.clock, self.audit_log,
            lambda kind, **fields: self.events.append(kind),
        )  # fmt: skip

    async def update(self, *devices: str) -> Done:
        task = asyncio.create_task(self.service.update(str(self.image), devices))
        while not task.done():
            await self.clock.advance(1.0)
        return await task


def test_canary_first_then_the_rest(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path, a=False, b=False, c=False)
        await site.update()
        one = ["resume", "drain"]
        assert site.log == [
            "stage b", "start b", *one, "confirm b",
            "stage a", "start a", "stage c", "start c", *one, "confirm a", "confirm c",
        ]  # fmt: skip
        assert site.link.is_drained
        assert "firmware.progress" in site.events
        await site.audit_log.settled()
        assert verify(site.audit).lines == 9

    asyncio.run(test())


@pytest.mark.parametrize("after", [Sight(0.035, 1e5, 50), Sight(0.02, 0.7e5, 50), Sight(0.02, 1e5, 5)])
def test_degradation_rolls_the_canary_back_and_spares_the_rest(tmp_path: Path, after: Sight) -> None:
    """Worse error rate; fewer clicks; no block accepted any more."""

    async def test() -> None:
        site = Site(tmp_path, a=False, b=False)
        site.link.after = after
        with pytest.raises(FirmwareDegraded):
            await site.update()
        assert site.log == ["stage b", "start b", "resume", "drain", "rollback b"]
        assert site.boards["b"].version == "2.0.0"
        assert site.events[-1] == "firmware.rolled-back"

    asyncio.run(test())


def test_a_board_that_does_not_come_back_stops_the_update(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path, a=False, b=True)
        with pytest.raises(FirmwareDegraded, match="did not come back"):
            await site.update()
        assert site.log == ["stage b", "start b"]  # it goes back by itself: nobody confirms

    asyncio.run(test())


def test_refused_while_the_link_makes_key(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path, b=False)
        site.link.is_drained = False
        for verb in (site.service.update, site.service.stage):
            with pytest.raises(FirmwareBusy):
                await verb(str(site.image), [])
        with pytest.raises(FirmwareBusy):
            await site.service.rollback(["b"])
        assert site.log == []

    asyncio.run(test())


def test_wrong_orders(tmp_path: Path) -> None:
    async def test() -> None:
        site = Site(tmp_path, b=False)
        with pytest.raises(NotFound, match="there are b"):
            await site.service.stage(str(site.image), ["zz"])
        for path in ("relative", str(tmp_path / "none")):
            with pytest.raises(BadRequest):
                await site.service.stage(path, [])

    asyncio.run(test())


def test_update_of_a_real_driver_and_board(tmp_path: Path) -> None:
    key = tmp_path / "maker.pem"
    key.write_bytes(
        development_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    image = tmp_path / "image"
    image.write_bytes(signed((2, 1, 0), 3))

    async def test() -> None:
        async with asyncio.timeout(PATIENCE_S):
            sim = BoardSim(boot_s=0.05)
            driver = build(await sim.start())
            log: list[str] = []
            link = FakeLink(log, None)
            config = FirmwareConfig(trust=(str(key),), watch=Seconds(0.5), restart=Seconds(10.0))
            audit = AuditLog(tmp_path / "audit", SystemClock())
            service = FirmwareService(config, {"tx": driver}, link, SystemClock(), audit, lambda kind, **fields: None)
            assert service.verify(str(image), [])[0].version == "2.1.0"
            await service.update(str(image), ["tx"])
            (view,) = await service.list_boards()
            assert (view.version, view.running, view.trial, view.rollback_counter) == ("2.1.0", "B", "", 3)
            await sim.stop()

    asyncio.run(test())
