"""The link's life on this node: wait for device and session, run, show, calibrate, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from qkdd.control import views
from qkdd.control.errors import NotNow
from qkdd.control.overview import AlignView
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError, registered_errors
from qkdd.device import Driver, PolarizationController
from qkdd.device.errors import DeviceError
from qkdd.link.config import LinkConfig
from qkdd.link.errors import AlignmentFailed
from qkdd.link.status import LinkEvent, LinkState, LinkStatus
from qkdd.node.calibration import CalibrationConfig, CalibrationResult, CoordinateSearch, DriftWatch
from qkdd.node.devices import Devices
from qkdd.node.errors import CalibrationFailed
from qkdd.node.health import HEARTBEAT_S, Health, beating
from qkdd.node.report import align_view
from qkdd.node.security_report import mode_of
from qkdd.node.supervisor import Publish, Supervisor
from qkdd.peer import PeerSession

PART = "link"
PATIENCE_S = 60.0  # a tagger or a transmitter is read ten times a second
KEEP_BLOCKS = 1000
MEASURE_ATTEMPTS = 4  # the link may have to find the other clock again from nothing


class RunningLink(Protocol):
    """What the node asks of `qkdd.link.session.LinkSession`."""

    async def run(self) -> str:
        """Until this node or the other is drained; raises when the session or its device fails. Closes the session."""

    def drain(self) -> None:
        """Finish the block in hand and return from `run`."""

    def hold_open(self, wanted: bool) -> None:
        """While held, clicks are exchanged in clear and no key is made."""

    async def measure_error(self) -> float:
        """A fresh error rate from a stretch that is opened after this call."""


MakeLink = Callable[[Driver, PeerSession, LinkStatus, Callable[[], None]], RunningLink]


class LinkRun:
    """One link. `offer` is called by the peer's life for each session that stands."""

    def __init__(
        self,
        config: LinkConfig,
        calibration: CalibrationConfig,
        devices: Devices,
        make_link: MakeLink,
        clock: Clock,
        meter: Meter,
        health: Health,
        supervisor: Supervisor,
        publish: Publish,
    ) -> None:
        self.config, self.calibration = config, calibration
        self.status = LinkStatus(config.name, config.role, clock, KEEP_BLOCKS)
        self.draining = False
        self.last_calibration: float | None = None
        self._session: PeerSession | None = None
        self._session_there = asyncio.Event()
        self._devices, self._make_link = devices, make_link
        self._clock, self._meter, self._health = clock, meter, health
        self._supervisor, self._publish = supervisor, publish
        self._link: RunningLink | None = None
        self._resumed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._drift = DriftWatch(calibration)
        self._calibrating: asyncio.Task[views.CalibrationView] | None = None
        self._open_until: float | None = None  # monotonic; held open by this node's operator
        self._letting_go: asyncio.Task[None] | None = None

    # --- one life --------------------------------------------------------------------------------------------------------

    def offer(self, session: PeerSession) -> None:
        """A session with the other node stands."""
        self._session = session
        self._session_there.set()

    def withdraw(self, session: PeerSession) -> None:
        """It has ended; a newer one stays."""
        if self._session is session:
            self._session = None
            self._session_there.clear()

    @property
    def active(self) -> bool:
        """Whether a link session runs, so that a block may be in hand."""
        return self._link is not None

    @property
    def session(self) -> PeerSession | None:
        return self._session

    async def life(self, up: Callable[[], None]) -> None:
        """Run the link over one session after the other until one fails."""
        beat = self._health.beater(PART)
        while True:
            if self.draining:
                self._publish("link.drained", link=self.config.name)
                await beating(self._resumed.wait(), beat, self._clock)
            device = await beating(self._devices.need(self.config.device), beat, self._clock)
            await beating(self._session_there.wait(), beat, self._clock)
            if self._session is None or self.draining:
                continue  # it went away, or the operator spoke, while the other was waited for
            await self._with(device, self._session, up)

    async def _with(self, device: Driver, session: PeerSession, up: Callable[[], None]) -> None:
        slot = self._devices.slots[self.config.device]
        slot.busy.set()
        self._idle.clear()
        queue = self.status.watch()
        self._link = self._make_link(device, session, self.status, self._health.beater(PART))
        if self._open_until is not None:
            self._link.hold_open(True)
        follower = asyncio.create_task(self._follow(queue, up))
        waiter = asyncio.create_task(self._beat_while_idle())
        try:
            await self._link.run()
        except DeviceError as error:
            slot.fail(error)
            raise
        finally:
            self._link = None
            self.withdraw(session)
            for task in (follower, waiter):
                task.cancel()
            await asyncio.gather(follower, waiter, return_exceptions=True)
            while not queue.empty():
                self._event(queue.get_nowait(), up)
            self.status.unwatch(queue)
            slot.busy.clear()
            self._idle.set()

    async def _beat_while_idle(self) -> None:
        """Before the device's stream starts the link waits for the other node, which has deadlines of its own."""
        while True:
            if self.status.snapshot.state is LinkState.IDLE:
                self._health.beat(PART)
            await self._clock.sleep(HEARTBEAT_S)

    async def _follow(self, queue: asyncio.Queue[LinkEvent], up: Callable[[], None]) -> None:
        while True:
            self._event(await queue.get(), up)

    def _event(self, event: LinkEvent, up: Callable[[], None]) -> None:
        """Publish what the link says, count refusals, watch for drift."""
        fields = {k: v for k, v in event.fields.items() if v is None or isinstance(v, (str, int, float, bool))}
        if event.kind == "state":
            self._publish("link.state", link=self.config.name, **fields)
            if fields.get("state") == LinkState.RUNNING.value:
                up()
        elif event.kind == "block":
            accepted = bool(fields.get("accepted"))
            if accepted and (label := mode_of(self.config.shared).label):
                fields["label"] = label  # belongs to the length wherever that is shown
            self._publish(f"block.{'accepted' if accepted else 'refused'}", link=self.config.name, **fields)
            self._block(fields)
        else:
            self._publish(f"link.{event.kind}", link=self.config.name, **fields)

    def _block(self, fields: dict[str, str | int | float | bool | None]) -> None:
        code, qber = fields.get("code"), fields.get("qber")
        if isinstance(code, str):
            self._supervisor.note(PART, _Refused(code, f"block {fields.get('number')} was refused"))
        due = self._drift.block(float(qber)) if isinstance(qber, (int, float)) else False
        if due and self._calibrating is None and self._moves_by_itself():
            self._publish("calibration.due", link=self.config.name, qber=float(qber or 0.0))
            task = asyncio.create_task(self.calibrate())
            task.add_done_callback(_seen)

    def _moves_by_itself(self) -> bool:
        mode = self.calibration.on_drift
        return self.config.polarization is not None and (
            mode == "always" or (mode == "auto" and self.config.role == "bob")
        )

    # --- what the operator asks ------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Return when no block is in hand any more."""
        self.draining = True
        self._resumed.clear()
        self._meter.set("qkdd_draining", 1)
        if self._link is not None:
            self._link.drain()
        await self._idle.wait()

    def resume(self) -> None:
        self.draining = False
        self._resumed.set()
        self._meter.set("qkdd_draining", 0)
        self._supervisor.kick(PART)

    @property
    def calibrating(self) -> bool:
        """Whether the optics are being turned, by a search or by hand: what that does to the error rate is no alarm."""
        return self._calibrating is not None or self.status.snapshot.state is LinkState.OPEN

    def hold_open(self, seconds: int) -> views.Done:
        """Hold the link open for so long from now on; 0 lets it go. Who forgets it, or loses his terminal, gets key again."""
        if self._letting_go is not None:
            self._letting_go.cancel()
            self._letting_go = None
        was_open = self._open_until is not None
        if seconds == 0:
            self._let_go()
            told = "let go: the link aligns anew and makes key again" if was_open else "the link was not held open here"
            return views.Done(message=told)
        if self.draining:
            raise NotNow("the link is drained", remedy="`qkdctl resume` first.")
        self._open_until = self._clock.monotonic() + seconds
        self._letting_go = asyncio.create_task(self._let_go_after(seconds))
        if self._link is not None:
            self._link.hold_open(True)
        if not was_open:
            self._publish("align.opened", link=self.config.name, seconds=seconds)
        return views.Done(message=f"open for {seconds} s: both nodes show their clicks, no key is made")

    async def _let_go_after(self, seconds: int) -> None:
        await self._clock.sleep(seconds)
        self._letting_go = None
        self._let_go()

    def _let_go(self) -> None:
        if self._open_until is None:
            return
        self._open_until = None
        if self._link is not None:
            self._link.hold_open(False)
        self._publish("align.closed", link=self.config.name)

    def align_view(self) -> AlignView | None:
        """The last opened stretch, with whether the link is open now."""
        snapshot = self.status.snapshot
        left = None if self._open_until is None else max(0.0, self._open_until - self._clock.monotonic())
        is_open = left is not None or snapshot.state is LinkState.OPEN
        return align_view(snapshot.opened, is_open=is_open, seconds_left=left)

    async def calibrate(self) -> views.CalibrationView:
        """Search the paddles; one search at a time. Raises NotNow, CalibrationFailed, and what the controller raises."""
        if self._calibrating is not None:
            raise NotNow("a calibration is already running")
        if self.config.polarization is None:
            raise NotNow("the link has no polarization controller", remedy="Name one in [link] polarization.")
        controller = self._devices.now(self.config.polarization)
        if self._link is None:
            raise NotNow("the link makes no blocks, so there is no error rate to search by")
        self._calibrating = asyncio.create_task(self._calibrate(controller))
        self._calibrating.add_done_callback(self._calibrated)
        return await asyncio.shield(self._calibrating)  # the search goes on when the client goes away

    def _calibrated(self, task: asyncio.Task[views.CalibrationView]) -> None:
        self._calibrating = None
        _seen(task)

    async def _calibrate(self, driver: Driver) -> views.CalibrationView:
        controller: PolarizationController = driver  # type: ignore[assignment]  # the configuration check saw the role
        self._publish("calibration.started", link=self.config.name)
        search = CoordinateSearch(controller, self._measure, self.calibration, self._clock, self._progress)
        try:
            result = await search.run()
        except QkddError as error:
            self._meter.add("qkdd_calibrations_total", result="failed")
            self._supervisor.note("calibration", error)
            self._publish("calibration.failed", link=self.config.name, code=error.code, message=error.message)
            raise
        self.last_calibration = self._clock.monotonic()
        self._meter.add("qkdd_calibrations_total", result="ok")
        self._publish("calibration.done", link=self.config.name, before=result.before, after=result.after)
        return _calibration_view(result, controller.setting_unit)

    def _progress(self, count: int, error: float, settings: tuple[float, ...]) -> None:
        places = ", ".join(f"{value:.4f}" for value in settings)
        self._publish("calibration.step", link=self.config.name, measurement=count, qber=error, settings=places)

    async def _measure(self) -> float:
        """Error rate of a stretch that is opened wholly after this call. A stretch without a peak is followed by another."""
        for attempt in range(MEASURE_ATTEMPTS):
            if self._link is None:
                break
            try:
                return await self._link.measure_error()
            except AlignmentFailed:
                if attempt + 1 == MEASURE_ATTEMPTS:
                    raise
        raise CalibrationFailed("the link stopped during the search")


class _Refused(QkddError):
    """A refused block by its code alone, for the tally; the link has raised the error itself."""

    def __init__(self, code: str, message: str) -> None:
        kind = registered_errors().get(code)
        super().__init__(message, remedy=kind.default_remedy if kind is not None else "")
        self.code = code  # type: ignore[misc]  # an instance of a code that was declared elsewhere


def _seen(task: asyncio.Task[views.CalibrationView]) -> None:
    """A search on drift has told its failure already by event, count and tally."""
    if not task.cancelled():
        task.exception()


def _calibration_view(result: CalibrationResult, unit: str) -> views.CalibrationView:
    return views.CalibrationView(
        qber_before=result.before,
        qber_after=result.after,
        settings=list(result.settings),
        unit=unit,
        measurements=result.measurements,
        seconds=result.seconds,
    )
