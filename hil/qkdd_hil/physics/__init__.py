"""Optics of the virtual bench as pure functions and seeded state: numpy only, no I/O, no wall clock.

`QuantumLine` is the whole quantum side of one link: a continuous-wave pair source, two fibres with polarization
controllers, four detectors a side, two free-running clocks. `PulsedLine` is that of a prepare-and-measure link: pulses of a
transmitter board, one fibre, one receiver. `expectation` and `pulse_expectation` have the closed forms their means agree with.
"""

from qkdd_hil.physics.expectation import Expected, expected, window_fraction
from qkdd_hil.physics.line import QuantumLine, SideClicks
from qkdd_hil.physics.parameters import (
    ClockParameters,
    DetectorParameters,
    FibreParameters,
    LineParameters,
    PulsedParameters,
    SideParameters,
    SourceParameters,
    TransmitterParameters,
)
from qkdd_hil.physics.pulse_expectation import PulsedMeans
from qkdd_hil.physics.pulsed import PulsedLine
from qkdd_hil.physics.setting import LineSetting, PulsedSetting, SideSetting

__all__ = [
    "ClockParameters",
    "DetectorParameters",
    "Expected",
    "FibreParameters",
    "LineParameters",
    "LineSetting",
    "PulsedLine",
    "PulsedMeans",
    "PulsedParameters",
    "PulsedSetting",
    "QuantumLine",
    "SideClicks",
    "SideParameters",
    "SideSetting",
    "SourceParameters",
    "TransmitterParameters",
    "expected",
    "window_fraction",
]
