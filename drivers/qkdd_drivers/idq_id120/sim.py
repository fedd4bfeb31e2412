"""Simulated ID Quantique ID120: counts come only with bias; the cooler takes its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from qkdd_drivers.scpi_sim import Handler, ScpiError, ScpiSimulator, parameter
from qkdd_drivers.simkit import DetectorBench

_AMBIENT = 22_000.0  # m°C


class Id120Sim(ScpiSimulator):
    """bench: where counts come from and what is told the bias (in volt); it must have one detector, or None for a dark one.

    Fault of its own: `lie` (sets are taken and not carried out).
    """

    model = "id120"
    usb_ids = (0x1DDC, 0x0330)
    identity = "ID Quantique,ID120,1402010,1.3.0"
    error_queue = False
    faults = ScpiSimulator.faults | {"lie"}

    def __init__(
        self,
        bench: DetectorBench | None = None,
        *,
        pty: str | None = None,
        listen: tuple[str, int] | None = ("127.0.0.1", 0),
        seed: int = 1,
        cool_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bench, self._cool, self._clock = bench, cool_s, clock
        self._values = {
            "BIAS:VOLTAGE": 0,
            "THRESHOLD:VOLTAGE": 150_000,
            "DEADTIME:TIME": 1000,
            "COUNTERS:INTEGRATION_TIME": 200,
            "REG:TEMP_SET_POINT": -40_000,
        }
        self._run = False
        self._polarity = ["POSITIVE", "POSITIVE"]
        self._from, self._since = _AMBIENT, clock()
        self._counted, self._counts = clock(), 0
        self._lie = False
        super().__init__(pty=pty, listen=listen, seed=seed)

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        self._lie = True

    def inject(self, fault: str, **args: float) -> None:
        if fault == "clear":
            self._lie = False
        super().inject(fault, **args)

    @property
    def bias(self) -> float:
        """In volt."""
        return self._values["BIAS:VOLTAGE"] * 1e-6

    def commands(self) -> dict[str, Handler]:
        spans = {
            "BIAS:VOLTAGE": (0, 250_000_000, 80_000),
            "THRESHOLD:VOLTAGE": (0, 1_047_000, 500),
            "DEADTIME:TIME": (40, 1_000_000, 40),
            "COUNTERS:INTEGRATION_TIME": (200, 100_000, 200),
            "REG:TEMP_SET_POINT": (-50_000, -10_000, 1000),
        }
        table: dict[str, Handler] = {
            "INFO:PRODUCT_NAME?": lambda _: "ID281" if self.wrong_identity else "ID120-500-800nm",
            "INFO:PRODUCT_SERIAL_NUMBER?": lambda _: "1402010",
            "INFO:FIRMWARE_VERSION?": lambda _: "1.3.0",
            "INFO:APD_TYPE?": lambda _: "SI",
            "INFO:BIAS_BREAKDOWN_VOLTAGE?": lambda _: "152000000",
            "BIAS:ERROR_STATUS?": lambda _: "FALSE",
            "COUNTERS:DETECTION_FREQ?": lambda _: str(round(self._count() * 1000 / self._period_ms)),
            "COUNTERS:DETECTION_COUNT?": lambda _: str(self._count()),
            "REG:MEASURED_TEMP?": lambda _: str(round(self._temperature())),
            "REG:STATE?": lambda _: "REGULATING" if self._run else "OFF",
            "REG:RUN?": lambda _: str(self._run).upper(),
            "REG:RUN": self._set_run,
        }
        for name, span in spans.items():
            table[f"{name}?"] = lambda _, name=name: str(self._values[name])  # type: ignore[misc]
            table[name] = lambda rest, name=name, span=span: self._set(name, rest, *span)  # type: ignore[misc]
            capability = f"{name.partition(':')[0]}:CAPABILITY?"
            table[capability] = lambda _, span=span: f"{span[0]},{span[1]},{span[2]}"  # type: ignore[misc]
        for n in (0, 1):
            table[f"OUTPUT{n + 1}:POLARITY?"] = lambda _, n=n: self._polarity[n]  # type: ignore[misc]
            table[f"OUTPUT{n + 1}:POLARITY"] = lambda rest, n=n: self._set_polarity(n, rest)  # type: ignore[misc]
        return table

    @property
    def _period_ms(self) -> int:
        return self._values["COUNTERS:INTEGRATION_TIME"]

    def _set(self, name: str, rest: str, low: int, high: int, step: int) -> None:
        value = round(parameter(rest, low, high))
        if (value - low) % step and value % step:
            raise ScpiError(-222, "Data out of range")
        if self._lie:
            return
        self._values[name] = value
        if name == "BIAS:VOLTAGE" and self._bench is not None:
            self._bench.set_bias((self.bias,) * self._bench.detectors)
        if name == "REG:TEMP_SET_POINT":
            self._from, self._since = self._temperature(), self._clock()

    def _set_run(self, rest: str) -> None:
        if not self._lie:
            self._from, self._since = self._temperature(), self._clock()
            self._run = rest.upper() == "TRUE"

    def _set_polarity(self, n: int, rest: str) -> None:
        if rest.upper() not in ("POSITIVE", "NEGATIVE"):
            raise ScpiError(-224, "Illegal parameter value")
        if not self._lie:
            self._polarity[n] = rest.upper()

    def _temperature(self) -> float:
        goal = self._values["REG:TEMP_SET_POINT"] if self._run else _AMBIENT
        return goal + (self._from - goal) * math.exp(-(self._clock() - self._since) / self._cool)

    def _count(self) -> int:
        """Of the last whole period."""
        now = self._clock()
        if now - self._counted >= self._period_ms / 1000:
            self._counted = now
            self._counts = self._fresh(self._period_ms / 1000)
        return self._counts

    def _fresh(self, seconds: float) -> int:
        if self._bench is not None:
            return sum(self._bench.counts(seconds))
        return int(self.random.poisson(200.0 * seconds)) if self.bias > 0 else 0
