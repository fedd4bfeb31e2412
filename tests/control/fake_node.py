"""A mock node behind the control socket: fixed answers, records what it was asked."""

from __future__ import annotations

from qkdd.control import views
from qkdd.control.diagnostics_view import Check, DiagnosticsView
from qkdd.control.errors import NotFound, NotNow
from qkdd.control.events import EventHub
from qkdd.control.firmware_views import FirmwareSlotView, FirmwareView, ImageView
from qkdd.control.overview import SHOWN_BLOCKS, AlignView, DetectorView, OverviewView, alarms
from qkdd.control.security_views import AdviceView, SecurityView
from qkdd.core.clock import Clock
from qkdd.core.counters import RecordingMeter
from qkdd.core.local_api import ErrorView
from qkdd.core.zeroise import ZeroiseView
from qkdd.link.config import LinkConfig
from qkdd.link.status import BlockRecord, LinkSnapshot
from qkdd.node.advice import advice_view
from qkdd.node.decoy_monitor import DecoyMonitor
from qkdd.node.security_report import security_view

LINK = views.LinkView(
    name="a-b", role="alice", peer="bob", state="running", protocol="bbm92", proof="bbm92/tl2017", label="",
    authentication="wegman-carter", qber=0.0161, tolerated_error=0.03, visibility_z=0.97, visibility_x=0.966,
    chsh_s_inferred=2.74, chsh_s_error=0.003, offset_s=-0.25, drift=1.2e-6, round_trip_s=0.0004, clicks_per_s=4e5,
    coincidences_per_s=8e4, sifted_bits_per_s=4e4, secret_bits_per_s=8.8e3, blocks_accepted=3, blocks_refused=1,
    refusals=[views.RefusalView(code="QKD-BLK-QBER", count=1)],
)  # fmt: skip

KEYS = views.KeysView(
    spool=[views.SpoolView(state="sealed", chunks=2, bits=4096)], handed_over=7, kms_up=True, masks_alice_to_bob=900,
    masks_bob_to_alice=901, epsilon_spent_ratio=0.01, epoch_days_left=57.0, authentication="wegman-carter",
)  # fmt: skip

ALIGN = AlignView(
    open=True, seconds_left=55.0, number=7, seconds=2.0, qber=0.034, visibility_z=0.95, visibility_x=0.914,
    coincidences_per_s=8.1e4,
    matrix=[[120, 9000, 4400, 4600], [9100, 130, 4500, 4500], [4400, 4600, 380, 8800], [4500, 4400, 8700, 400]],
    singles_alice=[1.1e5, 1.0e5, 9.8e4, 1.02e5], singles_bob=[8.8e4, 9.1e4, 8.9e4, 9.0e4],
    delays_alice_ns=[0.12, -0.3, 0.08, 0.1], delays_bob_ns=[-0.2, 0.4, -0.1, -0.1],
    histogram=[50] * 40 + [300, 2000, 9000, 12000, 9100, 2100, 280] + [52] * 49, histogram_low_ns=-12.0,
    histogram_bin_ns=0.25,
)  # fmt: skip

OFFLINE = ErrorView(code="QKD-DEV-OFFLINE", message="tagger on [tty]: gone", remedy="plug it in")


class FakeFirmware:
    """Implements `qkdd.control.firmware_views.FirmwareControl`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, list[str]]] = []

    async def list_boards(self) -> list[FirmwareView]:
        slot = FirmwareSlotView(name="A", state="confirmed", version="2.0.0", counter=1)
        empty = FirmwareSlotView(name="B", state="empty", version="", counter=0)
        return [
            FirmwareView(
                device="tx", model="QKDD-TX1", version="2.0.0", running="A", trial="", rollback_counter=1,
                slots=[slot, empty], received=0, size=0,
            )
        ]  # fmt: skip

    def verify(self, image: str, devices: list[str]) -> list[ImageView]:
        self.asked.append(("verify", image, devices))
        return [
            ImageView(device="tx", model="QKDD-TX1", version="2.1.0", counter=2, size=9, digest="00", signer="ab" * 32)
        ]

    async def stage(self, image: str, devices: list[str]) -> views.Done:
        self.asked.append(("stage", image, devices))
        return views.Done(message="staged on tx")

    async def update(self, image: str, devices: list[str]) -> views.Done:
        self.asked.append(("update", image, devices))
        raise NotNow("the link makes key")

    async def rollback(self, devices: list[str]) -> views.Done:
        self.asked.append(("rollback", "", devices))
        return views.Done(message="rolled back: tx")


class FakeNode:
    """Implements `qkdd.control.views.NodeControl`."""

    def __init__(self, clock: Clock, healthy: bool = True) -> None:
        self.events = EventHub(clock)
        self.healthy = healthy
        self.asked: list[str] = []
        self.broken = False
        self.held = False
        self.firmware = FakeFirmware()

    def status(self) -> views.StatusView:
        part = views.PartView(
            name="tagger", state="up" if self.healthy else "waiting", since_s=12.0, attempts=1, heartbeat_age_s=0.1,
            stalled=False, error=None if self.healthy else OFFLINE,
        )  # fmt: skip
        return views.StatusView(
            node="alice", version="0.1.0", kernels="portable", state="running" if self.healthy else "degraded",
            healthy=self.healthy, uptime_s=93784.0, started=1.79e9, memory_locked=False, parts=[part], link=LINK, keys=KEYS,
        )  # fmt: skip

    def devices(self) -> list[views.DeviceView]:
        return [views.DeviceView(name="tagger", driver="s15_tdc1", state="up", roles=["time tagger"], model="TDC1")]

    async def fields(self, device: str) -> list[views.FieldView]:
        if device != "tagger":
            raise NotFound(f"there is no device {device!r}")
        return [
            views.FieldView(
                name="threshold",
                value=0.2,
                unit="V",
                settable=True,
                low=-1.0,
                high=1.0,
                doc="Set the [input] threshold.",
            )
        ]

    def link(self) -> views.LinkView:
        if self.broken:
            raise RuntimeError("a defect")
        return LINK

    def link_security(self) -> SecurityView:
        return security_view(LinkConfig(name="a-b", role="alice"), None)

    async def link_advise(self, longest_block_s: int | None) -> AdviceView:
        self.asked.append(f"advise {longest_block_s}")
        block = BlockRecord(1, 1.79e9, True, None, 200_000, 0.016, 0.03, 44_000, 31_000, 2.1, 5.0, 0.4)
        snapshot = LinkSnapshot("a-b", "alice", last_blocks=(block,))
        config = LinkConfig(name="a-b", role="alice")
        return advice_view(config, snapshot, DecoyMonitor("a-b", RecordingMeter()), longest_block_s)

    def blocks(self, limit: int) -> list[views.BlockView]:
        self.asked.append(f"blocks {limit}")
        good = views.BlockView(
            number=2, time=1.79e9, accepted=True, code=None, acquisition_s=5.0, sifted_bits=200_000, qber=0.016,
            tolerated_error=0.03, leak_bits=31_000, secret_bits=44_000,
        )  # fmt: skip
        bad = views.BlockView(
            number=1, time=1.79e9, accepted=False, code="QKD-BLK-QBER", acquisition_s=5.0, sifted_bits=200_000, qber=0.09,
            tolerated_error=0.05, leak_bits=None, secret_bits=0,
        )  # fmt: skip
        return [good, bad][:limit]

    def keys(self) -> views.KeysView:
        return KEYS

    def errors(self) -> list[views.ErrorCount]:
        return [
            views.ErrorCount(code="QKD-DEV-OFFLINE", count=2, time=1.79e9, part="tagger", message="gone", remedy="plug")
        ]

    def overview(self) -> OverviewView:
        status, blocks = self.status(), self.blocks(SHOWN_BLOCKS)
        return OverviewView(
            time=1.79e9, status=status, devices=self.devices(),
            detectors=[
                DetectorView(device="spd", number=n, counts_per_s=1e5 + n, lowest_per_s=300.0) for n in range(4)
            ],
            blocks=blocks, alarms=alarms(status, self.devices(), blocks, [], 1.79e9), align=self.align_view(),
        )  # fmt: skip

    async def diagnostics(self) -> DiagnosticsView:
        return DiagnosticsView(
            versions={"qkdd": "0.1.0"}, configuration={"node": {"id": "alice"}}, log=['{"event": "started"}'],
            metrics="qkdd_draining 0\n", self_test=[Check(name="disk", ok=False, detail="full")],
        )  # fmt: skip

    def align_view(self) -> AlignView | None:
        return ALIGN if self.held else None

    async def align(self, seconds: int) -> views.Done:
        self.asked.append(f"align {seconds}")
        self.held = seconds > 0
        return views.Done(message="open")

    async def calibrate_polarization(self) -> views.CalibrationView:
        self.asked.append("calibrate")
        return views.CalibrationView(
            qber_before=0.12, qber_after=0.016, settings=[0.1, 1.2, 2.3], unit="rad", measurements=31, seconds=75.0
        )

    async def drain(self) -> views.Done:
        self.asked.append("drain")
        return views.Done(message="drained", details=["block 7 was finished"])

    async def resume(self) -> views.Done:
        raise NotNow("the interlock is still open")

    async def reload(self) -> views.Done:
        self.asked.append("reload")
        return views.Done(message="reloaded")

    async def zeroise(self, confirm: str) -> ZeroiseView:
        self.asked.append(f"zeroise {confirm}")
        return ZeroiseView(seconds=0.01, erased=3, failed=[])

    def set_log_level(self, level: str) -> views.Done:
        self.asked.append(f"level {level}")
        return views.Done(message=f"log level {level}")
