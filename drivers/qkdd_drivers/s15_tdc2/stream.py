"""From the bytes of an a1 stream to blocks of tags: whole records, one time base, in order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.device.errors import TagsSlipped
from qkdd.device.tags import TagBlock, in_order
from qkdd_drivers.s15_tdc2.protocol import WRAP_PS

_HOLD = 1_000_000  # ps; clicks this close to the end wait for ones that overtake them
_STALE = 10**12  # ps; a first record that is so far from the second belongs to an earlier run
_JUMP = 60 * 10**12  # ps; a step forward that no stream with marks makes
_BACK = 10**9  # ps; a step back that is no disorder between inputs


class A1Stream:
    """One stream. `feed` takes bytes as they come; times count from the first record."""

    def __init__(self, swapped: bool) -> None:
        self._swapped = swapped
        self._rest = b""
        self._origin: int | None = None
        self._last = 0  # ps on the tagger's counter, the wraps put in
        self._wraps = 0
        self._until = 0
        self._times: NDArray[np.int64] = np.empty(0, np.int64)
        self._channels: NDArray[np.uint8] = np.empty(0, np.uint8)

    def feed(self, data: bytes) -> TagBlock:
        """The clicks that are now complete."""
        if self._rest:
            data = self._rest + data
        whole = len(data) // 8 * 8
        self._rest = data[whole:]
        times, patterns, dummies = kernels.decode_a1(memoryview(data)[:whole], self._swapped)
        void = (times == 0) & (patterns == 0) & ~dummies
        if bool(void.any()):  # empty returns of the USB chip
            times, patterns, dummies = times[~void], patterns[~void], dummies[~void]
        if self._origin is None:
            # the first record may be left over from an earlier run: it takes a second one to tell
            if len(times) < 2:
                self._rest = data
                return self._empty()
            if (int(times[1]) - int(times[0])) % WRAP_PS > _STALE:  # between them the counter may wrap
                times, patterns, dummies = times[1:], patterns[1:], dummies[1:]
            self._origin = self._last = int(times[0])
        if not len(times):
            return self._empty()
        times, slipped = self._unwrapped(times)
        faults = (TagsSlipped.code,) if slipped else ()
        reached = max(self._until, int(times.max()) - self._origin)
        if bool(dummies.any()):
            times, patterns = times[~dummies], patterns[~dummies]
        stamps, channels = _expanded(times - self._origin, patterns)
        if len(self._times):
            stamps, channels = np.concatenate((self._times, stamps)), np.concatenate((self._channels, channels))
        stamps, channels, late = in_order(stamps, channels)
        if slipped:  # time does not run back behind what was given out
            fresh = stamps > self._until
            stamps, channels = stamps[fresh], channels[fresh]
        self._until = max(self._until, reached - _HOLD)
        cut = int(np.searchsorted(stamps, self._until, side="right"))
        self._times, self._channels = stamps[cut:], channels[cut:]
        return TagBlock(stamps[:cut], channels[:cut], self._until, faults=faults, reordered=late)

    @property
    def partial(self) -> int:
        """Bytes of a record that is not whole yet."""
        return len(self._rest) % 8

    def finish(self) -> TagBlock:
        """The clicks that still waited for others to overtake them."""
        times, channels = self._times, self._channels
        self._times, self._channels = times[:0], channels[:0]
        if len(times):
            self._until = int(times[-1])
        return TagBlock(times, channels, self._until)

    def _unwrapped(self, times: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
        """Times with the counter's wraps put in, and whether they jump as no clock does."""
        if self._wraps:
            times = times + self._wraps * WRAP_PS
        first = int(times[0]) - self._last
        if first < -(WRAP_PS // 2):
            times = times + WRAP_PS
            self._wraps += 1
            first += WRAP_PS
        low, high = _extremes(times)
        if low < -(WRAP_PS // 2):
            wraps = np.diff(times, prepend=times[:1]) < -(WRAP_PS // 2)
            times = times + np.cumsum(wraps) * WRAP_PS
            self._wraps += int(np.count_nonzero(wraps))
            low, high = _extremes(times)
        self._last = int(times[-1])
        return times, min(low, first) < -_BACK or max(high, first) > _JUMP

    def _empty(self) -> TagBlock:
        return TagBlock(np.empty(0, np.int64), np.empty(0, np.uint8), self._until)


def _extremes(times: NDArray[np.int64]) -> tuple[int, int]:
    """The largest steps back and forward."""
    if len(times) < 2:
        return 0, 0
    steps = times[1:] - times[:-1]
    return int(steps.min()), int(steps.max())


_SEVERAL = 255
_SINGLE = np.full(256, _SEVERAL, np.uint8)
_SINGLE[[1, 2, 4, 8]] = range(4)


def _expanded(times: NDArray[np.int64], patterns: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """`kernels.expand_patterns`, with less work where every click is on one input."""
    channels = _SINGLE[patterns]
    if len(channels) and int(channels.max()) == _SEVERAL:
        return kernels.expand_patterns(times, patterns)
    return times, channels
