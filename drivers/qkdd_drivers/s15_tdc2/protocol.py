"""`readevents7` of the S-Fifteen TDC2: its options, and a1 records (64 bits: time in 1/256 ns, flags, detector pattern).

Facts: the device fact sheet, section 3 (qcrypto's timestamp7 sources).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INPUTS = 4
DUMMY = 1 << 4
TIME_SHIFT = 10
TIME_BITS = 54
PS_PER_UNIT = (125, 32)  # 1000 / 256
WRAP_PS = (1 << TIME_BITS) * 125 // 32
"""The counter begins again after 19.5 hours."""

LOW_V, STEP_V, STEPS = -1.024, 0.75e-3, 4095
HIGH_V = LOW_V + STEP_V * STEPS
USUAL_V = -0.448
CANNOT_OPEN = 255
"""Exit code: minus one, the index of "cannot open device" in the program's table."""


def arguments(thresholds: tuple[float, ...], swapped: bool) -> list[str]:
    """Options for a binary stream: thresholds in volt, one for each input."""
    steps = ",".join(str(round((volts - LOW_V) / STEP_V)) for volts in thresholds)
    return ["-a1", *(["-X"] if swapped else []), "-t", steps]


def encode(
    times: NDArray[np.int64], patterns: NDArray[np.uint8], swapped: bool, dummy: NDArray[np.bool_] | None = None
) -> bytes:
    """a1 records of clicks at `times` (ps, non-negative); where `dummy` is set, a mark without a click."""
    ticks = (times // 125 * 32 + times % 125 * 32 // 125).astype(np.uint64) & np.uint64((1 << TIME_BITS) - 1)
    words = (ticks << np.uint64(TIME_SHIFT)) | (patterns & np.uint8(15)).astype(np.uint64)
    if dummy is not None:
        words[dummy] = (words[dummy] & ~np.uint64(15)) | np.uint64(DUMMY)
    if swapped:
        words = (words << np.uint64(32)) | (words >> np.uint64(32))
    return words.astype("<u8").tobytes()
