"""What the simulated instruments see of the line: clicks, counts, and what their knobs turn."""

from __future__ import annotations

import numpy as np

from qkdd_hil.physics import QuantumLine, SideSetting
from qkdd_hil.physics.line import SideName
from qkdd_hil.physics.parameters import DETECTORS


class DetectorArray:
    """One side's four detectors behind their controller (`DetectorBench` of the simulators).

    Counts are drawn around the closed-form rates, so they are there also while no tagger streams.
    """

    def __init__(self, line: QuantumLine, side: SideName, seed: int) -> None:
        self._line = line
        self._side = side
        self._setting: SideSetting = getattr(line.setting, side)
        self._rng = np.random.default_rng(seed)

    @property
    def detectors(self) -> int:
        return DETECTORS

    def counts(self, period_s: float) -> tuple[int, ...]:
        """Counts of the four detectors in `period_s`."""
        return tuple(int(n) for n in self._rng.poisson(self._line.count_rates(self._side) * period_s))

    def set_bias(self, bias_ua: tuple[float, ...]) -> None:
        """Bias currents in microampere."""
        self._setting.bias = tuple(value * 1e-6 for value in bias_ua)

    def set_enabled(self, enabled: bool) -> None:
        self._setting.enabled = enabled


class Paddles:
    """One side's polarization controller: turning a paddle turns the light."""

    def __init__(self, line: QuantumLine, side: SideName) -> None:
        self._setting: SideSetting = getattr(line.setting, side)

    def move(self, angles: tuple[float, float, float]) -> None:
        """The paddles stand at `angles` (rad) now."""
        self._setting.paddles = angles
