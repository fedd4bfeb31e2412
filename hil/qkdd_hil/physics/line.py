"""The quantum side of one link, stepped once for both receivers.

True time runs in chunks of 50 ms. A chunk's random numbers depend on the seed and the chunk's number only, so the stream
is repeatable whoever asks first and in whatever portions. Settings that change act from the next chunk that is drawn.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qkdd_hil.physics import detector as detectors
from qkdd_hil.physics.clock import PS, FreeClock
from qkdd_hil.physics.expectation import Expected, expected
from qkdd_hil.physics.pairs import correlation_tensor, detection_probabilities, outcome_probabilities
from qkdd_hil.physics.parameters import DETECTORS, LineParameters, SideParameters
from qkdd_hil.physics.polarization import Matrix, SlowDrift, paddles, rotation
from qkdd_hil.physics.setting import LineSetting, SideSetting

CHUNK = 50_000_000_000  # ps
KEEP = 4 * 10**12  # ps that a side which does not ask is remembered
LEAD = 5 * 10**11  # ps drawn before the first question, beyond the clocks' offsets
DRIFT_SEED, CLOCK_SEED = 1, 2
_CHANNEL_BITS = 2
SideName = Literal["alice", "bob"]


class _Side:
    """State of one receiver: fibre, detectors, clock, and what was drawn but not yet asked for."""

    def __init__(self, parameters: SideParameters, setting: SideSetting, seed: int, number: int) -> None:
        self.parameters = parameters
        self.setting = setting
        drift_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, DRIFT_SEED, number)))
        clock_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, CLOCK_SEED, number)))
        self._drift = SlowDrift(parameters.fibre.drift, parameters.fibre.drift_period, drift_rng)
        # The fibre undoes the paddles at their start angles: everything is aligned when the bench starts.
        self._fibre = paddles(parameters.paddles).T
        self.clock = FreeClock(parameters.clock, clock_rng)
        self._detectors = [detectors.DetectorState(d) for d in parameters.detectors]
        self._delay = round(parameters.fibre.delay * PS)
        self._resolution = round(parameters.resolution * PS)
        spread = [8 * d.jitter - d.delay for d in parameters.detectors]
        self._guard = max(0, round((max(spread) - parameters.fibre.delay) * PS))
        self._held: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.ready: deque[NDArray[np.int64]] = deque()  # sorted keys: reading << 2 | channel
        self.complete_until = -(2**62)  # reading up to which `ready` is complete

    def turn(self, seconds: float) -> Matrix:
        """Rotation from the source to the analysers."""
        moved = rotation(self.setting.rotation) @ rotation(self._drift.at(seconds))
        total: Matrix = paddles(self.setting.paddles) @ moved @ self._fibre
        return total

    def arm(self) -> Matrix:
        """float64[4]: total efficiency from the source to a click."""
        through = self.parameters.fibre.transmission * self.setting.transmission
        return through * self._efficiencies()

    def _efficiencies(self) -> Matrix:
        if not self.setting.enabled:
            return np.zeros(DETECTORS)
        pairs = zip(self.parameters.detectors, self.setting.bias, strict=True)
        return np.array([detectors.efficiency(d, bias) for d, bias in pairs])

    def noise(self) -> Matrix:
        """float64[4]: dark and stray clicks/s. Stray light meets the detectors' efficiency as photons do."""
        if not self.setting.enabled:
            return np.zeros(DETECTORS)
        dark = [detectors.dark_rate(d, b) for d, b in zip(self.parameters.detectors, self.setting.bias, strict=True)]
        nominal = np.array([d.efficiency for d in self.parameters.detectors])
        stray = np.array([d.background for d in self.parameters.detectors]) * self.setting.background_factor
        relative = np.divide(self._efficiencies(), nominal, out=np.zeros(DETECTORS), where=nominal > 0)
        total: Matrix = np.array(dark) * self.setting.dark_factor + stray * relative
        return total

    def take(self, photons: list[NDArray[np.int64]], stray_rates: Matrix, begin: int, rng: np.random.Generator) -> None:
        """Turn one chunk's photons (per detector, true time at the source) and noise (1/s) into tags."""
        end = begin + CHUNK
        keys = [self._held]
        noise = rng.poisson(stray_rates * (CHUNK / PS))
        for channel in range(DETECTORS):
            stray = rng.integers(begin, end, noise[channel])
            clicks = self._detectors[channel].register(np.concatenate([photons[channel], stray]), end, rng)
            keys.append(self.clock.stamp(clicks + self._delay, begin, end) << _CHANNEL_BITS | channel)
        merged = np.concatenate(keys)
        merged.sort()
        self.complete_until = self.clock.reading(end - self._guard)
        split = int(np.searchsorted(merged, self.complete_until << _CHANNEL_BITS))
        self._held = merged[split:]
        self.ready.append(merged[:split])

    def forget(self) -> None:
        """Bound the memory for a receiver that does not ask."""
        while self.ready and len(self.ready) * CHUNK > KEEP:
            self.ready.popleft()

    def hand_out(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Remove and return what was read in [start, stop); what is older is gone."""
        taken = []
        while self.ready:
            keys = self.ready[0]
            split = int(np.searchsorted(keys, stop << _CHANNEL_BITS))
            taken.append(keys[:split])
            if split < len(keys):
                self.ready[0] = keys[split:]
                break
            self.ready.popleft()
        keys = np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)
        keys = keys[np.searchsorted(keys, start << _CHANNEL_BITS) :]
        channels = (keys & ((1 << _CHANNEL_BITS) - 1)).astype(np.uint8)
        times = keys >> _CHANNEL_BITS
        return times - times % self._resolution, channels


class SideClicks:
    """What one side's tagger sees, in the tagger's own time (`ClickSource` of the simulators)."""

    def __init__(self, line: QuantumLine, side: _Side) -> None:
        self._line = line
        self._side = side

    def clicks(self, start_ps: int, stop_ps: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """(times int64[n] in ps, multiples of the tagger's bin, non-decreasing; channels uint8[n]: 0..3 = H, V, D, A)
        with start_ps <= reading < stop_ps. Ask in order, without going back; what is skipped is lost. A tag's time may
        lie below start_ps by less than one bin."""
        return self._line._clicks(self._side, start_ps, stop_ps)


class QuantumLine:
    """Source, fibres, receivers. `alice` and `bob` are the two taggers' click sources; `setting` may be changed at any
    time; changes act from the next chunk. The click sources may be asked from different threads."""

    def __init__(self, parameters: LineParameters, seed: int) -> None:
        self.parameters = parameters
        self.setting = LineSetting.of(parameters)
        self._seed = seed
        self._lock = threading.Lock()  # the two taggers' simulators stream from threads of their own
        self._sides: dict[SideName, _Side] = {
            "alice": _Side(parameters.alice, self.setting.alice, seed, 0),
            "bob": _Side(parameters.bob, self.setting.bob, seed, 1),
        }
        self.alice = SideClicks(self, self._sides["alice"])
        self.bob = SideClicks(self, self._sides["bob"])
        offsets = [side.clock.offset for side in self._sides.values()]
        self._lead = LEAD + max(offsets) - min(offsets)
        self._next = math.floor(-max(offsets) / CHUNK) - 1  # number of the next chunk to draw

    def expected(self, window: float) -> Expected:
        """Closed-form means under the present settings (see `expectation`); window: full width in s."""
        pair_rate, joint = self._light(self._next * CHUNK / PS)
        noise_a, noise_b = self._noise("alice"), self._noise("bob")
        return expected(self.parameters, pair_rate, joint, noise_a, noise_b, window)

    def count_rates(self, side: SideName) -> Matrix:
        """float64[4]: mean clicks/s of the side's detectors under the present settings."""
        means = self.expected(1e-9)
        return means.singles_a if side == "alice" else means.singles_b

    def _noise(self, side: SideName) -> Matrix:
        return np.zeros(DETECTORS) if self.setting.frozen else self._sides[side].noise()

    def _light(self, seconds: float) -> tuple[float, Matrix]:
        """Pairs/s and their detection probabilities float64[5, 5] at a true time."""
        source, setting = self.parameters.source, self.setting
        on = setting.source_on and not setting.frozen
        alice, bob = self._sides["alice"], self._sides["bob"]
        outcome = outcome_probabilities(
            correlation_tensor(source.visibility_z, source.visibility_x, setting.eve),
            alice.turn(seconds),
            bob.turn(seconds),
            alice.parameters.basis_z,
            bob.parameters.basis_z,
        )
        rate = source.pair_rate * setting.brightness if on else 0.0
        return rate, detection_probabilities(outcome, alice.arm(), bob.arm())

    def _draw(self) -> None:
        """Draw the next chunk for both sides."""
        begin = self._next * CHUNK
        # Chunk numbers before true time zero are negative; a seed sequence wants natural numbers.
        number = 2 * self._next if self._next >= 0 else -2 * self._next - 1
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(self._seed, spawn_key=(1, number))))
        rate, joint = self._light((begin + CHUNK / 2) / PS)
        counts = rng.poisson(joint * (rate * CHUNK / PS))
        times = rng.integers(begin, begin + CHUNK, int(counts.sum()))
        ends = np.cumsum(counts.ravel()).reshape(counts.shape)
        starts = ends - counts
        at_alice = [times[starts[i, 0] : ends[i, DETECTORS]] for i in range(DETECTORS)]
        at_bob = [
            np.concatenate([times[starts[i, j] : ends[i, j]] for i in range(DETECTORS + 1)]) for j in range(DETECTORS)
        ]
        self._sides["alice"].take(at_alice, self._noise("alice"), begin, rng)
        self._sides["bob"].take(at_bob, self._noise("bob"), begin, rng)
        self._next += 1

    def _clicks(self, side: _Side, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        with self._lock:
            first = (side.clock.true(start) - self._lead) // CHUNK
            # nobody listened for a while: what was not seen need not be drawn
            self._next = max(self._next, first)
            while side.complete_until < stop:
                self._draw()
                for other in self._sides.values():
                    if other is not side:
                        other.forget()
            return side.hand_out(start, stop)
