"""The node's devices: one supervised life each, count polling for detectors, fields for the control socket."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

from qkdd.control import views
from qkdd.control.errors import NotFound, NotNow
from qkdd.control.overview import DetectorView
from qkdd.core.clock import Clock
from qkdd.core.config import Section
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.core.local_api import ErrorView
from qkdd.core.units import Hertz, Seconds
from qkdd.device import DeviceConfig, Driver, build
from qkdd.device.roles import Detector
from qkdd.node.errors import BrightLight, DeviceMissing, SilentDetector
from qkdd.node.health import HEARTBEAT_S, Health
from qkdd.node.roles import ROLES, plays
from qkdd.node.supervisor import Publish, Supervisor

PING_S = 5.0
OPEN_PATIENCE_S = 90.0  # an instrument may home its axes when it is opened


class CountsConfig(Section, frozen=True):
    """[node.counts]: what is looked at in the detectors' own counters.

    bright_above: more counts a second than this is bright light (or an attack with it). silent_after: a detector without a
    count for this long, while another one of the device counts, is latched or blinded.
    """

    period: Seconds = Seconds(1.0)
    bright_above: Hertz = Hertz(20e6)
    silent_after: Seconds = Seconds(10.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not 0.1 <= self.period <= 3600:
            yield "period", f"{self.period} lies outside 0.1 s to 1 h", "1 s is the default"
        if self.silent_after < 2 * self.period:
            yield "silent_after", "is shorter than two periods", "10 s is the default"


class CountWatch:
    """Rates per detector from successive readings; the lowest seen is an upper bound of the dark counts."""

    def __init__(self, device: str, config: CountsConfig, meter: Meter) -> None:
        self._device, self._config, self._meter = device, config, meter
        self._lowest: dict[int, float] = {}
        self._silent: dict[int, float] = {}
        self._told: set[tuple[str, int]] = set()
        self.rates: dict[int, tuple[float, float]] = {}  # by detector: now, lowest

    def reading(self, counts: tuple[int, ...], period: float) -> list[QkddError]:
        """Feed one reading; returns what is newly wrong (told once until it is right again)."""
        found: list[QkddError] = []
        any_counts = any(counts)
        for number, count in enumerate(counts):
            rate = count / period if period > 0 else 0.0
            self._lowest[number] = min(rate, self._lowest.get(number, math.inf))
            labels = {"device": self._device, "detector": str(number)}
            self._meter.set("qkdd_detector_count_rate_hertz", rate, **labels)
            self.rates[number] = (rate, self._lowest[number])
            self._meter.set("qkdd_detector_dark_count_rate_hertz", self._lowest[number], **labels)
            self._silent[number] = self._silent.get(number, 0.0) + period if not count and any_counts else 0.0
            where = f"{self._device}, detector {number}"
            if self._changed("bright", number, rate > self._config.bright_above):
                found.append(BrightLight(f"{where}: {rate:.3g} counts a second", device=self._device, detector=number))
            if self._changed("silent", number, self._silent[number] >= self._config.silent_after):
                problem = f"{where}: no count for {self._silent[number]:.0f} s while others count"
                found.append(SilentDetector(problem, device=self._device, detector=number))
        return found

    def _changed(self, what: str, number: int, wrong: bool) -> bool:
        known = (what, number) in self._told
        if wrong and not known:
            self._told.add((what, number))
            return True
        if known and not wrong:
            self._told.discard((what, number))
        return False


class DeviceSlot:
    """One configured device. `driver` is there while it is open."""

    def __init__(self, name: str, config: DeviceConfig) -> None:
        self.name, self.config = name, config
        self.driver: Driver | None = None
        self.counts: CountWatch | None = None  # of the present life
        self.ready = asyncio.Event()
        self.busy = asyncio.Event()  # its stream is being read: a ping would be an intruder
        self._failed: asyncio.Future[QkddError] | None = None

    def fail(self, error: QkddError) -> None:
        """Who uses the device saw it fail: the supervisor shall open it again."""
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(error)

    async def live(self, driver: Driver, up: Callable[[], None], work: Callable[[Driver], Any], clock: Clock) -> None:
        """One life of the device: open, ready, watched until it fails."""
        self._failed = asyncio.get_running_loop().create_future()
        await driver.open()
        self.driver = driver
        self.ready.set()
        up()
        watcher = asyncio.ensure_future(work(driver))
        try:
            await asyncio.wait({watcher, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                raise self._failed.result()
            await watcher
        finally:
            self.ready.clear()
            self.driver = None
            watcher.cancel()
            try:
                await asyncio.gather(watcher, return_exceptions=True)
            finally:  # also when the node stops while a failed device is put away
                await driver.close()


class Devices:
    """All devices of the node."""

    def __init__(
        self,
        configs: dict[str, DeviceConfig],
        counts: CountsConfig,
        clock: Clock,
        meter: Meter,
        health: Health,
        supervisor: Supervisor,
        publish: Publish,
        allow: tuple[str, ...] | None = None,
    ) -> None:
        self.slots = {name: DeviceSlot(name, config) for name, config in configs.items()}
        self._counts, self._clock, self._meter = counts, clock, meter
        self._health, self._supervisor, self._publish, self._allow = health, supervisor, publish, allow

    def start(self) -> None:
        for name in self.slots:
            self._supervisor.add(name, "device", self._life(name), patience=OPEN_PATIENCE_S)

    async def safe(self) -> None:
        """Interlock: close all, which brings each into its safe state; they stay closed until `start` again."""
        await self._supervisor.stop(*self.slots)
        for name in self.slots:
            self._supervisor.forget(name)

    def build(self, name: str) -> Driver:
        """A closed driver of the device; no I/O."""
        return build(name, self._slot(name).config, self._clock, self._meter, allow=self._allow)

    def _life(self, name: str) -> Callable[[Callable[[], None]], Any]:
        slot = self.slots[name]

        async def life(up: Callable[[], None]) -> None:
            labels = {"device": name, "driver": slot.config.driver}
            self._meter.set("qkdd_device_up", 0, **labels)
            driver = self.build(name)

            def came_up() -> None:
                self._meter.set("qkdd_device_up", 1, **labels)
                up()

            try:
                await slot.live(driver, came_up, self._watch, self._clock)
            finally:
                self._meter.set("qkdd_device_up", 0, **labels)

        return life

    async def _watch(self, driver: Driver) -> None:
        """Beat, ping, count, until something raises."""
        slot = self.slots[driver.name]
        counts = slot.counts = CountWatch(driver.name, self._counts, self._meter)
        next_ping = next_count = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            if plays(driver, Detector) and now >= next_count:
                reading = await driver.counts()  # type: ignore[attr-defined]  # plays(Detector) says so
                next_count, next_ping = now + self._counts.period, now + PING_S
                for error in counts.reading(reading.counts, reading.period):
                    self._supervisor.note(driver.name, error)
                    self._publish("device.warning", part=driver.name, code=error.code, message=error.message)
            elif now >= next_ping and not slot.busy.is_set():
                await driver.ping()
                next_ping = now + PING_S
            self._health.beat(driver.name)
            await self._clock.sleep(min(HEARTBEAT_S, float(self._counts.period)))

    async def need(self, name: str) -> Driver:
        """The open driver; waits for it, beating is the caller's affair."""
        slot = self._slot(name)
        await slot.ready.wait()
        if slot.driver is None:
            raise DeviceMissing(f"{name} went away again")
        return slot.driver

    def now(self, name: str) -> Driver:
        """The open driver. Raises NotNow when it is not up."""
        driver = self._slot(name).driver
        if driver is None:
            raise NotNow(f"device {name} is not up", remedy="`qkdctl devices` shows why.")
        return driver

    def _slot(self, name: str) -> DeviceSlot:
        slot = self.slots.get(name)
        if slot is None:
            raise NotFound(f"there is no device {name!r}; there are {', '.join(self.slots) or 'none'}")
        return slot

    # --- for the control socket ----------------------------------------------------------------------------------------

    def shown(self) -> list[views.DeviceView]:
        return [self._view(slot) for slot in self.slots.values()]

    def _view(self, slot: DeviceSlot) -> views.DeviceView:
        part = self._supervisor.parts.get(slot.name)
        driver = slot.driver
        identity = driver.identity if driver is not None and driver.is_open else None
        return views.DeviceView(
            name=slot.name,
            driver=slot.config.driver,
            state=part.state.value if part is not None else "stopped",
            roles=[name for name, role in ROLES.items() if driver is not None and plays(driver, role)],
            vendor=identity.vendor if identity else "",
            model=identity.model if identity else "",
            serial=identity.serial if identity else "",
            firmware=identity.firmware if identity else "",
            error=error_view(part.error) if part is not None and part.error is not None else None,
        )

    def detectors(self) -> list[DetectorView]:
        """What the devices that count clicks said last."""
        return [
            DetectorView(device=slot.name, number=number, counts_per_s=rate, lowest_per_s=lowest)
            for slot in self.slots.values()
            if slot.driver is not None and slot.counts is not None
            for number, (rate, lowest) in sorted(slot.counts.rates.items())
        ]

    async def fields(self, name: str) -> list[views.FieldView]:
        driver = self.now(name)
        shown = []
        for field_name, field in driver.fields.items():
            values = await driver.get(field_name) if field.readable else ()
            limits = driver.limits(field_name) if field.range is not None else None
            single = values[0] if len(values) == 1 else [v if isinstance(v, (str, bool)) else float(v) for v in values]
            shown.append(
                views.FieldView(
                    name=field_name,
                    value=single if values else None,
                    unit=field.unit_name,
                    settable=field.settable,
                    low=limits.low if limits is not None and math.isfinite(limits.low) else None,
                    high=limits.high if limits is not None and math.isfinite(limits.high) else None,
                    doc=field.doc,
                )
            )
        return shown


def error_view(error: QkddError) -> ErrorView:
    return ErrorView(code=error.code, message=error.message, remedy=error.remedy)
