"""The fault campaign: every driver × every fault of its simulator, under the daemon's own device supervision.

`make faults` prints the matrix, `make faults ARGS=--short` three faults of each driver. A cell tells how the part stood while
the fault lasted: `up`, or the code that took it down. After the fault every device must be up again, whatever went wrong must
have had a code of the device room, and no thread, task or file descriptor may be left.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import structlog
from qkdd_drivers.simkit import Address, Simulator
from qkdd_drivers.single_quantum_websq.sim import SteadyBench

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.errors import Kind, QkddError
from qkdd.core.units import Seconds
from qkdd.device import DeviceConfig, TimeTagger
from qkdd.device.errors import CommandRefused, DeviceError, DeviceTimeout, WrongDevice
from qkdd.node import devices as node_devices
from qkdd.node.devices import CountsConfig, Devices
from qkdd.node.health import Health
from qkdd.node.roles import plays
from qkdd.node.supervisor import BackoffConfig, Part, State, Supervisor
from qkdd.testing.contract import DriverContract
from qkdd.testing.leaks import Leaked, no_leaks_async

ALL = ("unplug", "late", "garbage", "slip", "wrong-identity", "refuse", "hang")
SHORT = ("unplug", "hang", "wrong-identity")
PING_S = 0.15
WATCH_S = 0.9  # how long a fault lasts when it takes nothing down
DOWN_S = 12.0  # what must go down has gone down by then
UP_S = 25.0  # an instrument is up again by then
MUST_FALL = {"unplug", "hang"}
BACKOFF = BackoffConfig(first=Seconds(0.05), longest=Seconds(0.3), settle=Seconds(0.5))


@dataclass(frozen=True, slots=True)
class Subject:
    """driver: registered name. make: a fresh simulator. config: further keys of the device section."""

    driver: str
    make: Callable[[], Simulator]
    config: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """What one fault did. seen: codes in the order of their coming; empty: it stayed up. wrong: why the cell failed."""

    seen: tuple[str, ...]
    wrong: str
    seconds: float

    @property
    def text(self) -> str:
        if self.wrong:
            return "FAILED"
        return self.seen[0].removeprefix("QKD-DEV-").lower() if self.seen else "up"


def _of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"qkdd_drivers.{module}.sim"), name)


def _clicks() -> Any:
    return _of("s15_tdc1", "PoissonClicks")(2000.0, 1)


def subjects() -> list[Subject]:
    """Every driver that has an instrument behind it (a replay has none)."""
    bias = ("limits", {"bias_voltage": ["0 V", "200 V"]})
    return [
        Subject("s15_tdc1", lambda: _of("s15_tdc1", "Tdc1Sim")(_clicks())),
        Subject("picoquant_multiharp", lambda: _of("picoquant", "MultiHarpSim")(_clicks())),
        Subject("picoquant_hydraharp400", lambda: _of("picoquant", "HydraHarpSim")(_clicks())),
        Subject("picoquant_picoharp330", lambda: _of("picoquant", "PicoHarpSim")(_clicks())),
        Subject("idq_id900", lambda: _of("id900", "Id900Sim")(_clicks(), port=0, service_port=0, stream_port=0)),
        Subject("s15_tdc2", lambda: _of("s15_tdc2", "Tdc2Sim")(_clicks())),
        Subject("swabian_timetagger", lambda: _of("swabian", "SwabianSim")(_clicks())),
        Subject("qutools_qutag", lambda: _of("qutag", "QuTagSim")(_clicks())),
        Subject(
            "single_quantum_websq",
            lambda: _of("single_quantum_websq", "WebSqSim")(SteadyBench(1e4, 1), port=0, counts_port=0, period_ms=50),
        ),
        Subject("s15_spd", _of("s15_spd", "SpdSim"), (bias,)),
        Subject("idq_id120", _of("idq_id120", "Id120Sim")),
        Subject("thorlabs_mpc320", lambda: _of("thorlabs_mpc320", "Mpc320Sim")(lambda _: None)),
        Subject("ozoptics_epc400", _of("ozoptics_epc400", "Epc400Sim")),
        Subject("thorlabs_ell14", lambda: _of("thorlabs_ell14", "Ell14Sim")(turn_s=0.1)),
        Subject("ozoptics_dd100", _of("ozoptics_dd100", "Dd100Sim")),
        Subject("thorlabs_pm100d", _of("thorlabs_pm100d", "Pm100dSim")),
        Subject("thorlabs_cld1015", _of("thorlabs_cld1015", "Cld1015Sim")),
        Subject("idq_quantis", _of("idq_quantis", "QuantisSim")),
        Subject("agiltron_ff1x4", _of("agiltron_ff", "FfSim")),
        Subject("thorlabs_osw", _of("thorlabs_osw", "OswSim")),
        Subject("srs_fs725", _of("srs_fs725", "Fs725Sim")),
        Subject("generic_scpi_attenuator", lambda: _of("generic_scpi", "GenericSim")("attenuator")),
        Subject("generic_scpi_detector", lambda: _of("generic_scpi", "GenericSim")("detector")),
        Subject("generic_scpi_switch", lambda: _of("generic_scpi", "GenericSim")("switch")),
    ]


class _Watch:
    """One device under supervision, and every code that took it down."""

    def __init__(self, config: DeviceConfig) -> None:
        clock, meter = SystemClock(), RecordingMeter()
        self._health = Health(clock, meter)
        self.codes: list[str] = []
        self.wrong: list[str] = []
        jitter = random.Random(1).random
        self.supervisor = Supervisor(clock, meter, self._health, lambda _kind, **_fields: None, jitter, BACKOFF)
        self.devices = Devices(
            {"device": config}, CountsConfig(period=Seconds(0.1)), clock, meter, self._health, self.supervisor, _quiet
        )
        self.devices.start()
        self.tag_faults: list[str] = []
        self._reader = asyncio.ensure_future(self._read_tags())

    async def stop(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self.supervisor.stop()

    async def _read_tags(self) -> None:
        """What the link does with a tagger: its stream runs whenever it is up, and a failure is told to the supervisor."""
        slot = self.devices.slots["device"]
        while True:
            driver: Any = await self.devices.need("device")
            if not plays(driver, TimeTagger):
                return
            slot.busy.set()
            try:
                await driver.start()
                while slot.driver is driver:
                    block = await driver.read()
                    self.tag_faults += [code for code in block.faults if code not in self.tag_faults]
            except DeviceError as error:
                slot.fail(error)
                while slot.driver is driver:  # noqa: ASYNC110 - the slot has no event for being closed
                    await asyncio.sleep(0.01)
            finally:
                slot.busy.clear()

    @property
    def part(self) -> Part:
        return self.supervisor.parts["device"]

    async def until(self, reached: Callable[[], bool], seconds: float, *, kick: bool = False) -> bool:
        end = time.monotonic() + seconds
        while not reached():
            self._note()
            if time.monotonic() > end:
                return False
            if kick and self.part.state is State.WAITING:
                self.supervisor.kick("device")  # do not sit out the long pause after a permanent error
            await asyncio.sleep(0.02)
        self._note()
        return True

    def _note(self) -> None:
        error = self.part.error
        if error is None or self.part.state is State.UP:
            return
        if not self.codes or self.codes[-1] != error.code:
            self.codes.append(error.code)
            if not error.code.startswith("QKD-DEV-") or error.kind not in (Kind.TRANSIENT, Kind.PERMANENT):
                self.wrong.append(f"{error.code}: {error}")


def _quiet(_kind: str, **_fields: Any) -> None:
    """Nobody listens to events here."""


async def one(subject: Subject, fault: str) -> Cell:
    """Up, fault, what happens, fault gone, up again, nothing left."""
    start = time.monotonic()
    codes: list[str] = []
    wrong: list[str] = []
    try:
        async with no_leaks_async():
            await _scene(subject, fault, codes, wrong)
    except (Leaked, QkddError, OSError) as failure:
        wrong.append(f"{type(failure).__name__}: {failure}")
    return Cell(tuple(codes), "; ".join(wrong), time.monotonic() - start)


async def _scene(subject: Subject, fault: str, codes: list[str], wrong: list[str]) -> None:
    """In a frame of its own: what it holds is gone before leaks are counted."""
    simulator = subject.make()
    address = await simulator.start()
    watch = _Watch(_config(subject, address))
    try:
        wrong += await _play(watch, simulator, fault)
    finally:
        await watch.stop()
        await simulator.stop()
    codes += watch.codes + watch.tag_faults
    wrong += watch.wrong


async def _play(watch: _Watch, simulator: Simulator, fault: str) -> list[str]:
    if not await watch.until(lambda: watch.part.state is State.UP, UP_S):
        return [f"never came up: {watch.part.error}"]
    await asyncio.sleep(0.2)  # a stream has begun
    watch.codes.clear()
    watch.tag_faults.clear()
    simulator.inject(fault)
    if fault == "wrong-identity":  # another instrument takes the place: the line went away and came back
        simulator.inject("unplug")
        await watch.until(lambda: bool(watch.codes), DOWN_S)
        simulator.inject("plug")
        if not await watch.until(lambda: WrongDevice.code in watch.codes, UP_S, kick=True):
            return [f"another instrument was not noticed: {watch.codes}"]
        watch.codes[:] = [WrongDevice.code]
    elif fault == "refuse":
        watch.codes += await _refused(watch)
        if not watch.codes and await watch.until(lambda: watch.part.state is not State.UP, WATCH_S):
            await watch.until(lambda: bool(watch.codes), 1.0)
    else:
        patience = DOWN_S if fault in MUST_FALL else WATCH_S
        if await watch.until(lambda: watch.part.state is not State.UP or bool(watch.tag_faults), patience):
            await watch.until(lambda: bool(watch.codes) or bool(watch.tag_faults), 1.0)
        elif fault in MUST_FALL:
            return [f"still up {DOWN_S:g} s after {fault}"]
    simulator.inject("clear")
    if fault == "unplug":
        simulator.inject("plug")
    if not await watch.until(lambda: watch.part.state is State.UP, UP_S, kick=True):
        return [f"not up again: {watch.part.error}"]
    return []


async def _refused(watch: _Watch) -> list[str]:
    """Set each field to another legal value; the first code that comes. A stream forbids most commands of a tagger."""
    driver = watch.devices.slots["device"].driver
    for name, field in driver.fields.items() if driver is not None else ():
        if not (field.settable and field.readable and driver is not None):
            continue
        try:
            now = await driver.get(name)
            low, high = (driver.limits(name).low, driver.limits(name).high) if field.range else (0.0, 0.0)
            middle = low + (0.3 if now and field.range and now[0] > (low + high) / 2 else 0.6) * (high - low)
            other = DriverContract.other_value(field, now) if not field.range else middle
            await driver.set(name, round(other) if field.kind is int else other)
        except DeviceError as error:
            if isinstance(error, (CommandRefused, DeviceTimeout)):
                return [error.code]
    return []


def _config(subject: Subject, address: Address) -> DeviceConfig:
    ways = ("port", "host", "tcp_ports", "library", "program", "python", "recording")
    where = {way: value for way in ways if (value := getattr(address, way))}
    if options := dict(address.options):
        where["options"] = options
    return DeviceConfig(driver=subject.driver, **where, **dict(subject.config))


async def campaign(names: list[str], faults: tuple[str, ...]) -> dict[str, dict[str, Cell]]:
    """The whole matrix, one cell after the other. Faults that a simulator does not know are left out."""
    matrix: dict[str, dict[str, Cell]] = {}
    for subject in subjects():
        if names and subject.driver not in names:
            continue
        known = subject.make().faults - {"plug", "clear"}
        wanted = [f for f in faults if f in known]
        if faults == ALL:
            wanted += sorted(known - set(ALL))
        row = matrix[subject.driver] = {}
        for fault in wanted:
            row[fault] = await one(subject, fault)
        cells = "  ".join(f"{fault}: {cell.text}" for fault, cell in row.items())
        print(f"{subject.driver:24} {cells}", flush=True)
    return matrix


def table(matrix: dict[str, dict[str, Cell]]) -> str:
    """Common faults as columns, those of one simulator only behind them."""
    columns = [f for f in ALL if any(f in row for row in matrix.values())]
    lines = [f"{'driver':24} " + " ".join(f"{f:>14}" for f in columns) + "  its own"]
    for driver, row in matrix.items():
        own = ", ".join(f"{f}: {cell.text}" for f, cell in row.items() if f not in columns)
        lines.append(
            f"{driver:24} " + " ".join(f"{row[f].text if f in row else '-':>14}" for f in columns) + f"  {own}"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="make faults", description="Every driver against every fault of its simulator."
    )
    parser.add_argument("--short", action="store_true", help="only unplug, hang and another instrument's answers")
    parser.add_argument("driver", nargs="*", help="only these drivers")
    given = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # the log of 150 faults says nothing
    with mock.patch.object(node_devices, "PING_S", PING_S), mock.patch.object(node_devices, "HEARTBEAT_S", 0.05):
        matrix = asyncio.run(campaign(given.driver, SHORT if given.short else ALL))
    print("\n" + table(matrix))
    failed = [(d, f, c) for d, row in matrix.items() for f, c in row.items() if c.wrong]
    for driver, fault, cell in failed:
        print(f"FAILED {driver}, {fault}: {cell.wrong}")
    cells = sum(len(row) for row in matrix.values())
    print(f"{cells} cells, {len(failed)} failed; threads, tasks and file descriptors counted around each")
    return int(bool(failed) or not cells)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
