"""S-Fifteen TDC2: contract suite, and a1 streams cut in every way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qkdd_drivers.recordings import read_a1
from qkdd_drivers.s15_tdc1.sim import PoissonClicks
from qkdd_drivers.s15_tdc2 import protocol
from qkdd_drivers.s15_tdc2.driver import Tdc2
from qkdd_drivers.s15_tdc2.sim import Tdc2Sim
from qkdd_drivers.s15_tdc2.stream import A1Stream

from qkdd.device import errors
from qkdd.device.tags import TagBlock
from qkdd.testing.contract import DriverContract, SimulatorLike


class TestTdc2(DriverContract):
    driver = Tdc2
    driver_name = "s15_tdc2"

    def simulator(self) -> SimulatorLike:
        return Tdc2Sim(PoissonClicks(2000, 1))

    async def exercise(self, driver: Any) -> None:
        await driver.set("threshold", -0.3)
        await driver.start()
        seen = 0
        for _ in range(40):
            seen += len(await driver.read())
            if seen > 20:
                break
        assert seen > 20
        await driver.ping()
        await driver.stop()
        await driver.ping()


async def _read_on(driver: Any) -> None:
    for _ in range(100):
        await driver.read()


def test_a_program_that_is_not_there_has_a_remedy() -> None:
    async def scene(_: SimulatorLike, __: Any) -> None:
        place = type("Place", (), {"port": "", "host": "", "tcp_ports": (), "program": ("/nonexistent/readevents7",)})
        error = await TestTdc2().attempt(TestTdc2().make(place()))
        assert isinstance(error, errors.VendorUnusable)
        assert "program" in str(error.remedy)

    TestTdc2().run(scene)


def test_a_program_that_dies_in_the_middle_of_a_stream_is_told_with_its_last_words() -> None:
    async def scene(simulator: SimulatorLike, address: Any) -> None:
        driver: Any = TestTdc2().make(address)
        async with driver:
            await driver.start()
            while not len(await driver.read()):
                pass
            simulator.inject("unplug")
            with pytest.raises(errors.DeviceCrashed, match="the device went away"):
                await _read_on(driver)

    TestTdc2().run(scene)


def _all(blocks: list[TagBlock]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.concatenate([b.times for b in blocks]), np.concatenate([b.channels for b in blocks])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans())
def test_a_stream_cut_anywhere_gives_the_same_clicks(data: st.DataObject, swapped: bool) -> None:
    steps = data.draw(st.lists(st.integers(4, 10**10), min_size=3, max_size=60))
    patterns = np.array(data.draw(st.lists(st.integers(1, 15), min_size=len(steps), max_size=len(steps))), np.uint8)
    first = data.draw(st.sampled_from([0, 10**9, protocol.WRAP_PS - 10**10]))  # the last one wraps in the middle
    times = np.cumsum(np.array(steps, np.int64)) + first
    raw = protocol.encode(times, patterns, swapped)
    end = protocol.encode(times[-1:] + 10**12, np.zeros(1, np.uint8), swapped, np.ones(1, np.bool_))
    stream, blocks, at = A1Stream(swapped), [], 0
    whole = raw + end
    while at < len(whole):
        size = data.draw(st.integers(1, 200))
        blocks.append(stream.feed(whole[at : at + size]))
        at += size
    found, _ = _all(blocks)
    assert not [code for block in blocks for code in block.faults]
    assert np.all(np.diff(found) >= 0)
    assert len(found) == sum(int(p).bit_count() for p in patterns)
    wanted = np.repeat(times - times[0], [int(p).bit_count() for p in patterns])
    assert np.max(np.abs(found - wanted)) <= 4  # one unit is 3.9 ps
    assert blocks[-1].until >= int(wanted[-1])


def test_the_counter_may_wrap_between_the_first_two_records() -> None:
    """The first of them is no left-over of an earlier run."""
    times = np.array([protocol.WRAP_PS - 10**9, protocol.WRAP_PS + 10**9, protocol.WRAP_PS + 10**12], np.int64)
    stream = A1Stream(False)
    blocks = [stream.feed(protocol.encode(times, np.ones(3, np.uint8), False)), stream.finish()]
    assert _all(blocks)[0] == pytest.approx(times - times[0], abs=4)


def test_overtaking_inputs_are_put_into_their_place_across_reads() -> None:
    stream = A1Stream(False)
    times = np.array([10**9, 2 * 10**9, 2 * 10**9 + 500, 2 * 10**9 + 100], np.int64)
    raw = protocol.encode(times, np.array([1, 2, 4, 8], np.uint8), False)
    later = protocol.encode(times[-1:] + 10**10, np.ones(1, np.uint8), False)
    blocks = [stream.feed(part) for part in (raw[:24], raw[24:], later)]
    found, channels = _all(blocks)
    assert list(channels) == [0, 1, 3, 2]
    assert np.all(np.diff(found) >= 0)
    assert sum(block.reordered for block in blocks) == 1


def test_a_stale_first_record_does_not_spoil_the_time_base() -> None:
    times = np.array([7 * 10**15, 10**9, 3 * 10**9, 10**12], np.int64)
    block = A1Stream(False).feed(protocol.encode(times, np.ones(4, np.uint8), False))
    assert list(block.times) == [0, 2 * 10**9]
    assert not block.faults


def test_a_stream_that_jumps_is_reported() -> None:
    stream = A1Stream(False)
    good = np.arange(1, 50, dtype=np.int64) * 10**9
    assert not stream.feed(protocol.encode(good, np.ones(49, np.uint8), False)).faults
    jump = stream.feed(protocol.encode(good + 10**15, np.ones(49, np.uint8), False))
    assert jump.faults == (errors.TagsSlipped.code,)


FOLDER = Path(__file__).parents[3] / "shared" / "data" / "timestamps"


@pytest.mark.recordings
@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there")
@pytest.mark.parametrize(
    ("name", "swapped"), [("timestamp7_c1234.Aa1.ts", False), ("timestamp7_c14_rollover.Aa1fX.ts", True)]
)
def test_a_real_recording_gives_the_same_clicks_as_a_stream_and_as_a_file(name: str, swapped: bool) -> None:
    whole = read_a1(FOLDER / name, swapped=swapped)
    stream = A1Stream(swapped)
    raw = (FOLDER / name).read_bytes()
    blocks = [stream.feed(raw[at : at + 1000]) for at in range(0, len(raw), 1000)]
    found, channels = _all(blocks)
    assert np.array_equal(found - found[0], whole.times[: len(found)] - whole.times[0])
    assert np.array_equal(channels, whole.channels[: len(found)])
    assert len(whole) - len(found) < 10  # what lies within the last microsecond waits for more


def test_encoded_thresholds_are_the_steps_of_the_fact_sheet() -> None:
    assert protocol.arguments((-0.448, -1.024, protocol.HIGH_V, 0.0), True) == ["-a1", "-X", "-t", "768,0,4095,1365"]
    assert sys.maxsize > protocol.WRAP_PS
