"""Time tags as every room sees them: picoseconds on the tagger's own clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Stamp of the host when a tag stream began (the tagger's time zero, known to some milliseconds)."""

    wall: float  # seconds since the Unix epoch
    monotonic: float  # seconds of the injected clock


@dataclass(frozen=True, slots=True)
class TagBlock:
    """A stretch of a tag stream.

    times: int64[n], picoseconds since the stream's start, non-decreasing over the whole stream.
    channels: uint8[n], input of the click, 0-based; a click of several inputs at once is several rows of equal time.
    until: picoseconds; the stream is complete up to here, also when nothing clicked.
    lost: clicks lost in this stretch, told from the gap and the rate where the tagger does not count them; 0 when none.
    faults: stable codes of what went wrong in this stretch ("QKD-DEV-TAGS-LOST", …), empty when nothing did.
    reordered: clicks that came after a later one and were put into their place by the tagger's side (inputs of one tagger
        may overtake each other in its buffer); no fault, because nothing is missing.
    """

    times: NDArray[np.int64]
    channels: NDArray[np.uint8]
    until: int
    lost: int = 0
    faults: tuple[str, ...] = ()
    reordered: int = 0

    def __len__(self) -> int:
        return len(self.times)


def in_order(times: NDArray[np.int64], channels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8], int]:
    """Clicks of one buffer of a tagger sorted by time, and how many of them came after a later one.

    Stable: clicks of equal time stay in the order in which they came.
    """
    if len(times) < 2 or bool(np.all(times[1:] >= times[:-1])):
        return times, channels, 0
    order = np.argsort(times, kind="stable")
    late = int(np.count_nonzero(times < np.maximum.accumulate(times)))
    return times[order], channels[order], late
