"""A single-photon detector: bias curve, dead time, afterpulses, jitter. No loop over events."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd_hil.physics.parameters import DetectorParameters

Times = NDArray[np.int64]  # ps
PS = 1e12


def _plateau(parameters: DetectorParameters, bias: float) -> float:
    return 0.5 * (1.0 + math.erf((bias - parameters.bias_onset) / parameters.bias_width))


def efficiency(parameters: DetectorParameters, bias: float) -> float:
    """Detection efficiency at `bias` (A): a sigmoid that saturates, the nominal efficiency at the nominal bias, zero
    when unbiased and when the wire has switched to its normal state."""
    if bias <= 0.0 or bias > parameters.bias_switch:
        return 0.0
    return min(1.0, parameters.efficiency * _plateau(parameters, bias) / _plateau(parameters, parameters.bias))


def dark_rate(parameters: DetectorParameters, bias: float) -> float:
    """Dark counts (1/s) at `bias` (A): exponential in the bias."""
    if bias <= 0.0 or bias > parameters.bias_switch:
        return 0.0
    return parameters.dark_counts * math.exp((bias - parameters.bias) / parameters.dark_fold)


def non_paralysable(times: Times, dead_time: int) -> Times:
    """Keep of sorted `times` those that a detector with a non-extending dead time (ps) registers; the first is kept.

    A click at least one dead time after its predecessor is always kept, so the stream falls into independent clusters;
    all clusters are walked at once, one kept click a round. Rounds = most kept clicks of a cluster (about three at a
    load of 2 %).
    """
    if len(times) < 2 or dead_time <= 0:
        return times
    close = np.diff(times) < dead_time
    if not close.any():
        return times
    keep = np.empty(len(times), dtype=np.bool_)
    keep[0] = True
    np.logical_not(close, out=keep[1:])
    head = keep.copy()
    front = np.flatnonzero(keep[:-1] & close)  # heads that have followers
    while front.size:
        front = np.searchsorted(times, times[front] + dead_time)
        front = front[front < len(times)]
        front = front[~head[front]]  # reached the next cluster: that one walks by itself
        keep[front] = True
    return times[keep]


@dataclass(frozen=True, slots=True)
class Gates:
    """Periods in which gated detectors are live: the k-th one lasts `width` ps about first + k · period (ps)."""

    first: int
    period: float
    width: int

    def _numbers(self, times: Times) -> NDArray[np.float64]:
        return (times - self.first) / self.period

    def _spans(self, begin: int, end: int) -> tuple[int, int]:
        return math.ceil((begin - self.first) / self.period), math.ceil((end - self.first) / self.period)

    def live_time(self, begin: int, end: int) -> float:
        """ps of the gates with a middle in [begin, end)."""
        low, high = self._spans(begin, end)
        return (high - low) * float(self.width)

    def pass_on(self, times: Times) -> Times:
        """Of `times` those inside a gate."""
        numbers = self._numbers(times)
        return times[np.abs(numbers - np.rint(numbers)) * self.period <= self.width / 2]

    def inside(self, count: int, begin: int, end: int, rng: np.random.Generator) -> Times:
        """`count` uniformly random times in the gates with a middle in [begin, end)."""
        low, high = self._spans(begin, end)
        if high <= low or count == 0:
            return np.empty(0, dtype=np.int64)
        middles = self.first + rng.integers(low, high, count) * self.period
        times: Times = np.rint(middles + self.width * (rng.random(count) - 0.5)).astype(np.int64)
        return times

    def next_middle(self, times: Times) -> Times:
        """The middle of the first gate that opens after each of `times`."""
        numbers = np.ceil(self._numbers(times + self.width // 2))
        return self.first + np.rint(numbers * self.period).astype(np.int64)


class DetectorState:
    """Turns arrivals into clicks, chunk after chunk; remembers the last click and afterpulses still to come.

    Afterpulses follow primary clicks only (no afterpulse of an afterpulse) and start a dead time of their own, so
    S = r (1 + p) / (1 + r tau) up to terms of order p r tau.
    """

    def __init__(self, parameters: DetectorParameters) -> None:
        self._parameters = parameters
        self._dead_time = round(parameters.dead_time * PS)
        self._delay = round(parameters.delay * PS)
        self._free_from = -(2**62)  # end of the last click's dead time
        self._pending: Times = np.empty(0, dtype=np.int64)

    def register(self, arrivals: Times, until: int, rng: np.random.Generator, gates: Gates | None = None) -> Times:
        """Clicks (unsorted by jitter, with the detector's delay) of `arrivals`, any order, all before `until` (ps) and
        not before the `until` of the call before. Sorts `arrivals` in place. gates: afterpulses wait for the next one."""
        p = self._parameters
        arrivals.sort()
        clicks = non_paralysable(arrivals[np.searchsorted(arrivals, self._free_from) :], self._dead_time)
        count = rng.binomial(len(clicks), p.afterpulse) if len(clicks) else 0
        if count or len(self._pending):
            parents = clicks[rng.integers(0, len(clicks), count)] if count else clicks[:0]
            wait = rng.exponential(p.afterpulse_time * PS, count)
            after = parents + self._dead_time + wait.astype(np.int64)
            if gates is not None:
                after = gates.next_middle(after)
            both = np.sort(np.concatenate([clicks, self._pending, after]))
            split = np.searchsorted(both, until)
            self._pending = both[split:]
            both = both[:split]
            clicks = non_paralysable(both[np.searchsorted(both, self._free_from) :], self._dead_time)
        if len(clicks):
            self._free_from = int(clicks[-1]) + self._dead_time
        jitter = rng.standard_normal(len(clicks), dtype=np.float32) * np.float32(p.jitter * PS)
        return clicks + (jitter.astype(np.int64) + self._delay)
