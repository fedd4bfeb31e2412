"""Bob's side of a pulsed link: his clicks, all of them, into numbered slots, while the transmitter's clock is followed.

Detections wait here until a block takes them. What a tagger lost, or a stretch whose clock was lost, spoils the slots that it
touches and nothing else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.link.acquisition import Acquisition
from qkdd.link.config import DETECTORS, SLOT_BINS, LinkConfig
from qkdd.link.errors import AlignmentFailed, LinkConfigError, LockLost, SlotSlip, TagsLost
from qkdd.link.pulse_clock import PulseClock, recover

_SLACK = 10.0  # seconds that a tag stream may lag before a block is given up
_STEP_PS = 250_000_000_000  # how much of the stream is taken at a time
_GAIN_PHASE, _GAIN_RATE, _CONTRAST = 0.4, 0.08, 0.1
_PIECE_S = 0.02  # seconds of clicks that one measurement of the phase wants
_PIECE_CLICKS = (256, 4096)
_SLIP = 0.2  # slots: a phase that jumps so far within a piece may have jumped by more
_DELAY_SPAN_PS = 10_000_000_000  # about the moment for which the clock was found
_DELAY_CLICKS, _DELAY_CONTRAST = 100, 0.3
_FOLLOWED_MIN = 0.8  # share of a block's pieces whose phase must have been seen


@dataclass(frozen=True, slots=True)
class Tracking:
    """How well a block's clock was followed. phase: mean error, worst: largest, in slots. contrast: mean, 0 to 1."""

    phase: float
    worst: float
    contrast: float
    pieces: int


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Events of a stretch of slots. slots: int64[n], strictly rising. patterns: uint8[n], bit d = detector d (H V D A)."""

    slots: NDArray[np.int64]
    patterns: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.slots)

    def wipe(self) -> None:
        """Zero what is secret."""
        self.patterns.fill(0)


class SlotReceiver:
    """See the module. Slots are bob's own count until `number` tells him the absolute one."""

    def __init__(self, config: LinkConfig, acquisition: Acquisition, resolution_ps: int) -> None:
        shared = config.shared
        if shared.slot_ps < SLOT_BINS * resolution_ps:
            raise LinkConfigError(
                f"link {config.name}: a slot lasts {shared.slot_ps:g} ps, less than {SLOT_BINS} bins of {resolution_ps} ps of "
                f"the tagger: at most {1e12 / (SLOT_BINS * resolution_ps) / 1e6:g} MHz",
                key="link.shared.decoy.pulse_rate",
            )
        self.acquisition, self.resolution_ps = acquisition, resolution_ps
        self._name, self._shared = config.name, shared
        self._delays = np.array([round(float(config.delays.get(name, 0.0)) * 1e12) for name in DETECTORS], np.int64)
        self._edge = int(np.abs(self._delays).max()) + 1
        self._assign: kernels.SlotAssigner | None = None
        self._cursor = 0  # ps: clicks before it have their slots
        self._found: deque[Detections] = deque()
        self._pieces: list[NDArray[np.void]] = []
        self._spoilt: list[tuple[int, int, TagsLost]] = []
        self._counts = (0, 0, 0, 0)

    @property
    def following(self) -> bool:
        return self._assign is not None

    @property
    def earliest(self) -> int:
        """The oldest moment (ps) whose clicks can still be given slots."""
        return max(self.acquisition.kept_from, 0) + self._edge

    @property
    def delays_ps(self) -> tuple[float, ...]:
        """What is taken off each detector's clicks, H V D A: configured, and measured with the clock."""
        return tuple(float(delay) for delay in self._delays)

    @property
    def clock_error(self) -> float:
        """Relative error of the transmitter's rate against its nominal, as bob's clock sees it."""
        return 0.0 if self._assign is None else self._assign.model()[3] * self._shared.slot_ps - 1.0

    def lose(self) -> None:
        """Forget the clock and what has been detected."""
        self._assign = None
        self._forget()

    def _forget(self) -> None:
        for part in self._found:
            part.wipe()
        self._found.clear()
        self._pieces.clear()
        self._spoilt.clear()

    async def lock(self, start_ps: int, stop_ps: int) -> None:
        """Find the transmitter's clock in a stretch that is registered, and follow it from the start. Raises AlignmentFailed."""
        self.lose()
        times, detectors = self._clicks(start_ps, stop_ps)
        shared = self._shared
        clock = await kernels.run(recover, times, shared.slot_ps, shared.clock_error_max)
        if clock is None:
            raise AlignmentFailed(f"link {self._name}: no pulse period stands out of {len(times)} clicks")
        rate = len(times) / max(1e-3, (stop_ps - start_ps) * 1e-12)
        nominal = 1.0 / shared.slot_ps
        settings = kernels.SlotSettings(
            half_gate=float(shared.gate) / 2,
            dead_ps=shared.dead_ps,
            piece_clicks=int(np.clip(rate * _PIECE_S, *_PIECE_CLICKS)),
            piece_ps=round(min(1e12, shared.slot_ps * 1e8)),
            gain_phase=_GAIN_PHASE,
            gain_rate=_GAIN_RATE,
            contrast=_CONTRAST,
            rate_low=nominal * (1 - 2 * shared.clock_error_max),
            rate_high=nominal * (1 + 2 * shared.clock_error_max),
        )
        self._equalise(times, detectors, clock)
        start_ps = max(start_ps, self.earliest)
        # backwards from the middle, where the clock was measured, the phase at the start is known to a part of a slot; the
        # loop pulls in, and from there on it counts without a gap
        x = (start_ps - clock.origin_ps) * clock.rate + clock.phase
        self._assign = kernels.SlotAssigner(settings, start_ps, 0, float(x - np.floor(x)), clock.rate)
        self._cursor, self._counts = start_ps, (0, 0, 0, 0)
        del times, detectors
        await self.follow(stop_ps - self._edge)

    def _equalise(self, times: NDArray[np.int64], detectors: NDArray[np.uint8], clock: PulseClock) -> None:
        """Take off what is left of each detector's delay: where in a slot its clicks lie, against all of them."""
        slot_ps = self._shared.slot_ps
        near = slice(*np.searchsorted(times, (clock.origin_ps - _DELAY_SPAN_PS, clock.origin_ps + _DELAY_SPAN_PS)))
        turns = np.exp(2j * np.pi * ((times[near] - clock.origin_ps) * clock.rate + clock.phase))
        for detector in range(len(DETECTORS)):
            mine = turns[detectors[near] == detector]
            mean = complex(mine.mean()) if len(mine) >= _DELAY_CLICKS else 0j
            if abs(mean) > _DELAY_CONTRAST:
                self._delays[detector] += round(float(np.angle(mean)) / (2 * np.pi) * slot_ps)
        self._edge = int(np.abs(self._delays).max()) + 1

    def _clicks(self, start_ps: int, stop_ps: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Clicks whose equalised time lies in [start, stop), in order. Raises TagsLost."""
        clicks = self.acquisition.take(max(0, start_ps - self._edge), stop_ps + self._edge)
        times = clicks.times - self._delays[clicks.detectors] if self._edge > 1 else clicks.times
        detectors = clicks.detectors
        if self._edge > 1:
            order = np.argsort(times, kind="stable")
            times, detectors = times[order], detectors[order]
        inside = slice(*np.searchsorted(times, (start_ps, stop_ps)))
        return np.ascontiguousarray(times[inside]), np.ascontiguousarray(detectors[inside])

    async def registered(self, moment_ps: int) -> None:
        """Wait until every click up to `moment_ps` is in memory, and follow it."""
        while True:
            step = min(moment_ps, max(self.acquisition.until, self._cursor) + _STEP_PS) if self.following else moment_ps
            behind = max(0.0, (step - self.acquisition.position()) * 1e-12)
            await self.acquisition.wait_until(step + self._edge, behind + _SLACK)
            if not self.following:
                return
            await self.follow(step)
            if step >= moment_ps:
                return

    async def follow(self, moment_ps: int) -> None:
        """Give slots to all clicks up to `moment_ps`, which must be registered."""
        while self._assign is not None and self._cursor < moment_ps:
            until = min(moment_ps, self._cursor + _STEP_PS)
            assign, first = self._assign, self._cursor
            try:
                times, detectors = self._clicks(first, until)
            except TagsLost as error:
                self._spoilt.append((assign.slot_at(first), assign.slot_at(until), error))
                times, detectors = np.empty(0, np.int64), np.empty(0, np.uint8)
            slots, patterns, pieces = await kernels.run(assign, times, detectors, until - 1)
            if assign is not self._assign:
                return  # the lock was lost meanwhile
            self._cursor = until
            self._found.append(Detections(slots, patterns))
            self._pieces.append(pieces)
            self.acquisition.release(until - 2 * self._edge)

    def number(self, shift: int) -> None:
        """Every slot is larger by `shift` from now on, those of waiting detections too."""
        if self._assign is None:
            return
        self._assign.shift(shift)
        for part in self._found:
            part.slots[:] += shift
        self._spoilt = [(low + shift, high + shift, error) for low, high, error in self._spoilt]

    @property
    def _model(self) -> kernels.SlotAssigner:
        if self._assign is None:
            raise AlignmentFailed(f"link {self._name}: the transmitter's clock is not followed")
        return self._assign

    def time_of(self, slot: int) -> int:
        """When a slot is over for certain, ps on the tagger's clock."""
        return self._model.time_of(slot) + round(2 * self._shared.slot_ps) + 1

    def slot_at(self, moment_ps: int) -> int:
        return self._model.slot_at(moment_ps)

    def peek(self, start: int, stop: int) -> Detections:
        """Detections in [start, stop), copied; they stay."""
        slots = np.concatenate([np.empty(0, np.int64), *(part.slots for part in self._found)])
        patterns = np.concatenate([np.empty(0, np.uint8), *(part.patterns for part in self._found)])
        inside = slice(*np.searchsorted(slots, (start, stop)))
        return Detections(slots[inside].copy(), patterns[inside].copy())

    def take(self, start: int, stop: int) -> Detections:
        """Detections in [start, stop); everything before `stop` is forgotten. Raises TagsLost if a part of it is spoilt."""
        found = self.peek(start, stop)
        self.drop(stop)
        for low, high, error in self._spoilt:
            if low < stop and high >= start:
                found.wipe()
                raise error
        self._spoilt = [item for item in self._spoilt if item[1] >= stop]
        return found

    def drop(self, below: int) -> None:
        """Forget detections below a slot."""
        while self._found and (not len(self._found[0]) or int(self._found[0].slots[-1]) < below):
            self._found.popleft().wipe()
        if self._found and int(self._found[0].slots[0]) < below:
            first = self._found[0]
            keep = int(np.searchsorted(first.slots, below))
            self._found[0] = Detections(first.slots[keep:].copy(), first.patterns[keep:].copy())
            first.wipe()

    def tracking(self) -> Tracking:
        """What was measured since the last call. Raises SlotSlip when the phase jumped, LockLost when there was none."""
        if not self._pieces:
            return Tracking(0.0, 0.0, 0.0, 0)
        pieces = np.concatenate(self._pieces)
        self._pieces.clear()
        if not len(pieces):
            return Tracking(0.0, 0.0, 0.0, 0)
        seen = pieces[pieces["followed"] != 0]
        if len(seen) < _FOLLOWED_MIN * len(pieces):
            raise LockLost(
                f"link {self._name}: the pulses' phase was seen in {len(seen)} of {len(pieces)} pieces of the block"
            )
        worst = float(np.abs(seen["error"]).max())
        if worst > _SLIP:
            raise SlotSlip(f"link {self._name}: the pulses' phase jumped by {worst:.2f} of a slot")
        return Tracking(float(seen["error"].mean()), worst, float(seen["contrast"].mean()), len(seen))

    def clicks(self) -> tuple[int, int, int, int]:
        """Since the last call: clicks, those outside the gate, those dropped by the dead time, those joined to another."""
        if self._assign is None:
            return (0, 0, 0, 0)
        counts, before = self._assign.counts, self._counts
        self._counts = counts
        return (counts[0] - before[0], counts[1] - before[1], counts[2] - before[2], counts[3] - before[3])
