"""T2 records: writing them (simulator, PTU files), and reading them in plain numpy, which the kernels' decoder is tested against.

32 bits: special (1), channel (6), time tag (25). Photon: special 0, channel = input from 0. Special: channel 63 is an overflow
whose tag counts the wraps of 2^25 units, 0 is a click of the sync input, 1 to 15 are markers (PicoQuant, "Unified TTTR file
format", record type Generic T2 0x10207; HydraHarp V2 alike).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WRAP = 1 << 25
_SPECIAL = np.uint32(1 << 31)
_OVERFLOW = np.uint32((1 << 31) | (63 << 25))

Words = NDArray[np.uint32]


class Encoder:
    """Clicks of one stream as records; the state is the number of wraps written so far."""

    def __init__(self, resolution_ps: float) -> None:
        self._resolution = resolution_ps
        self._wraps = 0

    def encode(self, times: NDArray[np.int64], channels: NDArray[np.uint8], until: int) -> Words:
        """Records of clicks at `times` (ps since the stream's start, non-decreasing); channels: 0 the sync input, n input n.

        A last overflow record says that the stream is complete up to `until` ps, to one wrap.
        """
        units = (times / self._resolution).astype(np.int64) if self._resolution != 1 else times
        wraps = units // WRAP
        steps = np.diff(wraps, prepend=self._wraps)
        places = np.flatnonzero(steps)
        which = np.where(channels > 0, (channels.astype(np.uint32) - np.uint32(1)) << np.uint32(25), _SPECIAL)
        records = which | (units % WRAP).astype(np.uint32)
        records = np.insert(records, places, _OVERFLOW | steps[places].astype(np.uint32))
        reached = int(wraps[-1]) if len(wraps) else self._wraps
        self._wraps = max(reached, int(until / self._resolution) // WRAP)
        if self._wraps > reached:
            records = np.append(records, _OVERFLOW | np.uint32(self._wraps - reached))
        return np.asarray(records, np.uint32)


def decode(records: Words, wraps: int = 0) -> tuple[NDArray[np.int64], NDArray[np.uint8], int]:
    """Times in units, channels (0 the sync input, else the input's number from 1), and the wraps after the last record."""
    special = (records & _SPECIAL) != 0
    channel = ((records >> np.uint32(25)) & np.uint32(63)).astype(np.int64)
    tag = (records & np.uint32(WRAP - 1)).astype(np.int64)
    overflow = special & (channel == 63)
    total = wraps + np.cumsum(np.where(overflow, tag, 0))
    click = ~special | (special & (channel == 0))
    numbers = np.where(special, 0, channel + 1)
    return (total * WRAP + tag)[click], numbers[click].astype(np.uint8), int(total[-1]) if len(records) else wraps
