"""The real recordings beside the repository decode to the counts that their README gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qkdd import kernels

RECORDINGS = Path(__file__).parents[3] / "shared" / "data" / "timestamps"

pytestmark = [
    pytest.mark.recordings,
    pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings in ../shared/data/timestamps are not there"),
]


def counts(values: np.ndarray) -> dict[int, int]:
    return {int(v): int(n) for v, n in zip(*np.unique(values, return_counts=True), strict=True)}


def test_four_detector_calibration():
    times, patterns, dummies = kernels.decode_a1((RECORDINGS / "timestamp7_c1234.Aa1.ts").read_bytes(), False)
    assert len(times) == 2000
    assert not dummies.any()
    assert (np.diff(times) >= 0).all()
    assert (times[-1] - times[0]) / 1e9 == pytest.approx(0.93501, abs=5e-6)
    assert counts(patterns) == {1: 614, 2: 481, 4: 476, 8: 417, 9: 3, 6: 3, 10: 2, 3: 2, 5: 2}
    rows, channels = kernels.expand_patterns(times, patterns)
    assert len(rows) == len(channels) == 2000 + 12


def test_rollover_recording_in_legacy_order():
    times, patterns, dummies = kernels.decode_a1((RECORDINGS / "timestamp7_c14_rollover.Aa1fX.ts").read_bytes(), True)
    assert (len(times), int(dummies.sum())) == (1000, 138)
    assert counts(patterns[~dummies]) == {1: 431, 8: 431}
    assert (times.max() - times.min()) / 1e9 == pytest.approx(33.696, abs=5e-4)
    assert (np.diff(times) < 0).any()


def test_two_channels_in_legacy_order():
    times, patterns, dummies = kernels.decode_a1((RECORDINGS / "pys15_test.raw").read_bytes(), True)
    assert (len(times), int(dummies.sum())) == (185, 0)
    assert (np.diff(times) >= 0).all()
    assert counts(patterns) == {1: 103, 2: 82}
    assert (times[-1] - times[0]) / 1e9 == pytest.approx(992.66, abs=5e-3)


def test_coincidences_of_the_delayed_copy():
    """Channel 4 is a delayed copy of channel 1: one delay, and every click of the one finds the other's."""
    times, patterns, dummies = kernels.decode_a1((RECORDINGS / "timestamp7_c14_rollover.Aa1fX.ts").read_bytes(), True)
    one = np.sort(times[~dummies & (patterns == 1)])
    four = np.sort(times[~dummies & (patterns == 8)])
    histogram = kernels.delay_histogram(one, four, 0, 1000, 200_000)
    delay = int(histogram.argmax()) * 1000 + 500
    ia, ib = kernels.match_coincidences(one, four, 10_000, -float(delay), 0.0, 0)
    assert len(ia) >= 425
    assert (np.abs(four[ib] - delay - one[ia]) <= 5000).all()
