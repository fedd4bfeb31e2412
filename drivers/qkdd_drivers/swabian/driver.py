"""Swabian Instruments Time Tagger 20, Ultra, X: over the vendor's Python package in an interpreter of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.units import Seconds, Volts
from qkdd.device import errors
from qkdd.device.config import DeviceConfig, place_key
from qkdd.device.fields import Category, Field, Values
from qkdd.device.roles import Identity
from qkdd.device.tags import StreamStart
from qkdd.device.transport import ByteLink
from qkdd.device.worker_link import WorkerLink
from qkdd_drivers.options import read_options
from qkdd_drivers.swabian.package import RECORD
from qkdd_drivers.worker_tagger import Clicks, WorkerTagger

RESOLUTIONS = {"standard": "Standard", "highres-a": "HighResA", "highres-b": "HighResB", "highres-c": "HighResC"}
OPTIONS: dict[str, Any] = {
    "package_path": "",
    "resolution": "standard",
    "reference_input": 0,
    "reference_hz": 10e6,
}


class TimeTaggerDriver(WorkerTagger):
    """Role TimeTagger. Channel n is the input labelled n; there is no channel 0."""

    open_time = 15.0  # the package uploads the firmware

    threshold = Field(
        doc="Set trigger level of each input",
        unit=Volts,
        range=(-2.5, 2.5),
        size=None,
        settable=True,
        category=Category.SETTING,
    )
    edge = Field(
        doc="Set edge of the pulses that is taken, for each input; holds from the next stream on",
        kind=str,
        choices=("rising", "falling"),
        size=None,
        settable=True,
        category=Category.SETTING,
    )
    input_delay = Field(
        doc="Set delay of each input",
        unit=Seconds,
        range=(-1e-3, 1e-3),
        size=None,
        settable=True,
        category=Category.SETTING,
    )
    dead_time = Field(
        doc="Set dead time of each input; the instrument rounds it up to what it can do",
        unit=Seconds,
        range=(0.0, 2.147e-3),
        size=None,
        settable=True,
        category=Category.SETTING,
    )

    def __init__(self, name: str, config: DeviceConfig, links: Sequence[ByteLink], clock: Clock, meter: Meter) -> None:
        super().__init__(name, config, links, clock, meter)
        self._options = read_options(name, config.options, OPTIONS)
        if self._options["resolution"] not in RESOLUTIONS:
            raise errors.DeviceConfigError(
                f"devices.{name}.options.resolution: {self._options['resolution']!r} is none of {', '.join(RESOLUTIONS)}"
            )
        self._inputs: list[int] = [1, 2, 3, 4, 5, 6, 7, 8]
        self._edges: dict[int, str] = {}
        self._known_levels: tuple[float, float] | None = None

    @classmethod
    def links(cls, config: DeviceConfig) -> tuple[ByteLink, ...]:
        if not config.python:
            raise errors.DeviceConfigError(
                f"driver {config.driver!r} needs `python`, the interpreter that has the vendor's package"
            )
        return (WorkerLink(place_key(config), Path(__file__).with_name("package.py"), python=config.python),)

    # Role TimeTagger

    @property
    def resolution_ps(self) -> int:
        return 1

    @property
    def inputs(self) -> int:
        return max(self._inputs) + 1

    async def start(self) -> StreamStart:
        """Begin a stream of all inputs, each with its edge."""
        channels = [-n if self._edges.get(n) == "falling" else n for n in self._inputs]
        self.begin_arguments = {"channels": channels}
        return await super().start()

    # Hooks

    def _arguments(self) -> dict[str, Any]:
        return {
            "serial": self.config.serial_number,
            "package_path": self._options["package_path"],
            "resolution": RESOLUTIONS[self._options["resolution"]],
            "reference_input": self._options["reference_input"],
            "reference_hz": self._options["reference_hz"],
        }

    def _identified(self, told: dict[str, Any]) -> Identity:
        self._inputs = [int(n) for n in told["inputs"]]
        low, high = (float(volts) for volts in told["levels"])
        if self._known_levels != (low, high):
            self._known_levels = (low, high)
            self.narrow("threshold", low, high)
        firmware = next((part.strip() for part in str(told["version"]).split(",") if "FW" in part), "")
        return Identity("Swabian Instruments", str(told["model"]), str(told["serial"]), firmware.replace("FW ", ""))

    def _began(self, told: Any) -> None:
        """Records stand alone."""

    def _decode(self, records: NDArray[np.uint8]) -> Clicks:
        rows = records.view(RECORD)
        clicks = rows["channel"] > 0
        until = self._until
        if not clicks.all():
            until = max(until, int(rows["time"][~clicks].max()))
        times = rows["time"][clicks]
        if len(times):
            until = max(until, int(times[-1]))
        return times.astype(np.int64), rows["channel"][clicks].astype(np.uint8), until

    async def _start(self) -> None:
        """Inputs of a time tagger harm nobody: they stay as they are until the settings are applied."""

    # Fields

    def _each(self, field: str, values: Values) -> list[Any]:
        if len(values) not in (1, len(self._inputs)):
            raise ValueError(f"{field} has {len(self._inputs)} elements, not {len(values)}")
        return list(values) * (len(self._inputs) if len(values) == 1 else 1)

    async def _read(self, field: str, name: str, factor: float = 1.0) -> Values:
        found = await self.call("get", operation=f"get {field}", name=name, inputs=self._inputs)
        return tuple(value * factor for value in found)

    async def _write(self, field: str, name: str, values: Values, factor: float = 1.0) -> Values:
        wanted = dict(zip(map(str, self._inputs), (v * factor for v in self._each(field, values)), strict=True))
        await self.call("set", operation=f"set {field}", name=name, values=wanted)
        return await self._read(field, name, 1 / factor)

    async def _get_threshold(self) -> Values:
        return await self._read("threshold", "TriggerLevel")

    async def _set_threshold(self, values: Values) -> Values:
        return await self._write("threshold", "TriggerLevel", values)

    async def _get_edge(self) -> Values:
        return tuple(self._edges.get(n, "rising") for n in self._inputs)

    async def _set_edge(self, values: Values) -> Values:
        self._edges = dict(zip(self._inputs, self._each("edge", values), strict=True))
        return await self._get_edge()

    async def _get_input_delay(self) -> Values:
        return await self._read("input_delay", "InputDelay", 1e-12)

    async def _set_input_delay(self, values: Values) -> Values:
        return await self._write("input_delay", "InputDelay", values, 1e12)

    async def _get_dead_time(self) -> Values:
        return await self._read("dead_time", "Deadtime", 1e-12)

    async def _set_dead_time(self, values: Values) -> Values:
        return await self._write("dead_time", "Deadtime", values, 1e12)
