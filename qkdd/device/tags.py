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
    lost: clicks known to be lost in this stretch (a lower bound); 0 when none.
    faults: stable codes of what went wrong in this stretch ("QKD-DEV-TAGS-LOST", …), empty when nothing did.
    """

    times: NDArray[np.int64]
    channels: NDArray[np.uint8]
    until: int
    lost: int = 0
    faults: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times)
