"""Real recordings (opt-in: ../shared/data) and the parsers for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from qkdd_drivers.recordings import read_a1, read_tdc1_text
from qkdd_drivers.s15_tdc1 import protocol
from qkdd_drivers.s15_tdc1.stream import TagStream

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "timestamps"
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the recordings in ../shared/data/timestamps are not there")


@pytest.mark.recordings
@here
def test_tdc1_text_has_the_counts_of_its_readme() -> None:
    block = read_tdc1_text(FOLDER / "tdc1_periodic_500ns.txt")
    assert len(block) == 70_000
    assert set(block.channels) == {0}
    steps = Counter(np.diff(block.times).tolist())
    assert (steps[500_000], steps[502_000], steps[498_000]) == (68_347, 1_196, 445)


@pytest.mark.recordings
@here
def test_the_recording_survives_the_way_through_the_wire_format() -> None:
    block = read_tdc1_text(FOLDER / "tdc1_periodic_500ns.txt")
    stream = TagStream()
    data = protocol.encode(block.times, block.channels).tobytes()
    parts = [stream.feed(data[start : start + 5001], 0.0) for start in range(0, len(data), 5001)]
    # the file joins seven runs with different phases of the counter: their borders are long steps, which are reported
    assert sum(len(part.faults) for part in parts) <= 6
    assert np.array_equal(np.concatenate([part.times for part in parts]), block.times)


@pytest.mark.recordings
@here
@pytest.mark.parametrize(
    ("name", "swapped", "clicks", "span_ms"),
    [
        ("timestamp7_c1234.Aa1.ts", False, 2000 + 12, 0.93501),  # twelve events on two inputs at once
        ("timestamp7_c14_rollover.Aa1fX.ts", True, 431 * 2, 33.7),
        ("pys15_test.raw", True, 185, 992.66),
    ],
)
def test_a1_recordings_have_the_counts_of_their_readme(name: str, swapped: bool, clicks: int, span_ms: float) -> None:
    block = read_a1(FOLDER / name, swapped=swapped)
    assert len(block) == clicks
    assert np.all(np.diff(block.times) >= 0)
    assert block.until * 1e-9 == pytest.approx(span_ms, rel=0.02)
    assert block.reordered == (38 if "rollover" in name else 0)  # 38 records were written after a later one


def test_a_damaged_text_dump_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "dump.txt"
    path.write_text("0\t0\t0\t0\t1\t500\n0\t0\t0\t2\t1\t400\n")
    with pytest.raises(ValueError, match=":2:"):
        read_tdc1_text(path)


def test_a_cut_a1_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.ts"
    path.write_bytes(bytes(12))
    with pytest.raises(ValueError, match="whole number"):
        read_a1(path, swapped=False)
