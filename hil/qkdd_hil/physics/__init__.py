"""Optics of the virtual bench as pure functions and seeded state: numpy only, no I/O, no wall clock.

`QuantumLine` is the whole quantum side of one link: a continuous-wave pair source, two fibres with polarization
controllers, four detectors a side, two free-running clocks. `expectation` has the closed forms its means agree with.
"""

from qkdd_hil.physics.expectation import Expected, expected, window_fraction
from qkdd_hil.physics.line import QuantumLine, SideClicks
from qkdd_hil.physics.parameters import (
    ClockParameters,
    DetectorParameters,
    FibreParameters,
    LineParameters,
    SideParameters,
    SourceParameters,
)
from qkdd_hil.physics.setting import LineSetting, SideSetting

__all__ = [
    "ClockParameters",
    "DetectorParameters",
    "Expected",
    "FibreParameters",
    "LineParameters",
    "LineSetting",
    "QuantumLine",
    "SideClicks",
    "SideParameters",
    "SideSetting",
    "SourceParameters",
    "expected",
    "window_fraction",
]
