"""One receiver: fibre, polarization controller, beam splitter, four detectors, tagger, free-running clock.

True time runs in chunks of 50 ms. A receiver takes a chunk's photons and gives tags in its own clock's time.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from qkdd_hil.physics import detector as detectors
from qkdd_hil.physics.clock import PS, FreeClock
from qkdd_hil.physics.detector import Gates
from qkdd_hil.physics.parameters import DETECTORS, SideParameters
from qkdd_hil.physics.polarization import Matrix, SlowDrift, paddles, rotation
from qkdd_hil.physics.setting import SideSetting

CHUNK = 50_000_000_000  # ps
KEEP = 4 * 10**12  # ps that a side which does not ask is remembered
DRIFT_SEED, CLOCK_SEED = 1, 2
_CHANNEL_BITS = 2
WARM_AXIS = np.array([0.48, 0.36, 0.80])  # unit vector on the Poincaré sphere: no basis is spared


def chunk_random(seed: int, number: int) -> np.random.Generator:
    """Random numbers of chunk `number`, the same whoever asks first and in whatever portions."""
    # Chunk numbers before true time zero are negative; a seed sequence wants natural numbers.
    natural = 2 * number if number >= 0 else -2 * number - 1
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(1, natural))))


class Climate:
    """Temperature of a fibre: goes in a straight line to where it is told, from the moment at which it is told."""

    def __init__(self) -> None:
        self._order = (0.0, 0.0)
        self._begin = self._start = 0.0

    def at(self, seconds: float, order: tuple[float, float]) -> float:
        """Kelvin above the start at a true time; order: (kelvin to reach, seconds to take), new or as before."""
        if order != self._order:
            self._start, self._begin, self._order = self._at(seconds), seconds, order
        return self._at(seconds)

    def _at(self, seconds: float) -> float:
        kelvin, takes = self._order
        passed = min(1.0, (seconds - self._begin) / takes) if takes > 0 else 1.0
        return self._start + (kelvin - self._start) * passed


class Receiver:
    """State of one receiver, and what was drawn but not yet asked for."""

    def __init__(
        self, parameters: SideParameters, setting: SideSetting, seed: int, number: int, blur: float = 0.0
    ) -> None:
        """blur: seconds by which light of a chunk may come before the chunk begins (length of a pulse)."""
        self.parameters = parameters
        self.setting = setting
        drift_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, DRIFT_SEED, number)))
        clock_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, CLOCK_SEED, number)))
        self._drift = SlowDrift(parameters.fibre.drift, parameters.fibre.drift_period, drift_rng)
        # The fibre undoes the paddles at their start angles: everything is aligned when the bench starts.
        self._fibre = paddles(parameters.paddles).T
        self._climate = Climate()
        self.clock = FreeClock(parameters.clock, clock_rng)
        self._detectors = [detectors.DetectorState(d) for d in parameters.detectors]
        self._delay = round(parameters.fibre.delay * PS)
        self._resolution = round(parameters.resolution * PS)
        spread = [8 * d.jitter - d.delay for d in parameters.detectors]
        early = blur + parameters.gate / 2
        self._guard = max(0, round((max(spread) + early - parameters.fibre.delay) * PS))
        self._held: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.ready: deque[NDArray[np.int64]] = deque()  # sorted keys: reading << 2 | channel
        self.complete_until = -(2**62)  # reading up to which `ready` is complete

    def turn(self, seconds: float) -> Matrix:
        """Rotation from the source to the analysers."""
        angle = self._climate.at(seconds, self.setting.climate) * self.parameters.fibre.turn_per_kelvin
        warmed = rotation(angle * WARM_AXIS)
        moved = rotation(self.setting.rotation) @ warmed @ rotation(self._drift.at(seconds))
        total: Matrix = paddles(self.setting.paddles) @ moved @ self._fibre
        return total

    def arm(self) -> Matrix:
        """float64[4]: total efficiency from the source to a click."""
        through = self.parameters.fibre.transmission * self.setting.transmission
        return through * self.efficiencies()

    def efficiencies(self) -> Matrix:
        """float64[4]: of the detectors alone."""
        if not self.setting.enabled:
            return np.zeros(DETECTORS)
        pairs = zip(self.parameters.detectors, self.setting.bias, strict=True)
        aged: Matrix = np.array([detectors.efficiency(d, bias) for d, bias in pairs]) * self.setting.efficiency
        return aged

    def noise(self) -> Matrix:
        """float64[4]: dark and stray clicks/s. Stray light meets the detectors' efficiency as photons do."""
        if not self.setting.enabled:
            return np.zeros(DETECTORS)
        dark = [detectors.dark_rate(d, b) for d, b in zip(self.parameters.detectors, self.setting.bias, strict=True)]
        nominal = np.array([d.efficiency for d in self.parameters.detectors])
        stray = np.array([d.background for d in self.parameters.detectors]) * self.setting.background_factor
        relative = np.divide(self.efficiencies(), nominal, out=np.zeros(DETECTORS), where=nominal > 0)
        darks = np.array(dark) * self.setting.dark_factor * self.setting.dark
        total: Matrix = darks + stray * relative + np.array(self.setting.light) * (relative > 0)
        return total

    def take(
        self,
        photons: list[NDArray[np.int64]],
        stray_rates: Matrix,
        begin: int,
        rng: np.random.Generator,
        gates: Gates | None = None,
    ) -> None:
        """Turn one chunk's photons (per detector, true time at the source) and noise (1/s) into tags.

        gates: when the detectors are live, in true time at the source; None: always.
        """
        end = begin + CHUNK
        keys = [self._held]
        live = CHUNK if gates is None else gates.live_time(begin, end)
        noise = rng.poisson(stray_rates * (live / PS))
        for channel in range(DETECTORS):
            if gates is None:
                stray = rng.integers(begin, end, noise[channel])
                arrivals = np.concatenate([photons[channel], stray])
            else:
                arrivals = np.concatenate(
                    [gates.pass_on(photons[channel]), gates.inside(noise[channel], begin, end, rng)]
                )
            clicks = self._detectors[channel].register(arrivals, end, rng, gates)
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
