"""A transmitter board that prepares the symbols of a recording, over and over, at the recording's pulse rate.

Protocol, frames and window are those of the simulated board; only the light comes from a file, for no simulation makes a
thousand million choices a second. Slot s has symbol s mod pulses; the window is the memory that a real board would have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from qkdd_drivers.qkdd_board.board import Board
from qkdd_drivers.qkdd_board.emission import Emission
from qkdd_drivers.qkdd_board.sim import BoardSim
from qkdd_fwbridge.messages import Mode, Randomness
from qkdd_fwbridge.symbols import U8

from qkdd_hil.gigahertz.recording import Terms

PULSE_RATE = 2  # register


class RecordedEmission(Emission):
    """Slots count with the clock; nothing is made and nothing is kept, because every symbol is in the file."""

    def __init__(self, packed: U8, pulses: int, pulse_hz: float, window: int, now: float) -> None:
        super().__init__(
            Mode.ON_DEMAND, Randomness.QRNG, 0, pulse_hz, (0, 0, 0), now, bytes, bytearray(), _ignore, window=1
        )
        self._packed, self._pulses, self._slots = packed, pulses, window

    @property
    def oldest(self) -> int:
        return max(0, self.next_slot - self._slots)

    def poll(self, now: float) -> None:
        due = max(self.next_slot, int((now - self._start) * self.pulse_hz))
        self.made += due - self.next_slot
        self.overwritten += max(0, due - self._slots) - max(0, self.next_slot - self._slots)
        self.next_slot = due

    def skip_until(self, now: float) -> None:
        """A file is never short of time."""

    def window(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.bool_], U8]:
        here = (slots >= self.oldest) & (slots < self.next_slot)
        at = slots % self._pulses
        both = self._packed[at >> 1]
        values = np.where(at & 1, both & 15, both >> 4).astype(np.uint8)
        return here, np.where(here, values, 0).astype(np.uint8)


def _ignore(first: int, symbols: U8) -> None:
    """The clicks of these pulses are in the recording already."""


class RecordedBoard(Board):
    """Plays `folder`, a recording's."""

    def play(self, folder: Path) -> None:
        """Raises OSError, msgspec.DecodeError."""
        terms = msgspec.json.decode((folder / "terms.json").read_bytes(), type=Terms)
        self._packed, self._count = np.fromfile(folder / "symbols.bin", np.uint8), terms.pulses
        self.registers[PULSE_RATE] = terms.pulse_hz

    def emission(self, mode: Mode, randomness: Randomness, credit: int, now: float) -> Emission:
        if mode is not Mode.ON_DEMAND:
            raise ValueError("a recorded board has no cable for a full stream")
        return RecordedEmission(self._packed, self._count, self.registers[PULSE_RATE], self.window, now)


class RecordedBoardSim(BoardSim):
    """`RecordedBoard` on a TCP port."""

    def __init__(
        self, folder: Path, window: int, *, listen: tuple[str, int] = ("127.0.0.1", 0), clock: Callable[[], float]
    ) -> None:
        super().__init__(listen=listen, clock=clock, window=window)
        board = RecordedBoard(self.board.role, self.board.serial, self.store, window=window)
        board.power_up(clock())
        board.play(folder)
        self.board = board
