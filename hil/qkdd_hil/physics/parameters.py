"""What the virtual bench is built of. Configuration sections, so that a bench can be described in TOML with units.

The defaults are the demonstration's: 2e6 pairs/s, arms of 20 % (fibre 25 %, detectors about 80 %), superconducting
detectors of unequal efficiency and delay, taggers with 2 ns bins. Each side's detectors are in the order H, V, D, A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from qkdd.core.config import Section
from qkdd.core.units import Amperes, Fraction, Hertz, Radians, Seconds

DETECTORS = 4  # H, V, D, A
MID_TRAVEL = Radians(math.radians(85.0))  # where the controller's paddles stand after power-up
MAX_OFFSET = 1.0  # s, the alignment's promise
MAX_FREQUENCY_ERROR_PPM = 5.0


class SourceParameters(Section, frozen=True):
    """Continuous-wave source of photon pairs in the state Phi+ (equal bits in both bases)."""

    pair_rate: Hertz = Hertz(2e6)
    visibility_z: Fraction = Fraction(0.98)  # of the correlations in H/V
    visibility_x: Fraction = Fraction(0.98)  # of the correlations in D/A


class FibreParameters(Section, frozen=True):
    """A fibre from the source to one receiver. Its polarization rotation is chosen by the bench so that the line is
    aligned at the start; from there it wanders by up to about `drift` with time constants around `drift_period`, and turns by
    `turn_per_kelvin` when somebody warms it."""

    transmission: Fraction = Fraction(0.25)
    delay: Seconds = Seconds(0.0)
    drift: Radians = Radians(0.02)
    drift_period: Seconds = Seconds(600.0)
    turn_per_kelvin: Radians = Radians(0.1)


class DetectorParameters(Section, frozen=True):
    """One superconducting nanowire detector with its receiver path; efficiency and counts at the nominal bias."""

    efficiency: Fraction = Fraction(0.80)
    delay: Seconds = Seconds(0.0)
    jitter: Seconds = Seconds(80e-12)  # standard deviation
    dead_time: Seconds = Seconds(50e-9)
    dark_counts: Hertz = Hertz(100.0)
    background: Hertz = Hertz(200.0)  # clicks of stray light
    afterpulse: Fraction = Fraction(0.003)  # per click
    afterpulse_time: Seconds = Seconds(40e-9)  # exponential constant after the dead time
    bias: Amperes = Amperes(20e-6)  # nominal
    bias_onset: Amperes = Amperes(13e-6)  # half of the plateau
    bias_width: Amperes = Amperes(3e-6)
    bias_switch: Amperes = Amperes(26e-6)  # latched above: no counts
    dark_fold: Amperes = Amperes(1.2e-6)  # dark counts grow by e per this much bias


class ClockParameters(Section, frozen=True):
    """A free-running tagger clock: reading = offset + true time * (1 + error), with a slow wander of the error."""

    offset: Seconds = Seconds(0.0)
    frequency_error_ppm: float = 0.0
    wander_ppm: float = 0.01
    wander_period: Seconds = Seconds(300.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if abs(self.offset) > MAX_OFFSET:
            yield (
                "offset",
                f"{self.offset} lies outside -1 s to 1 s",
                "a larger offset is not what taggers of one link show",
            )
        if abs(self.frequency_error_ppm) + abs(self.wander_ppm) > MAX_FREQUENCY_ERROR_PPM:
            yield "frequency_error_ppm", "frequency error and wander exceed 5 ppm", "choose a better oscillator"
        if self.wander_period <= 0:
            yield "wander_period", "is not positive", 'write for example "300 s"'


def _array(efficiencies: tuple[float, ...], delays_ns: tuple[float, ...]) -> tuple[DetectorParameters, ...]:
    return tuple(
        DetectorParameters(efficiency=Fraction(e), delay=Seconds(d * 1e-9), dead_time=Seconds((45 + 5 * i) * 1e-9))
        for i, (e, d) in enumerate(zip(efficiencies, delays_ns, strict=True))
    )


class SideParameters(Section, frozen=True):
    """One receiver: fibre, paddles, passive basis choice, four detectors, tagger."""

    fibre: FibreParameters = FibreParameters()
    detectors: tuple[DetectorParameters, ...] = _array((0.82, 0.78, 0.81, 0.79), (0.0, 1.4, 0.6, 2.2))
    clock: ClockParameters = ClockParameters()
    basis_z: Fraction = Fraction(0.5)  # share of photons that the beam splitter sends to H/V
    paddles: tuple[Radians, Radians, Radians] = (MID_TRAVEL, MID_TRAVEL, MID_TRAVEL)  # aligned at these angles
    resolution: Seconds = Seconds(2e-9)  # tagger bin
    gate: Seconds = Seconds(0.0)  # detectors are live for so long about each expected pulse; 0: always

    def check(self) -> Iterator[tuple[str, str, str]]:
        if len(self.detectors) != DETECTORS:
            yield "detectors", f"has {len(self.detectors)} entries", "write four: H, V, D, A"
        if self.resolution < 1e-12:
            yield "resolution", "is below 1 ps", "times are whole picoseconds"
        if self.gate < 0:
            yield "gate", "is negative", 'write for example "2 ns", or "0 s" for detectors that are always live'


class LineParameters(Section, frozen=True):
    """The bench of one quantum link."""

    source: SourceParameters = SourceParameters()
    alice: SideParameters = SideParameters(
        fibre=FibreParameters(delay=Seconds(2.45e-6)),
        clock=ClockParameters(offset=Seconds(0.21), frequency_error_ppm=1.3),
    )
    bob: SideParameters = SideParameters(
        fibre=FibreParameters(delay=Seconds(24.5e-6)),
        detectors=_array((0.79, 0.81, 0.77, 0.83), (1.1, 0.3, 2.6, 0.0)),
        clock=ClockParameters(offset=Seconds(-0.17), frequency_error_ppm=-2.1),
    )


class TransmitterParameters(Section, frozen=True):
    """Transmitter of weak coherent pulses. Pulse rate, intensities and choices are the transmitter board's."""

    visibility_z: Fraction = Fraction(0.98)  # share of light on the wrong detector: (1 - visibility) / 2
    visibility_x: Fraction = Fraction(0.98)
    pulse_width: Seconds = Seconds(50e-12)  # standard deviation of a photon's time
    clock: ClockParameters = ClockParameters(frequency_error_ppm=1.3)


class PulsedParameters(Section, frozen=True):
    """The bench of one prepare-and-measure link. Total transmission: 0.125 of the fibre times 0.8 of the detectors."""

    transmitter: TransmitterParameters = TransmitterParameters()
    bob: SideParameters = SideParameters(
        fibre=FibreParameters(transmission=Fraction(0.125), delay=Seconds(24.5e-6)),
        detectors=_array((0.8008, 0.7996, 0.7992, 0.8004), (1.1, 0.3, 2.6, 0.0)),
        clock=ClockParameters(offset=Seconds(0.31), frequency_error_ppm=-2.1),
        basis_z=Fraction(0.75),
    )
