"""The tag stream of a TDC1: pieces of any size, wraps, dummies, slipped bytes, lost records (fact sheet section 2)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qkdd_drivers.s15_tdc1 import protocol
from qkdd_drivers.s15_tdc1 import stream as tdc1_stream
from qkdd_drivers.s15_tdc1.stream import TagStream, Words

from qkdd.device.tags import TagBlock

LOST, SLIPPED = "QKD-DEV-TAGS-LOST", "QKD-DEV-TAGS-SLIPPED"
WRAP_PS = protocol.WRAP_UNITS * protocol.UNIT_PS


def clicks(rng: np.random.Generator, count: int, rate: float) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Poisson clicks, at most one in a counter step."""
    times = np.cumsum(rng.exponential(1e12 / rate, count)).astype(np.int64) // 2000 * 2000 + 2000 * np.arange(count)
    return times, rng.integers(0, 4, count, dtype=np.uint8)


def play(data: bytes, sizes: list[int], rate: float) -> list[TagBlock]:
    stream, blocks, position, index = TagStream(), [], 0, 0
    while position < len(data):
        size = sizes[index % len(sizes)]
        piece = data[position : position + size]
        position += size
        index += 1
        blocks.append(stream.feed(piece, position / 4 / rate))
    return blocks


def joined(blocks: list[TagBlock]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    return np.concatenate([b.times for b in blocks]), np.concatenate([b.channels for b in blocks])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([30.0, 3e3, 4e5, 5e6]),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6),
)
@example(seed=7254, rate=30.0, sizes=[1])  # records were given out again when the search for a place ended
@example(seed=3848090812, rate=30.0, sizes=[5])  # a rate taken from too few records made a healthy gap a loss
@example(seed=7254, rate=4e5, sizes=[1])
def test_any_cutting_of_a_healthy_stream_gives_every_click_once(seed: int, rate: float, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    times, channels = clicks(rng, 400, rate)
    words, last = [], int(times[0])
    for time, channel in zip(times, channels, strict=True):
        while time - last > protocol.DUMMY_UNITS * 2000:
            last += protocol.DUMMY_UNITS * 2000
            words.append(protocol.dummy(last))
        words.append(protocol.encode(np.array([time]), np.array([channel])))
        last = int(time)
    blocks = play(np.concatenate(words).tobytes(), sizes, rate)
    found, inputs = joined(blocks)
    assert np.array_equal(found, times - times[0])
    assert np.array_equal(inputs, channels)
    assert not any(b.faults or b.lost for b in blocks)
    assert blocks[-1].until == times[-1] - times[0]


def test_until_advances_with_dummies_when_nothing_clicks() -> None:
    stream = TagStream()
    moments = [k * protocol.DUMMY_UNITS * 2000 for k in range(30)]
    blocks = [stream.feed(protocol.dummy(t).tobytes(), t * 1e-12) for t in moments]
    assert [b.until for b in blocks] == moments
    assert all(len(b) == 0 and not b.faults for b in blocks)


def test_clicks_of_several_inputs_in_one_step_are_rows_of_equal_time() -> None:
    words = np.array([5 << 5 | 0b1, 9 << 5 | 0b1011, 10 << 5 | 0b100], "<u4")
    block = TagStream().feed(words.tobytes(), 0.0)
    assert block.times.tolist() == [0, 8000, 8000, 8000, 10000]
    assert block.channels.tolist() == [0, 0, 1, 3, 2]


def test_void_words_are_no_fault() -> None:
    times, channels = clicks(np.random.default_rng(1), 5000, 4e5)
    words = np.insert(protocol.encode(times, channels), [100, 2000, 2000], 0)
    block = TagStream().feed(words.tobytes(), 0.0)
    assert len(block) == 5000
    assert not block.faults


@pytest.mark.parametrize("change", [-3, -2, -1, 1, 2, 3, 64, 333])
@pytest.mark.parametrize("rate", [2e4, 4e5, 3e6])
def test_slipped_bytes_are_reported_and_hardly_anything_else_is_lost(change: int, rate: float) -> None:
    """change < 0: so many bytes vanish; > 0: so many random bytes are inserted."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        count = 60_000
        times, channels = clicks(rng, count, rate)
        data = protocol.encode(times, channels).tobytes()
        cut = int(rng.integers(40_000, 200_000))
        data = data[:cut] + (rng.bytes(change) if change > 0 else b"") + data[cut + max(0, -change) :]
        blocks = play(data, rng.integers(1, 60_000, 20).tolist(), rate)
        found, _ = joined(blocks)
        assert any(SLIPPED in b.faults for b in blocks) or change % 4 == 0
        assert any(b.faults for b in blocks)
        assert sum(b.lost for b in blocks) >= 1
        assert count - len(found) < 1500
        assert np.all(np.diff(found) >= 0)
        error = blocks[-1].until - (times[-1] - times[0])
        assert error % WRAP_PS == 0, "after the fault the stream may be whole wraps off, never a fraction"
        assert blocks[-1].faults == ()


@pytest.mark.parametrize("missing", [10_000, 60_000])
def test_lost_records_are_reported(missing: int) -> None:
    rng = np.random.default_rng(3)
    rate = 4e5
    times, channels = clicks(rng, 200_000, rate)
    words = protocol.encode(times, channels)
    data = np.delete(words, slice(70_000, 70_000 + missing)).tobytes()
    blocks = play(data, [40_000], rate)
    assert any(LOST in b.faults for b in blocks)
    assert not any(SLIPPED in b.faults for b in blocks)
    assert 0.5 * missing < sum(b.lost for b in blocks) <= missing


def test_a_shutter_is_no_loss() -> None:
    rng = np.random.default_rng(4)
    bright, _ = clicks(rng, 50_000, 4e5)
    dark, _ = clicks(rng, 300, 500.0)
    again, _ = clicks(rng, 50_000, 4e5)
    times = np.concatenate((bright, bright[-1] + dark, bright[-1] + dark[-1] + again))
    blocks = play(protocol.encode(times, np.zeros(len(times), np.uint8)).tobytes(), [30_000], 4e5)
    assert not any(b.faults for b in blocks)
    assert len(joined(blocks)[0]) == len(times)


def test_a_missed_wrap_is_repaired_by_the_host_clock_and_reported() -> None:
    """Ten seconds of records are missing: the counter alone cannot tell how many wraps that were."""
    rng = np.random.default_rng(5)
    rate = 1e5
    times, channels = clicks(rng, 1_500_000, rate)
    words = protocol.encode(times, channels)
    stream, blocks = TagStream(), []
    for start in range(0, len(words), 5000):
        if not 200_000 <= start < 1_200_000:
            blocks.append(
                stream.feed(words[start : start + 5000].tobytes(), times[min(start + 5000, len(times) - 1)] * 1e-12)
            )
    assert any(LOST in b.faults for b in blocks)
    assert abs(blocks[-1].until - (times[-1] - times[0])) < 0.5 * WRAP_PS


def test_a_host_that_does_not_keep_up_for_a_while_misses_no_wrap() -> None:
    """It stood still for 0.6 s and needs two more to read what waits: late, but nothing of it is lost."""
    times, channels = clicks(np.random.default_rng(5), 800_000, 1e5)
    words = protocol.encode(times, channels)
    stream, blocks = TagStream(), []
    for start in range(0, len(words), 2000):
        made = times[min(start + 2000, len(times) - 1)] * 1e-12
        late = float(np.interp(made, [3.0, 3.001, 4.5, 5.0], [0.0, 0.6, 0.25, 0.0]))  # s
        blocks.append(stream.feed(words[start : start + 2000].tobytes(), made + late))
    assert not any(b.faults for b in blocks)
    assert abs(blocks[-1].until - (times[-1] - times[0])) < WRAP_PS // 100


def test_garbage_for_ever_never_looks_like_tags_without_a_fault() -> None:
    rng = np.random.default_rng(6)
    times, channels = clicks(rng, 50_000, 4e5)
    stream = TagStream()
    stream.feed(protocol.encode(times, channels).tobytes(), 0.0)
    flagged = 0
    for step in range(40):
        block = stream.feed(rng.bytes(80_000), 0.05 * step)
        flagged += bool(block.faults) or not stream.aligned
    assert flagged == 40


def test_a_backlog_with_many_gaps_costs_work_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searching all that waits after each gap, the daemon stood still for minutes over a few seconds of clicks."""
    looked = 0
    plausible = tdc1_stream._plausible

    def counted(steps: NDArray[np.int64], before: Words, words: Words, limit: int) -> NDArray[np.bool_]:
        nonlocal looked
        looked += len(steps)
        return plausible(steps, before, words, limit)

    monkeypatch.setattr(tdc1_stream, "_plausible", counted)
    rng = np.random.default_rng(1)
    times, channels = clicks(rng, 200_000, 4e5)
    times += 100_000_000_000 * (
        np.arange(len(times)) // 2000
    )  # 0.1 s after every 2000 clicks: no dummies, records are missing
    data = np.asarray(protocol.encode(times, channels)).tobytes()
    blocks = play(data, [4000, len(data)], 4e5)
    assert LOST in {fault for block in blocks for fault in block.faults}
    assert len(joined(blocks)[0]) == len(times)
    assert looked < 20 * len(times)
