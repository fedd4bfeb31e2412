"""The pulses of a transmitter board: choices, slots, window, credit. Time comes in from outside.

Slots count at the pulse rate from the start of a stream, whether or not a pulse goes out. Without credit (full stream) or
without random bits no pulse goes out: the slot is skipped and counted, and never sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from qkdd_fwbridge.health import HealthTest
from qkdd_fwbridge.messages import Mode, Randomness, Symbols
from qkdd_fwbridge.symbols import U8, choose, pack

from qkdd.kernels import unpack_bits

WINDOW = 1 << 20
BUFFER = 1 << 25
RANDOM_BYTES = 1 << 20
_LARGEST = 32768  # symbols in one frame
ABSENT = 0xFF
_SIGN_OF_LIFE = 0.1  # seconds
_TESTED = 1024  # bytes of each draw that the simulated board tests (a real one tests all of them, in hardware)

OnPulses = Callable[[int, U8], None]
"""Called with (first slot, uint8[n] symbols; 0xFF = no pulse) when pulses leave the board; with the laser off all are 0xFF."""
OnStream = Callable[[float, float], None]
"""Called with (time of slot 0 on the board's clock in s, pulses a second) when a stream begins, with 0 pulses when it ends."""


class Emission:
    """One stream. `poll` makes what is due."""

    def __init__(
        self,
        mode: Mode,
        randomness: Randomness,
        credit: int,
        pulse_hz: float,
        choices: tuple[int, int, int],
        now: float,
        noise: Callable[[int], bytes],
        fed: bytearray,
        on_pulses: OnPulses,
        window: int = WINDOW,
    ) -> None:
        self.mode, self.randomness, self.pulse_hz = mode, randomness, pulse_hz
        self._credit, self._choices, self._start = credit, choices, now
        self._noise, self._fed, self._on_pulses = noise, fed, on_pulses
        self._test = HealthTest(0.9)
        self._now = self._sent = now
        self.next_slot = 0
        self.made = self.held = self.starved = self.overwritten = 0
        self._window = np.full(window, ABSENT, np.uint8)
        self._released = 0
        self._unsent: deque[tuple[int, int, U8]] = deque()  # (first slot, skipped before, symbols)

    @property
    def unsent(self) -> int:
        return sum(len(symbols) for _, _, symbols in self._unsent)

    @property
    def oldest(self) -> int:
        """First slot that is still in the window."""
        return max(0, self.next_slot - len(self._window))

    def credit(self, total: int) -> None:
        self._credit = max(self._credit, total)

    def release(self, below: int) -> None:
        self._released = max(self._released, min(below, self.next_slot))

    def poll(self, now: float) -> None:
        """Make the slots up to now. Raises SourceFailed when the board's own source fails."""
        self._now = now
        due = int((now - self._start) * self.pulse_hz)
        while self.next_slot < due:
            self._make(min(due - self.next_slot, _LARGEST))

    def skip_until(self, now: float) -> None:
        """Leave the slots up to `now` dark, as without random bits: a simulated board whose machine is short of time does not
        make up for all of it, which would leave it further behind each time."""
        count = max(0, int((now - self._start) * self.pulse_hz) - self.next_slot)
        self.starved += count
        while count > 0:
            part = min(count, len(self._window))
            first = self.next_slot
            dark = np.full(part, ABSENT, np.uint8)
            self._on_pulses(first, dark)
            if self.mode is Mode.ON_DEMAND:
                self._keep(first, dark)
            self.next_slot += part
            count -= part

    def frames(self) -> list[Symbols]:
        """What is ready for the host."""
        ready = [Symbols(first, skipped, len(s), pack(s)) for first, skipped, s in self._unsent]
        self._unsent.clear()
        if not ready and self.mode is Mode.FULL and self._now - self._sent > _SIGN_OF_LIFE:
            ready = [Symbols(self.next_slot, self.next_slot - self.made, 0, b"")]
        if ready:
            self._sent = self._now
        return ready

    def window(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.bool_], U8]:
        """(which are there, their symbols) for rising slots."""
        inside = (slots >= self.oldest) & (slots < self.next_slot)
        values = np.where(inside, self._window[slots % len(self._window)], ABSENT).astype(np.uint8)
        here = values != ABSENT
        return here, np.where(here, values, 0).astype(np.uint8)

    def _make(self, count: int) -> None:
        wanted = count
        if self.mode is Mode.FULL:
            wanted = max(0, min(wanted, self._credit - self.made, BUFFER - self.unsent))
        self.held += count - wanted
        words = self._words(wanted)
        self.starved += wanted - len(words)
        symbols = choose(words, *self._choices)
        first = self.next_slot
        out = np.full(count, ABSENT, np.uint8)
        out[: len(symbols)] = symbols
        self._on_pulses(first, out)
        self.made += len(symbols)
        self.next_slot += count
        if self.mode is Mode.FULL:
            if len(symbols):
                before = first - (self.made - len(symbols))
                self._unsent.append((first, before, symbols))
            return
        self._keep(first, out)

    def _keep(self, first: int, symbols: U8) -> None:
        """Into the window, over the oldest."""
        end, size = first + len(symbols), len(self._window)
        lost_from = max(0, first - size)
        self.overwritten += max(0, max(0, end - size) - max(lost_from, self._released))
        if len(symbols) > size:
            first, symbols = end - size, symbols[-size:]
        at = first % size
        before = min(len(symbols), size - at)
        self._window[at : at + before] = symbols[:before]
        self._window[: len(symbols) - before] = symbols[before:]

    def _words(self, count: int) -> NDArray[np.uint32]:
        if self.randomness is Randomness.HOST:
            count = min(count, len(self._fed) // 4)
            data = bytes(self._fed[: 4 * count])
            del self._fed[: 4 * count]
        else:
            data = self._noise(4 * count)
            tested = data[:_TESTED]
            self._test.feed(unpack_bits(tested, 8 * len(tested)))
        return np.frombuffer(data, "<u4").astype(np.uint32)
