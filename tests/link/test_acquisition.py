"""The acquisition's memory and its account of what is missing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from qkdd_drivers.recordings import read_a1, read_tdc1_text

from qkdd.core.counters import RecordingMeter
from qkdd.device.tags import StreamStart, TagBlock
from qkdd.link.acquisition import Acquisition
from qkdd.link.errors import RegisterTimeout, TagsLost
from qkdd.testing.clock import FakeClock

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "timestamps"
CHANNELS = {"H": 0, "V": 1, "D": 2, "A": 3}


class Script:
    """A tagger that plays a list of blocks, then stays silent or fails."""

    resolution_ps, inputs = 2000, 4

    def __init__(self, blocks, failure=None):
        self._blocks, self._failure = list(blocks), failure

    async def start(self):
        return StreamStart(0.0, 0.0)

    async def read(self):
        await asyncio.sleep(0)
        if self._blocks:
            return self._blocks.pop(0)
        if self._failure is not None:
            raise self._failure
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    async def stop(self):
        pass


def tags(times, until, channels=None, **more):
    times = np.array(times, np.int64)
    channels = np.zeros(len(times), np.uint8) if channels is None else np.array(channels, np.uint8)
    return TagBlock(times, channels, until, **more)


def play(blocks, body, *, keep=10**12, channels=CHANNELS, failure=None):
    async def main():
        clock, meter = FakeClock(), RecordingMeter()
        acquisition = Acquisition(Script(blocks, failure), channels, clock, meter, "a-b", keep)
        await acquisition.start()
        await clock.settle()
        try:
            await body(acquisition, clock, meter)
        finally:
            await acquisition.stop()

    asyncio.run(main())


def test_stretches_are_cut_across_reads_and_channels_become_detectors():
    async def body(acquisition, clock, meter):
        clicks = acquisition.take(15, 45)
        assert clicks.times.tolist() == [20, 30, 40]
        assert clicks.detectors.tolist() == [0, 3, 1]  # input 7 is no detector of this link
        assert meter.total("qkdd_link_clicks_total") == 5

    play(
        [tags([10, 20], 25, [4, 5]), tags([30, 35, 40, 50], 60, [2, 7, 4, 5])],
        body,
        channels={"H": 5, "V": 4, "D": 3, "A": 2},
    )


@pytest.mark.parametrize(
    "bad",
    [
        tags([30], 60, lost=3),
        tags([30], 60, faults=("QKD-DEV-TAGS-LOST",)),
        tags([30], 10),  # the stream went backwards
        tags([50, 40], 60),  # out of order
        tags([5], 60),  # earlier than the last read
        tags([99], 60),  # later than its own end
    ],
)
def test_a_stretch_with_missing_or_doubtful_tags_is_refused_and_later_ones_are_not(bad):
    async def body(acquisition, clock, meter):
        with pytest.raises(TagsLost):
            acquisition.take(25, 40)
        assert acquisition.take(100, 150).times.tolist() == [120]
        assert acquisition.take(0, 20).times.tolist() == [10]
        assert meter.total("qkdd_link_tags_lost_total") >= 1

    play([tags([10], 25), bad, tags([], 90), tags([120], 200)], body)


def test_the_memory_is_bounded_and_what_was_dropped_is_refused():
    async def body(acquisition, clock, meter):
        assert acquisition.dropped == 2
        with pytest.raises(TagsLost, match="too old"):
            acquisition.take(10, 30)
        assert acquisition.take(300, 420).times.tolist() == [310, 410]

    play([tags([10], 100), tags([110], 200), tags([210], 300), tags([310], 400), tags([410], 500)], body, keep=280)


def test_released_clicks_are_not_counted_as_dropped():
    async def body(acquisition, clock, meter):
        acquisition.release(250)
        assert acquisition.dropped == 0
        assert acquisition.take(250, 420).times.tolist() == [310, 410]
        with pytest.raises(TagsLost):
            acquisition.take(10, 30)

    play([tags([10, 110], 200), tags([310], 400), tags([410], 500)], body)


def test_waiting_for_a_stream_that_does_not_come_times_out_on_the_injected_clock():
    async def body(acquisition, clock, meter):
        waiting = asyncio.create_task(acquisition.wait_until(10**12, 5.0))
        await clock.advance(4.9)
        assert not waiting.done()
        await clock.advance(0.2)
        with pytest.raises(RegisterTimeout):
            await waiting

    play([tags([10], 100)], body)


def test_a_failing_tagger_reaches_those_who_wait():
    failure = TagsLost("stands for a device error")

    async def body(acquisition, clock, meter):
        assert await acquisition.failed() is failure
        with pytest.raises(TagsLost, match="stands for"):
            await acquisition.wait_until(10**12, 5.0)

    play([tags([10], 100)], body, failure=failure)


def test_position_follows_the_stream_between_reads():
    async def body(acquisition, clock, meter):
        await clock.advance(0.25)
        assert acquisition.position() == pytest.approx(100 + 0.25e12)

    play([tags([10], 100)], body)


# clicks per input, as the README of the recordings counts them; the a1 word order (None: text of a TDC1)
RECORDINGS = {
    "timestamp7_c1234.Aa1.ts": ([614 + 3 + 2 + 2, 481 + 3 + 2 + 2, 476 + 3 + 2, 417 + 3 + 2], False),
    "timestamp7_c14_rollover.Aa1fX.ts": ([431, 0, 0, 431], True),
    "pys15_test.raw": ([103, 82, 0, 0], True),
    "tdc1_periodic_500ns.txt": ([70_000, 0, 0, 0], None),
}


def reads(block: TagBlock, count: int) -> list[TagBlock]:
    """The recording as a tagger gives it: `count` reads of equal time."""
    ends = [block.until * k // count for k in range(1, count)] + [block.until]
    cuts = [0, *np.searchsorted(block.times, ends, side="right")]
    return [
        TagBlock(block.times[first:last], block.channels[first:last], end)
        for first, last, end in zip(cuts[:-1], cuts[1:], ends, strict=True)
    ]


@pytest.mark.recordings
@pytest.mark.skipif(not FOLDER.is_dir(), reason="the recordings in ../shared/data/timestamps are not there")
@pytest.mark.parametrize("count", [1, 17])
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_passes_through_the_acquisition(name: str, count: int) -> None:
    per_detector, swapped = RECORDINGS[name]
    path = FOLDER / name
    block = read_tdc1_text(path) if swapped is None else read_a1(path, swapped=swapped)

    async def main() -> None:
        meter, clock = RecordingMeter(), FakeClock()
        acquisition = Acquisition(Script(reads(block, count)), CHANNELS, clock, meter, "a-b", 10**15)
        await acquisition.start()
        await clock.settle()
        try:
            clicks = acquisition.take(0, block.until + 1)
            assert np.bincount(clicks.detectors, minlength=4).tolist() == [
                per_detector[CHANNELS[detector]] for detector in ("H", "V", "D", "A")
            ]
            assert bool(np.all(np.diff(clicks.times) >= 0))
            assert meter.total("qkdd_link_clicks_total") == sum(per_detector)
            assert meter.total("qkdd_link_tags_lost_total") == 0
            assert acquisition.dropped == 0
        finally:
            await acquisition.stop()

    asyncio.run(main())
