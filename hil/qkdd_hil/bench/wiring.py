"""What the simulated instruments see of the line: clicks, counts, and what their knobs turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from qkdd_drivers.qkdd_board.sim import BoardSim

from qkdd_hil.physics import PulsedLine, SideSetting
from qkdd_hil.physics.parameters import DETECTORS
from qkdd_hil.physics.polarization import Matrix

_ATTENUATION, _SIGNAL, _DECOY, _WEAKEST = 3, 4, 5, 6  # registers of a transmitter board


class DetectorArray:
    """One side's four detectors behind their controller (`DetectorBench` of the simulators).

    Counts are drawn around the closed-form rates, so they are there also while no tagger streams.
    """

    def __init__(self, setting: SideSetting, rates: Callable[[], Matrix], seed: int) -> None:
        """rates: mean clicks/s of the four detectors, float64[4]."""
        self._rates = rates
        self._setting = setting
        self._rng = np.random.default_rng(seed)

    @property
    def detectors(self) -> int:
        return DETECTORS

    def counts(self, period_s: float) -> tuple[int, ...]:
        """Counts of the four detectors in `period_s`."""
        return tuple(int(n) for n in self._rng.poisson(self._rates() * period_s))

    def set_bias(self, bias_ua: tuple[float, ...]) -> None:
        """Bias currents in microampere."""
        self._setting.bias = tuple(value * 1e-6 for value in bias_ua)

    def set_enabled(self, enabled: bool) -> None:
        self._setting.enabled = enabled


class Paddles:
    """One side's polarization controller: turning a paddle turns the light."""

    def __init__(self, setting: SideSetting) -> None:
        self._setting = setting

    def move(self, angles: tuple[float, float, float]) -> None:
        """The paddles stand at `angles` (rad) now."""
        self._setting.paddles = angles


class Optics:
    """A transmitter board's light: its pulses go into the line with the intensities that its registers say."""

    def __init__(self, line: PulsedLine) -> None:
        self._line = line
        self.board: BoardSim | None = None  # set as soon as it is made, before anything is sent

    def stream(self, start: float, pulse_hz: float) -> None:
        """A stream begins at `start` (s of the board's clock), or ends (0 pulses a second)."""
        if pulse_hz > 0:
            self._line.began(start, pulse_hz)
        else:
            self._line.ended()

    def pulses(self, first: int, symbols: NDArray[np.uint8]) -> None:
        """uint8[n] symbols that leave the board from slot `first` on."""
        if self.board is not None:
            r = self.board.board.registers
            self._line.setting.intensities = (r[_SIGNAL], r[_DECOY], r[_WEAKEST])
            self._line.setting.attenuation = r[_ATTENUATION]
        self._line.pulses(first, symbols)
