"""Symbols on demand over lines and boards that fail: what comes is right, what cannot come is refused and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qkdd_drivers.qkdd_board import driver as board_driver
from qkdd_drivers.qkdd_board.sim import BoardSim
from qkdd_drivers.qkdd_board.transmitter.driver import Transmitter
from qkdd_fwbridge import symbols as s
from qkdd_fwbridge.frames import MAX_PAYLOAD

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.core.units import Fraction, Hertz
from qkdd.device import DeviceConfig, errors
from qkdd.distill.decoy_config import DecoySettings
from qkdd.kernels import gap_decode
from qkdd.link.config import LinkConfig, LinkShared
from qkdd.link.delay_search import SYMBOL_ABSENT
from qkdd.link.errors import SymbolsMissing
from qkdd.link.symbol_store import AskedForSymbols
from qkdd.testing.patience import PATIENCE_S

RATE = 200e3


class Scene:
    """A board on a TCP port, its driver, and the link's store over it. sent: symbols that left the board, by slot."""

    def __init__(self, window: int) -> None:
        self.sent: dict[int, int] = {}
        self.more = asyncio.Event()
        self.meter = RecordingMeter()
        self.clock = SystemClock()
        self.sim = BoardSim(listen=("127.0.0.1", 0), boot_s=0.02, window=window, on_pulses=self._pulses)

    def _pulses(self, first: int, symbols: Any) -> None:
        self.sent.update(enumerate(symbols.tolist(), first))
        self.more.set()

    async def open(self) -> None:
        where = await self.sim.start()
        config = {"pulse_rate": f"{RATE:.0f} Hz", "laser": True}
        section = DeviceConfig(driver="board", host=where.host, tcp_ports=where.tcp_ports, settings=config)
        self.driver = Transmitter("board", section, Transmitter.links(section), self.clock, self.meter)
        await self.driver.open()

    def store(self) -> AskedForSymbols:
        decoy = DecoySettings(
            pulse_rate=Hertz(RATE),
            block_pulses=1_000_000,
            mu=(0.5, 0.1, 0.001),
            p=(0.7, 0.2, 0.1),
            mu_intervals=((0.5, 0.5), (0.1, 0.1), (0.001, 0.001)),
            x_basis=Fraction(0.1),
        )
        shared = LinkShared(protocol="decoy_bb84", symbols="on_demand", decoy=decoy)
        config = LinkConfig(name="a-b", role="alice", transmitter="board", shared=shared)
        return AskedForSymbols(self.driver, config, self.clock, self.meter, lambda: None)

    async def made(self, slots: int) -> int:
        """Wait until the board has sent so many; the number."""
        while len(self.sent) < slots:
            self.more.clear()
            await self.more.wait()
        return len(self.sent)

    def right(self, slots: Any, got: Any) -> None:
        assert got.tolist() == [self.sent[int(slot)] for slot in slots]
        assert SYMBOL_ABSENT not in got


@asynccontextmanager
async def scene(window: int = 1 << 20) -> AsyncIterator[Scene]:
    it = Scene(window)
    await it.open()
    try:
        yield it
    finally:
        await it.driver.close()
        await it.sim.stop()


def run(test: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test()

    asyncio.run(bounded())


def some(high: int, low: int = 0, count: int = 200) -> Any:
    return np.sort(np.random.default_rng(high).choice(np.arange(low, high), count, replace=False)).astype(np.int64)


def test_what_was_written_over_is_refused_with_its_code_and_counted() -> None:
    async def test() -> None:
        async with scene(window=4096) as it:
            store = it.store()
            await store.start()
            made = await it.made(10_000)
            with pytest.raises(SymbolsMissing, match="too late") as refused:
                await store.symbols(some(2000))
            assert refused.value.code == "QKD-LNK-SYMBOLS-LOST"
            assert it.meter.total("qkdd_link_symbols_lost_total") == 200
            assert it.meter.gauges["qkdd_link_symbols_margin_seconds", (("link", "a-b"),)] < -2000 / RATE
            with pytest.raises(SymbolsMissing):  # one of many is enough
                await store.symbols(np.array([5, (await it.made(made + 1)) - 1], np.int64))
            assert it.meter.total("qkdd_link_symbols_lost_total") == 201
            assert it.meter.total("qkdd_link_symbols_asked_total") == 202
            await store.stop()

    run(test)


def test_slots_that_have_not_gone_out_yet_are_refused_too() -> None:
    async def test() -> None:
        async with scene() as it:
            store = it.store()
            await store.start()
            with pytest.raises(SymbolsMissing):
                await store.symbols(np.array([1 << 40], np.int64))
            await store.stop()

    run(test)


def test_an_answer_that_comes_too_late_is_no_answer_to_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with scene() as it:
            store = it.store()
            await store.start()
            await it.made(8000)
            with monkeypatch.context() as patch:
                patch.setattr(board_driver, "ANSWER", 0.1)
                it.sim.inject("late", seconds=0.4)
                with pytest.raises(errors.DeviceTimeout):
                    await store.symbols(some(4000))
                it.sim.inject("clear")
            for low in (0, 2000, 4000):  # the late one comes in between
                slots = some(low + 2000, low)
                it.right(slots, await store.symbols(slots))
                await asyncio.sleep(0.15)
            assert it.meter.total("qkdd_device_errors_total", code="QKD-DEV-TIMEOUT") >= 1
            await store.stop()

    run(test)


def test_a_line_that_loses_answers_gives_right_symbols_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_driver, "ANSWER", 0.3)

    async def test() -> None:
        async with scene() as it:
            store = it.store()
            await store.start()
            await it.made(8000)
            it.sim.inject("drop", every=3)
            outcomes = []
            for low in range(0, 6000, 1000):
                slots = some(low + 1000, low)
                try:
                    it.right(slots, await it.driver.ask_symbols(slots) and await store.symbols(slots))
                    outcomes.append("right")
                except errors.DeviceTimeout:
                    outcomes.append("refused")
            assert "refused" in outcomes
            it.sim.inject("clear")
            await it.driver.stop_symbols()

    run(test)


def test_after_a_reconnect_no_slot_of_the_old_stream_is_answered_from_the_new_one() -> None:
    async def test() -> None:
        async with scene() as it:
            old = it.store()
            await old.start()
            await it.made(6000)
            slots = some(3000)
            it.right(slots, await old.symbols(slots))
            it.sim.inject("unplug")
            with pytest.raises(errors.DeviceError) as gone:
                await old.symbols(some(6000, 3000))
            assert gone.value.code in ("QKD-DEV-OFFLINE", "QKD-DEV-TIMEOUT")
            await it.driver.close()
            it.sim.inject("plug")
            await it.driver.open()
            with pytest.raises(errors.CommandRefused, match="no stream runs"):
                await old.symbols(slots)
            assert isinstance(await old.failed(), errors.DeviceError), "the old run ends"
            it.sent.clear()  # no stream runs: whatever is made from here on is the new one's
            new = it.store()
            await new.start()
            await it.made(2000)
            slots = some(1500)
            it.right(slots, await new.symbols(slots))
            with pytest.raises(SymbolsMissing):  # a slot number of the old stream that the new one has not reached
                await new.symbols(np.array([10**9], np.int64))
            await new.stop()

    run(test)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000), st.sampled_from([1, 300, 10**5, 10**9]), st.integers(0, 10**12))
def test_questions_fit_into_frames_and_name_every_slot_once(count: int, step: int, first: int) -> None:
    count *= 13  # up to 65000
    gaps = np.random.default_rng(count).integers(1, step + 1, count)
    slots = first + np.cumsum(gaps).astype(np.int64)
    asked = s.demands(slots)
    assert all(len(one.encode()) <= MAX_PAYLOAD for one in asked)
    named = [gap_decode(one.gaps, one.count) + np.int64(one.base) for one in asked]
    assert np.array_equal(np.concatenate(named), slots)


def test_slots_far_apart_are_asked_for_in_several_questions() -> None:
    async def test() -> None:
        async with scene() as it:
            store = it.store()
            await store.start()
            await it.made(3000)
            far = np.concatenate([some(2000), 10**6 * np.arange(1, 40_000, dtype=np.int64)])
            found = await it.driver.ask_symbols(far)
            assert found.here.tolist() == [True] * 200 + [False] * (len(far) - 200)
            assert it.meter.total("qkdd_board_bytes_total", direction="to") > MAX_PAYLOAD
            await store.stop()

    run(test)
