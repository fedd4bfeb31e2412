"""A WebSQ server that behaves: control socket with labels, broadcasts and auto bias, counts pushed each period."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, ClassVar

import numpy as np

from qkdd_drivers.simkit import Address, DetectorBench, Simulator, TcpWire
from qkdd_drivers.single_quantum_websq import protocol

_BOUNDS: dict[str, tuple[float, float, str]] = {
    protocol.BIAS: (0.0, 50.0, "uA"),
    protocol.TRIGGER: (-500.0, 500.0, "mV"),
    protocol.PERIOD: (10.0, 10_000.0, "ms"),
}
_AUTO_SECONDS = 1.0
_KILOHM = 1.0  # bias voltage in mV = current in µA × this


class SteadyBench:
    """Detectors under constant light: the counts saturate with bias, dark counts rise at its end. working: the bias, in the
    instrument's own unit, that is to this detector what 20 µA are to a nanowire."""

    def __init__(self, rate: float, seed: int, detectors: int = 4, working: float = 20.0) -> None:
        self._rate, self._detectors, self._scale = rate, detectors, 20.0 / working
        self._random = np.random.default_rng(seed)
        self._bias = (working,) * detectors
        self._enabled = True

    @property
    def detectors(self) -> int:
        return self._detectors

    def counts(self, period_s: float) -> tuple[int, ...]:
        if not self._enabled:
            return (0,) * self._detectors
        like = [min(one * self._scale, 40.0) for one in self._bias]  # beyond, it counts its own darkness only
        mean = [self._rate / self._detectors / (1 + np.exp(-(b - 12.0) / 1.5)) + np.exp(b - 25.0) for b in like]
        return tuple(int(n) for n in self._random.poisson(np.array(mean) * period_s))

    def set_bias(self, bias_ua: tuple[float, ...]) -> None:
        self._bias = bias_ua

    def set_enabled(self, enabled: bool) -> None:
        self._enabled = enabled


class WebSqSim(Simulator):
    """One driver rack. Ports 0 are chosen by the system; a real one has 12000 and 12345."""

    model = "websq"
    faults: ClassVar[frozenset[str]] = Simulator.faults | {"lie"}

    def __init__(
        self,
        bench: DetectorBench,
        *,
        host: str = "127.0.0.1",
        port: int = protocol.CONTROL_PORT,
        counts_port: int = protocol.COUNTS_PORT,
        seed: int = 1,
        bias_ua: float = 20.0,
        period_ms: float = 100.0,
    ) -> None:
        super().__init__(seed)
        self._bench = bench
        self._control = TcpWire(self._received, host, port, self._connected)
        self._counts = TcpWire(lambda _: None, host, counts_port)
        detectors = bench.detectors
        self._labels: dict[str, Any] = {
            protocol.DETECTORS: detectors,
            protocol.BIAS: [bias_ua] * detectors,
            protocol.BIAS_VOLTAGE: [bias_ua * _KILOHM] * detectors,
            protocol.TRIGGER: [-150.0] * detectors,
            protocol.PERIOD: period_ms,
            protocol.ENABLE: True,
            protocol.DARK_TARGETS: [100.0] * detectors,
            protocol.AUTO_RUNNING: False,
        }
        self._text = ""
        self._lie = False
        self._pusher: asyncio.Task[None] | None = None
        self._auto: asyncio.Task[None] | None = None

    async def start(self) -> Address:
        control = await self._control.listen()
        counts = await self._counts.listen()
        self._bench.set_bias(tuple(self._labels[protocol.BIAS]))
        self._bench.set_enabled(self._labels[protocol.ENABLE])
        self._pusher = asyncio.get_running_loop().create_task(self._push())
        return Address(self.model, host=control.host, tcp_ports=control.tcp_ports + counts.tcp_ports)

    async def stop(self) -> None:
        tasks = [task for task in (self._pusher, self._auto) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pusher = self._auto = None
        await self._control.close()
        await self._counts.close()

    def unplug(self) -> None:
        self._text = ""
        self._control.cut()
        self._counts.cut()

    def plug(self) -> None:
        self._control.mend()
        self._counts.mend()

    def send(self, data: bytes) -> None:
        self._control.write(data)
        self._counts.write(data)

    def inject(self, fault: str, **args: float) -> None:
        super().inject(fault, **args)
        if fault == "clear":
            self._lie = False

    def inject_own(self, fault: str, args: dict[str, float]) -> None:
        self._lie = fault == "lie"  # sets are acknowledged but not carried out

    async def _push(self) -> None:
        last = time.monotonic()
        due = last
        while True:
            due = max(due + self._labels[protocol.PERIOD] / 1000, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            counts = self._bench.counts(now - last)
            last = now
            if not self.hang:
                self._counts.write((f"{time.time():.3f}," + ",".join(map(str, counts)) + "\n").encode())

    def _connected(self) -> None:
        self._text = ""  # half a message of an earlier host

    def _received(self, data: bytes) -> None:
        if self.hang:
            return
        self._text += data.decode("utf-8", "replace")
        objects, self._text = protocol.split_objects(self._text)
        for tree in objects:
            if isinstance(tree, dict):
                self._handle(tree)
        if len(self._text) > protocol.MAX_MESSAGE:
            self._text = ""

    def _handle(self, tree: dict[str, Any]) -> None:
        if "request" in tree:
            wanted = tree["request"]
            if wanted == protocol.LABEL_PROPS:
                for label, value in self._labels.items():
                    self._tell(label, self._described(label, value))
            elif wanted in self._labels:
                self._tell(wanted, self._labels[wanted])
            else:
                self._tell("Error", f"unknown request {wanted}")
            return
        name, label, value = tree.get("command"), str(tree.get("label")), tree.get("value")
        if self.refuse:
            self._tell("Error", f"{name} refused")
        elif name == "AutoCaliBiasCurrents":
            if self._auto is None or self._auto.done():
                self._auto = asyncio.get_running_loop().create_task(self._auto_bias())
        elif (problem := self._problem(name, label, value)) is not None:
            self._tell("Error", problem)
        elif not self._lie:
            self._set(label, value)
        else:
            self._tell(label, self._labels[label])

    def _problem(self, name: object, label: str, value: Any) -> str | None:
        settable = {
            "SetAllBiasCurrents": protocol.BIAS,
            "SetAllTriggerLevels": protocol.TRIGGER,
            "SetMeasurementPeriod": protocol.PERIOD,
            "DetectorEnable": protocol.ENABLE,
            "DarkCountsAutoIV": protocol.DARK_TARGETS,
        }
        if label not in settable.values() or settable.get(str(name), label) != label:
            return f"unknown command {name} for {label}"
        old = self._labels[label]
        if isinstance(old, list) and not (isinstance(value, list) and len(value) == len(old)):
            return f"{label} needs {len(old)} values"
        if isinstance(old, bool):
            return None if isinstance(value, bool) else f"{label} is true or false"
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bool) or not isinstance(one, (int, float)):
                return f"{label} needs numbers"
            low, high, _ = _BOUNDS.get(label, (0.0, 1e9, ""))
            if not low <= one <= high:
                return f"{label} {one} lies outside {low} to {high}"
        return None

    def _set(self, label: str, value: Any) -> None:
        self._labels[label] = value
        self._tell(label, value)
        if label == protocol.BIAS:
            self._bench.set_bias(tuple(float(one) for one in value))
            self._labels[protocol.BIAS_VOLTAGE] = [one * _KILOHM for one in value]
            self._tell(protocol.BIAS_VOLTAGE, self._labels[protocol.BIAS_VOLTAGE])
        elif label == protocol.ENABLE:
            self._bench.set_enabled(value)

    async def _auto_bias(self) -> None:
        self._set(protocol.AUTO_RUNNING, True)
        await asyncio.sleep(_AUTO_SECONDS)
        self._set(protocol.BIAS, [20.0] * self._bench.detectors)
        self._set(protocol.AUTO_RUNNING, False)

    def _described(self, label: str, value: Any) -> dict[str, Any]:
        if self.wrong_identity and label == protocol.DETECTORS:
            value = None
        described: dict[str, Any] = {"value": value}
        if label in _BOUNDS:
            low, high, unit = _BOUNDS[label]
            described |= {"bounds": [low, high], "unit": unit}
        return described

    def _tell(self, label: str, value: Any) -> None:
        data = json.dumps({"label": label, "value": value}).encode() + protocol.ETB
        if self.late:
            asyncio.get_running_loop().call_later(self.late, self._control.write, data)
        else:
            self._control.write(data)
