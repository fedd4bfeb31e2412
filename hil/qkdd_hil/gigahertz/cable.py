"""Symbols on demand at a gigahertz: what alice's node asks her board for, through driver, frames and TCP, while slots go by.

The board is a process of its own (`board.py`) whose slots count in real time. The slots asked for are those in which the
recording's receiver has detections, announced every 50 ms as the link does it. The host's side is the link's own symbol store
over the board's own driver; each symbol that comes is compared with what was prepared.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from qkdd_drivers.qkdd_board.transmitter.driver import Transmitter

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig
from qkdd.link.config import LinkConfig
from qkdd.link.errors import SymbolsMissing
from qkdd.link.symbol_store import AskedForSymbols
from qkdd_hil.gigahertz.measure import announced, shared_of
from qkdd_hil.gigahertz.recording import Recording

LINK = "gigahertz"
MARGIN = ("qkdd_link_symbols_margin_seconds", (("link", LINK),))
PIECE_S = 0.05  # of slots that bob announces at a time


class Cable(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Rates are a second of real time unless they say CPU (of the node's process alone).

    link_symbols_per_s: detections of the recording a second, which a link would ask for. share: part of them that was asked.
    cable_bytes: both directions, frames and all, for each symbol asked; stream_bytes: what a full stream of all pulses would be.
    margin_s: least time that an asked symbol had left in the board's window. lost: symbols that were asked too late; code:
    what the link refuses the block with then, else null. waits_ms: for an answer, median and longest of the pieces.
    """

    pulse_hz: float
    window: int
    link_symbols_per_s: float
    share: float
    asked: int
    symbols_per_s: float
    symbols_per_cpu_s: float
    seconds: float
    cable_bytes: float
    stream_bytes: float
    margin_s: float | None
    lost: int
    refused: int
    code: str | None
    wait_ms_median: float
    wait_ms_most: float


@asynccontextmanager
async def board_process(folder: Path, window: int) -> AsyncIterator[dict[str, Any]]:
    """Where a board that plays `folder` listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qkdd_hil.gigahertz", "board", folder, "--window", str(window),
        stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        if process.stdout is None or not (line := await process.stdout.readline()):
            raise RuntimeError("the board did not start")
        yield json.loads(line)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def pieces(slots: NDArray[np.int64], pulses: int, length: int, start: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """From slot `start` on: (end of the piece, its slots), the recording over and over."""
    at = start
    while True:
        end = at + length
        found = []
        for turn in range(at // pulses, (end - 1) // pulses + 1):
            low, high = np.searchsorted(slots, (at - turn * pulses, end - turn * pulses))
            found.append(slots[low:high] + turn * pulses)
        yield end, np.concatenate(found)
        at = end


async def run(
    recording: Recording, folder: Path, *, window: int, seconds: float, share: float, late: float = 0.0
) -> Cable:
    """Ask for `seconds` of slots. share: thin the announced slots to this part. late: s that the announcements take more.

    Pieces are asked for when their last slot has gone out, or as soon as the ones before are done. Raises ValueError at a
    symbol that is not what was prepared, DeviceError.
    """
    slots = announced(recording)
    if share < 1.0:
        slots = slots[np.random.default_rng(1).random(len(slots)) < share]
    clock, meter = SystemClock(), RecordingMeter()
    config = LinkConfig(name=LINK, role="alice", transmitter="board", shared=shared_of(recording))
    pulses, rate = recording.terms.pulses, recording.terms.pulse_hz
    async with board_process(folder, window) as where:
        section = DeviceConfig(driver="qkdd_transmitter", host=where["host"], tcp_ports=where["tcp_ports"])
        async with Transmitter("board", section, Transmitter.links(section), clock, meter) as driver:
            store = AskedForSymbols(driver, config, clock, meter, lambda: None)
            await store.start()
            asked = refused = 0
            waits: list[float] = []
            margins: list[float] = []
            code: str | None = None
            begin, cpu = time.perf_counter(), time.process_time()
            before = driver.dialogue.sent_bytes + driver.dialogue.received_bytes
            length, first = round(PIECE_S * rate), store.position()
            for end, wanted in pieces(slots, pulses, length, first):
                if end - first > seconds * rate:
                    break
                await clock.sleep(max(0.0, (end - store.position()) / rate + late))
                if store.failure is not None:
                    raise store.failure
                since = time.perf_counter()
                try:
                    got = await store.symbols(wanted)
                except SymbolsMissing as error:
                    code, refused = error.code, refused + 1
                else:
                    if not np.array_equal(got, recording.symbols[wanted % pulses]):
                        raise ValueError(f"symbols of slots up to {end} are not what was prepared")
                    asked += len(got)
                waits.append(time.perf_counter() - since)
                if MARGIN in meter.gauges:
                    margins.append(meter.gauges[MARGIN])
                await store.release(end)
            spent, cpu = time.perf_counter() - begin, time.process_time() - cpu
            cable = driver.dialogue.sent_bytes + driver.dialogue.received_bytes - before
            lost = int(meter.total("qkdd_link_symbols_lost_total"))
            questions = int(meter.total("qkdd_link_symbols_asked_total"))
            await store.stop()
    per_s = len(slots) / recording.terms.seconds
    return Cable(
        pulse_hz=rate,
        window=window,
        link_symbols_per_s=len(announced(recording)) / recording.terms.seconds,
        share=share,
        asked=asked,
        symbols_per_s=asked / spent,
        symbols_per_cpu_s=asked / cpu,
        seconds=spent,
        cable_bytes=cable / max(1, questions),
        stream_bytes=rate / 2 / per_s,
        margin_s=min(margins) if margins else None,
        lost=lost,
        refused=refused,
        code=code,
        wait_ms_median=1e3 * median(waits),
        wait_ms_most=1e3 * max(waits),
    )


def report(c: Cable) -> str:
    """For people."""
    margin = f"{c.margin_s:.3f} s" if c.margin_s is not None else "nothing was written over"
    return "\n".join(
        (
            f"{c.pulse_hz / 1e9:g} GHz, window 2^{np.log2(c.window):.1f} slots ({c.window / c.pulse_hz:.2f} s);"
            f" {c.share:.0%} of {c.link_symbols_per_s / 1e6:.1f} million detections/s announced",
            f"asked and right  {c.asked:11d} symbols in {c.seconds:.2f} s: {c.symbols_per_s / 1e6:6.2f} million/s,"
            f" {c.symbols_per_cpu_s / 1e6:.2f} million a CPU second of the node",
            f"on the cable     {c.cable_bytes:11.3f} bytes a symbol, {c.cable_bytes * c.symbols_per_s / 1e6:.1f} MB/s;"
            f" a full stream would take {c.stream_bytes:.1f} bytes a detection, {c.pulse_hz / 2e6:.0f} MB/s",
            f"a piece of 50 ms {c.wait_ms_median:11.1f} ms (median), {c.wait_ms_most:.1f} ms (longest)",
            f"least margin     {margin}",
            f"too late         {c.lost} symbols, {c.refused} pieces refused{f' with {c.code}' if c.code else ''}",
        )
    )
