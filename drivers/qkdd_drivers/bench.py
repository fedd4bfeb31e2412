"""`qkdd bench drivers`: how many tags a second the ways from an instrument to the link carry, and what they cost.

Each way is pinned to one processor with everything that belongs to it (vendor's code, worker or child, driver); the simulator
that feeds a line stands beside it. `tags_per_cpu_second` is what one core could carry.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, Driver
from qkdd_drivers.picoquant.multiharp.driver import MultiHarp
from qkdd_drivers.picoquant.sim import UNPACED, MultiHarpSim
from qkdd_drivers.s15_tdc1.driver import Tdc1
from qkdd_drivers.s15_tdc1.sim import PoissonClicks, Tdc1Sim
from qkdd_drivers.s15_tdc2.driver import Tdc2
from qkdd_drivers.simkit import Address

_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLE = 0.5  # seconds that do not count


@dataclass(frozen=True, slots=True)
class Figure:
    """One way. goal: what the issue asks for, tags a second; 0: none."""

    name: str
    seconds: float
    tags: int
    tags_per_second: float
    cpu_seconds: float
    tags_per_cpu_second: float
    lost: int
    faults: tuple[str, ...]
    goal: float

    @property
    def met(self) -> bool:
        """Whether one core carries what is asked for, with nothing lost."""
        return not self.lost and not self.faults and max(self.tags_per_second, self.tags_per_cpu_second) >= self.goal


class _NoClicks:
    def clicks(self, start_ps: int, stop_ps: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        return np.empty(0, np.int64), np.empty(0, np.uint8)


@asynccontextmanager
async def _multiharp(rate: int) -> AsyncIterator[tuple[Address, type[Driver]]]:
    simulator = MultiHarpSim(_NoClicks(), generate=rate)
    address = await simulator.start()
    try:
        yield address, MultiHarp
    finally:
        await simulator.stop()


@asynccontextmanager
async def _tdc1(rate: int) -> AsyncIterator[tuple[Address, type[Driver]]]:
    """The simulator has a process of its own: it is not what is measured."""
    command = ["-m", "qkdd_drivers.bench", "--serve-tdc1", str(rate)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    if process.stdout is None:
        raise RuntimeError("the simulator has no output")
    try:
        told = json.loads(await process.stdout.readline())
        yield Address("tdc1", port=told["port"]), Tdc1
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _a1(_: int) -> AsyncIterator[tuple[Address, type[Driver]]]:
    fake = Path(__file__).with_name("s15_tdc2") / "fake_readevents.py"
    yield Address("tdc2", program=(sys.executable, str(fake), "--generate")), Tdc2


WAYS: dict[str, tuple[Callable[[int], Any], int, float]] = {
    "multiharp-20M": (_multiharp, 20_000_000, 20e6),
    "multiharp-unpaced": (_multiharp, UNPACED, 20e6),
    "a1-child": (_a1, 0, 20e6),
    "tdc1-pty-1M": (_tdc1, 1_000_000, 1e6 * 0.99),
}


async def measure(name: str, seconds: float) -> Figure:
    """Run one way for some seconds."""
    make, rate, goal = WAYS[name]
    async with make(rate) as (address, kind):
        where = {way: value for way in ("port", "library", "program") if (value := getattr(address, way))}
        config = DeviceConfig(driver="bench", **where)
        driver: Any = kind("bench", config, kind.links(config), SystemClock(), RecordingMeter())
        async with driver:
            await driver.start()
            while not (await driver.read()).until:  # programs start, packages are imported
                pass
            await _read_for(driver, _SETTLE)
            cpu, began = _cpu(), time.monotonic()
            tags, lost, faults = await _read_for(driver, seconds)
            took = time.monotonic() - began
            used = _cpu() - cpu
            await driver.stop()
    return Figure(name, took, tags, tags / took, used, tags / used if used else 0.0, lost, tuple(sorted(faults)), goal)


async def _read_for(driver: Any, seconds: float) -> tuple[int, int, set[str]]:
    end = time.monotonic() + seconds
    tags, lost, faults = 0, 0, set()
    while time.monotonic() < end:
        block = await driver.read()
        tags += len(block)
        lost += block.lost
        faults.update(block.faults)
    return tags, lost, faults


def _cpu() -> float:
    """Seconds of processor of this process and of its children that still run, the simulator of a line left out."""
    total = time.process_time()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid() and b"--serve-tdc1" not in (entry / "cmdline").read_bytes():
                total += (int(fields[11]) + int(fields[12])) / _TICKS
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    return total


async def _serve_tdc1(rate: int) -> None:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # beside what is measured, not on its processor
    simulator = Tdc1Sim(PoissonClicks(rate, 1))
    print((await simulator.start()).to_json(), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await simulator.stop()


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long each way runs.")] = 3.0,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(WAYS)}; repeatable.")] = None,
    serve_tdc1: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Tags a second from an instrument's side to the link, each way on one processor."""
    if serve_tdc1:
        asyncio.run(_serve_tdc1(serve_tdc1))
        return
    processors = os.sched_getaffinity(0)
    figures = []
    for name in only or WAYS:
        if name not in WAYS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(WAYS)}", param_hint="--only")
        os.sched_setaffinity(0, {max(processors)})  # what is started from here inherits it
        try:
            figures.append(asyncio.run(measure(name, seconds)))
        finally:
            os.sched_setaffinity(0, processors)
    if as_json:
        machine = {"machine": platform.machine(), "processors": len(processors), "load": os.getloadavg()[0]}
        print(json.dumps({**machine, "ways": [{**asdict(f), "met": f.met} for f in figures]}, indent=2))
        return
    for f in figures:
        print(
            f"{f.name:20s} {f.tags_per_second / 1e6:7.2f} Mtags/s  one core would carry {f.tags_per_cpu_second / 1e6:7.1f}"
            f"  lost {f.lost}  {' '.join(f.faults)}{'' if f.met else '  BELOW THE GOAL'}"
        )


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(prog_name="qkdd bench drivers")
