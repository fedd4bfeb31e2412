"""The quantum side of one link, stepped once for both receivers.

True time runs in chunks of 50 ms. A chunk's random numbers depend on the seed and the chunk's number only, so the stream
is repeatable whoever asks first and in whatever portions. Settings that change act from the next chunk that is drawn.
"""

from __future__ import annotations

import math
import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qkdd_hil.physics.clock import PS
from qkdd_hil.physics.expectation import Expected, expected
from qkdd_hil.physics.pairs import correlation_tensor, detection_probabilities, outcome_probabilities
from qkdd_hil.physics.parameters import DETECTORS, LineParameters
from qkdd_hil.physics.polarization import Matrix
from qkdd_hil.physics.receiver import CHUNK, Receiver, chunk_random
from qkdd_hil.physics.setting import LineSetting

LEAD = 5 * 10**11  # ps drawn before the first question, beyond the clocks' offsets
SideName = Literal["alice", "bob"]


class SideClicks:
    """What one side's tagger sees, in the tagger's own time (`ClickSource` of the simulators)."""

    def __init__(self, line: QuantumLine, side: Receiver) -> None:
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
        self._sides: dict[SideName, Receiver] = {
            "alice": Receiver(parameters.alice, self.setting.alice, seed, 0),
            "bob": Receiver(parameters.bob, self.setting.bob, seed, 1),
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
        rng = chunk_random(self._seed, self._next)
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

    def _clicks(self, side: Receiver, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
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
