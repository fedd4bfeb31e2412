"""Every click that a simulated tagger saw comes out of its driver once, in order, at its time; and what overruns says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qkdd_drivers.id900.driver import Id900
from qkdd_drivers.id900.sim import Id900Sim
from qkdd_drivers.picoquant.hydraharp.driver import HydraHarp400
from qkdd_drivers.picoquant.multiharp.driver import MultiHarp
from qkdd_drivers.picoquant.sim import HydraHarpSim, MultiHarpSim
from qkdd_drivers.qutag.driver import QuTag
from qkdd_drivers.qutag.sim import QuTagSim
from qkdd_drivers.s15_tdc1.sim import PoissonClicks
from qkdd_drivers.s15_tdc2.driver import Tdc2
from qkdd_drivers.s15_tdc2.sim import Tdc2Sim
from qkdd_drivers.swabian.driver import TimeTaggerDriver
from qkdd_drivers.swabian.sim import SwabianSim

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, TagBlock, errors
from qkdd.testing.leaks import no_leaks


class Remembered:
    """Clicks at 50,000 a second on four inputs, and what was given out of them."""

    def __init__(self) -> None:
        self._clicks = PoissonClicks(50_000, 3)
        self.given: list[tuple[NDArray[np.int64], NDArray[np.uint8]]] = []

    def clicks(self, start_ps: int, stop_ps: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        self.given.append(self._clicks.clicks(start_ps, stop_ps))
        return self.given[-1]


def make(kind: Any, address: Any) -> Any:
    ways = {way: v for way in ("host", "tcp_ports", "library", "program", "python") if (v := getattr(address, way))}
    config = DeviceConfig(driver="any", options=dict(address.options), **ways)
    return kind("tagger", config, kind.links(config), SystemClock(), RecordingMeter())


async def _impatient_reads(driver: Any, seconds: float) -> list[TagBlock]:
    """Blocks of a stream whose reader is cancelled again and again."""
    blocks: list[TagBlock] = []
    clock, number = SystemClock(), 0
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        number += 1
        task = asyncio.ensure_future(driver.read())
        if number % 3 == 0:
            await asyncio.sleep(0.004 * (number % 20))
            if not task.done():
                task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            blocks.append(await task)
    return blocks


async def _count(driver: Any, blocks: int) -> int:
    return sum([len(await driver.read()) for _ in range(blocks)])


@pytest.mark.parametrize(
    ("kind", "simulator", "tolerance", "first"),
    [
        (MultiHarp, MultiHarpSim, 5, 1),
        (HydraHarp400, HydraHarpSim, 1, 1),
        (TimeTaggerDriver, SwabianSim, 0, 1),
        (QuTag, QuTagSim, 0, 1),
        (Tdc2, Tdc2Sim, 4, 0),
        (Id900, Id900Sim, 40_000, 1),  # between two sub-acquisitions 40 ns are not recorded
    ],
)
def test_no_click_is_lost_doubled_or_moved_also_when_readers_are_cancelled(
    kind: Any, simulator: Callable[[Any], Any], tolerance: int, first: int
) -> None:
    source = Remembered()

    async def main() -> list[TagBlock]:
        sim = simulator(source)
        address = await sim.start()
        try:
            async with make(kind, address) as driver:
                await driver.start()
                blocks = await _impatient_reads(driver, 1.5)
                await driver.stop()
        finally:
            await sim.stop()
        return blocks

    with no_leaks():
        blocks = asyncio.run(main())
    times = np.concatenate([block.times for block in blocks])
    channels = np.concatenate([block.channels for block in blocks])
    assert len(times) > 20_000
    assert not [code for block in blocks for code in block.faults]
    assert np.all(np.diff(times) >= 0)
    untils = [block.until for block in blocks]
    assert untils == sorted(untils)
    assert all(int(block.times[-1]) <= block.until for block in blocks if len(block))
    given = np.concatenate([t for t, _ in source.given])
    inputs = np.concatenate([c for _, c in source.given]) + first
    # the stream began somewhere in what the source gave: the first fifty channels find the place
    windows = np.lib.stride_tricks.sliding_window_view(inputs, 50)
    places = np.flatnonzero((windows == channels[:50]).all(axis=1))
    assert len(places) == 1
    start = int(places[0])
    assert np.array_equal(inputs[start : start + len(channels)], channels)
    moved = (given[start : start + len(times)] - given[start]) - (times - times[0])
    assert np.max(np.abs(moved)) <= tolerance


@pytest.mark.parametrize(("kind", "simulator"), [(MultiHarp, MultiHarpSim), (HydraHarp400, HydraHarpSim)])
def test_an_overrun_ends_a_t2_stream_and_the_next_one_is_sound(kind: Any, simulator: Any) -> None:
    async def main() -> None:
        sim = simulator(Remembered())
        address = await sim.start()
        async with make(kind, address) as driver:
            await driver.start()
            await driver.read()
            sim.inject("overrun")
            with pytest.raises(errors.TagsLost, match="overran"):
                await _impatient_reads(driver, 10.0)
        async with make(kind, address) as driver:
            await driver.start()
            assert await _count(driver, 10) > 1000
        await sim.stop()

    with no_leaks():
        asyncio.run(main())


@pytest.mark.parametrize(("kind", "simulator"), [(TimeTaggerDriver, SwabianSim), (QuTag, QuTagSim)])
def test_an_overrun_is_a_fault_of_the_block_where_records_stand_alone(kind: Any, simulator: Any) -> None:
    async def main() -> None:
        sim = simulator(Remembered())
        address = await sim.start()
        async with make(kind, address) as driver:
            await driver.start()
            await driver.read()
            sim.inject("overrun")
            for _ in range(60):
                block = await driver.read()
                if block.faults:
                    break
            assert block.faults == (errors.TagsLost.code,)
            assert block.lost > 0
            assert await _count(driver, 5) > 0
        await sim.stop()

    with no_leaks():
        asyncio.run(main())


@pytest.mark.parametrize(("kind", "simulator"), [(MultiHarp, MultiHarpSim), (TimeTaggerDriver, SwabianSim)])
def test_a_crash_in_the_middle_of_a_stream_is_told_and_the_daemon_goes_on(kind: Any, simulator: Any) -> None:
    async def main() -> None:
        sim = simulator(Remembered())
        address = await sim.start()
        driver = make(kind, address)
        async with driver:
            await driver.start()
            await driver.read()
            sim.inject("crash")
            with pytest.raises(errors.DeviceCrashed, match=r"SIGABRT.*crash was asked for"):
                await _impatient_reads(driver, 10.0)
        sim.inject("clear")
        async with driver:
            await driver.start()
            assert await _count(driver, 10) > 1000
        await sim.stop()

    with no_leaks():
        asyncio.run(main())
