"""The quantum side of a prepare-and-measure link: pulses of a transmitter board, fibre, adversary, one receiver.

The line sees exactly the symbols that the board prepared; everything else that is random depends on the seed. A receiver's
tagger that asks for a time whose pulses have not left the board yet waits for them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qkdd_hil.physics import pulse_light as light
from qkdd_hil.physics.clock import PS, FreeClock
from qkdd_hil.physics.detector import Gates
from qkdd_hil.physics.parameters import DETECTORS, PulsedParameters
from qkdd_hil.physics.polarization import Matrix
from qkdd_hil.physics.pulse_expectation import PulsedMeans, means_of
from qkdd_hil.physics.receiver import CHUNK, CLOCK_SEED, Receiver, chunk_random
from qkdd_hil.physics.setting import PulsedSetting

LEAD = (
    100_000_000_000  # ps that light is on its way at least, seen by the tagger's clock, so that it seldom has to wait
)
PATIENCE = 0.6  # s that a tagger waits for pulses that are late; a board that is later than that sends none
_TRANSMITTER = 7  # place of its clock among the seeds


@dataclass(slots=True)
class _Stream:
    """Pulses of one stream of the board. start: reading of the board's clock at slot 0 (ps)."""

    start: int
    pulse_hz: float
    next_slot: int = 0
    ended: bool = False
    batches: deque[tuple[int, NDArray[np.uint8]]] = field(default_factory=deque)

    def slot_at(self, reading: int) -> int:
        """First slot that is not before `reading` (ps)."""
        return math.ceil((reading - self.start) * self.pulse_hz / PS)

    def take(self, first: int, end: int) -> NDArray[np.uint8]:
        """Symbols of the slots [first, end); ABSENT where none was made. Forgets what is older."""
        found = np.full(max(0, end - first), light.ABSENT, np.uint8)
        while self.batches:
            at, symbols = self.batches[0]
            low, high = max(at, first), min(at + len(symbols), end)
            if low < high:
                found[low - first : high - first] = symbols[low - at : high - at]
            if at + len(symbols) > end:
                break
            self.batches.popleft()
        return found


class PulsedLine:
    """One line. `began`, `pulses`, `ended` come from the board (one thread), `clicks` from the tagger (another).

    Time on the line: `time.monotonic` since it was made. `setting` may be changed at any time; acts from the next chunk.
    """

    def __init__(self, parameters: PulsedParameters, seed: int) -> None:
        self.parameters = parameters
        self.setting = PulsedSetting.of(parameters)
        self._seed = seed
        transmitter = parameters.transmitter
        clock_seed = np.random.SeedSequence(seed, spawn_key=(0, CLOCK_SEED, _TRANSMITTER))
        self._clock = FreeClock(transmitter.clock, np.random.default_rng(clock_seed))
        self._bob = Receiver(parameters.bob, self.setting.bob, seed, 1, blur=8 * transmitter.pulse_width)
        self._drawing = threading.Lock()
        self._changed = threading.Condition()
        self._streams: list[_Stream] = []
        self._shift = max(0, LEAD - self._bob.clock.offset)  # ps that the board's light is ahead of its clock
        self._next = math.floor(-self._bob.clock.offset / CHUNK) - 1
        self._last_rates: Matrix = np.zeros(DETECTORS)  # clicks/s of light in the chunk drawn last
        self._begin = time.monotonic()

    # The board's side

    def board_clock(self) -> float:
        """Seconds that the board's oscillator shows now."""
        true = round((time.monotonic() - self._begin) * PS)
        return self._clock.reading(true) / PS

    def began(self, start: float, pulse_hz: float) -> None:
        """A stream: slot 0 at `start` (s) of the board's clock."""
        with self._changed:
            self._end_stream()
            self._streams.append(_Stream(round(start * PS) + self._shift, pulse_hz))

    def pulses(self, first: int, symbols: NDArray[np.uint8]) -> None:
        """Pulses left the board: uint8[n] symbols from slot `first` on; ABSENT = none."""
        with self._changed:
            if self._streams and not self._streams[-1].ended:
                stream = self._streams[-1]
                stream.batches.append((first, symbols))
                stream.next_slot = first + len(symbols)
                self._changed.notify_all()

    def ended(self) -> None:
        """No pulses until a stream begins again."""
        with self._changed:
            self._end_stream()
            self._changed.notify_all()

    def _end_stream(self) -> None:
        if self._streams:
            self._streams[-1].ended = True

    # The tagger's side

    def clicks(self, start_ps: int, stop_ps: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Bob's tags, as `ClickSource` of the simulators says; order and bins as in `line.SideClicks.clicks`."""
        receiver = self._bob
        with self._drawing:
            # nobody listened for a while: what was not seen need not be drawn
            self._next = max(self._next, (receiver.clock.true(start_ps) - LEAD) // CHUNK)
            while receiver.complete_until < stop_ps:
                self._draw()
            return receiver.hand_out(start_ps, stop_ps)

    def _draw(self) -> None:
        """Draw the next chunk."""
        begin = self._next * CHUNK
        rng = chunk_random(self._seed, self._next)
        arrivals: list[list[NDArray[np.int64]]] = [[] for _ in range(DETECTORS)]
        gates = None
        for stream, first, symbols in self._collect(begin):
            base, period = self._times(stream, first, begin)
            for detector, at in enumerate(self._light(symbols, (begin + CHUNK / 2) / PS, rng)):
                width = rng.standard_normal(len(at)) * (self.parameters.transmitter.pulse_width * PS)
                arrivals[detector].append(base + np.rint(at * period + width).astype(np.int64))
            if self.parameters.bob.gate > 0:
                gates = Gates(base, period, round(self.parameters.bob.gate * PS))
        photons = [np.concatenate(parts) if parts else np.empty(0, np.int64) for parts in arrivals]
        self._last_rates = np.array([len(times) for times in photons]) * (PS / CHUNK)
        noise = np.zeros(DETECTORS) if self.setting.frozen else self._bob.noise()
        if gates is None and self.parameters.bob.gate > 0:
            noise = np.zeros(DETECTORS)  # no clock arrives: no gate opens
        self._bob.take(photons, noise, begin, rng, gates)
        self._next += 1

    def _collect(self, begin: int) -> list[tuple[_Stream, int, NDArray[np.uint8]]]:
        """(stream, first slot, symbols) of the pulses that leave in the chunk."""
        low, high = self._clock.reading(begin), self._clock.reading(begin + CHUNK)
        found = []
        with self._changed:
            deadline = time.monotonic() + PATIENCE
            for stream in list(self._streams):
                first, end = max(0, stream.slot_at(low)), max(0, stream.slot_at(high))
                while not stream.ended and stream.next_slot < end and (left := deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                if end > first:
                    found.append((stream, first, stream.take(first, end)))
                if stream.ended and not stream.batches:
                    self._streams.remove(stream)
        return found

    def _times(self, stream: _Stream, first: int, begin: int) -> tuple[int, float]:
        """(true time of slot `first` in ps, true time between slots in ps), exact enough over one chunk."""
        reading = stream.start + round(first * PS / stream.pulse_hz)
        slope = CHUNK / (self._clock.reading(begin + CHUNK) - self._clock.reading(begin))
        return self._clock.true(reading), PS / stream.pulse_hz * slope

    def _ports(self, seconds: float) -> Matrix:
        t = self.parameters.transmitter
        return light.ports(t.visibility_z, t.visibility_x, self._bob.turn(seconds), self.parameters.bob.basis_z)

    def _light(self, symbols: NDArray[np.uint8], seconds: float, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        setting = self.setting
        ports, means = self._ports(seconds), np.array(setting.means)
        if setting.eve > 0.0:
            symbols = light.intercepted(symbols, setting.eve, rng)
        if not setting.pns:
            return light.coherent(symbols, light.by_symbol(ports * self._bob.arm(), means), rng)
        level = np.bincount(symbols & np.uint8(3), minlength=4)[:3]
        shares = level / max(1, level.sum())
        lossless = ports * self._bob.efficiencies()
        line = (ports * self._bob.arm()).sum(axis=2).mean()
        forward = light.forward_share(means, shares, float(line), float(lossless.sum(axis=2).mean()))
        return light.split(symbols, means, light.by_symbol(lossless * forward, np.ones(3)), rng)

    # What it should show

    def expected(self, gate_s: float, pulse_hz: float, blank_s: float = 0.0) -> PulsedMeans:
        """Closed-form means under the present settings, without photon-number splitting (see `pulse_expectation`)."""
        seconds = self._next * CHUNK / PS
        return means_of(
            self._ports(seconds) * self._bob.arm(),
            np.array(self.setting.means),
            np.zeros(DETECTORS) if self.setting.frozen else self._bob.noise(),
            self.parameters.bob.detectors,
            gate_s=gate_s,
            live_s=float(self.parameters.bob.gate),
            pulse_hz=pulse_hz,
            eve=self.setting.eve,
            blank_s=blank_s,
        )

    def count_rates(self) -> Matrix:
        """float64[4]: mean clicks/s of the detectors as the last pulses were, dark counts alone while there are none."""
        light = self._last_rates if self._streaming() else np.zeros(DETECTORS)
        noise = np.zeros(DETECTORS) if self.setting.frozen else self._bob.noise()
        rates: Matrix = light + noise
        return rates

    def _streaming(self) -> bool:
        with self._changed:
            return any(not stream.ended for stream in self._streams)
