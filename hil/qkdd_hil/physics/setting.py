"""What can be turned on the running bench: by the instruments (paddles, bias) and by whoever injects faults."""

from __future__ import annotations

from dataclasses import dataclass

from qkdd_hil.physics.parameters import LineParameters, PulsedParameters, SideParameters


@dataclass(slots=True)
class SideSetting:
    """One receiver. Lengths: paddles 3 (rad), bias 4 (A), rotation 3 (rotation vector on the Poincaré sphere, rad); efficiency,
    dark and light 4, for each detector. climate: (kelvin above the start that the fibre goes to, seconds of true time that
    it takes for the way there)."""

    paddles: tuple[float, ...]
    bias: tuple[float, ...]
    enabled: bool = True  # detectors biased at all
    transmission: float = 1.0  # extra factor on the fibre: 10 dB more loss is 0.1
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)  # extra turn of the fibre
    dark_factor: float = 1.0
    background_factor: float = 1.0
    efficiency: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # factors: detectors age
    dark: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # factors on the dark counts, beside dark_factor
    light: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # further clicks/s, as of a lamp or a bright pulse
    climate: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, side: SideParameters) -> SideSetting:
        """Aligned, at nominal bias."""
        return cls(tuple(side.paddles), tuple(d.bias for d in side.detectors))


@dataclass(slots=True)
class LineSetting:
    """The line: source and eavesdropper, and both receivers."""

    alice: SideSetting
    bob: SideSetting
    brightness: float = 1.0  # factor on the pair rate
    source_on: bool = True
    eve: float = 0.0  # fraction of pairs whose photon to Bob is intercepted, measured in Z or X and resent
    frozen: bool = False  # nothing clicks on either side

    @classmethod
    def of(cls, line: LineParameters) -> LineSetting:
        return cls(SideSetting.of(line.alice), SideSetting.of(line.bob))


@dataclass(slots=True)
class PulsedSetting:
    """A prepare-and-measure line. What the transmitter's registers say, the adversary, and the receiver."""

    bob: SideSetting
    intensities: tuple[float, float, float] = (0.6, 0.26, 0.0)  # mean photon numbers of signal and decoys at the exit
    attenuation: float = 0.0  # dB between there and the fibre
    brightness: float = 1.0  # further factor on the mean photon numbers, unknown to the transmitter
    source_on: bool = True
    eve: float = 0.0  # fraction of pulses that are intercepted, measured in Z or X and resent
    pns: bool = False  # photon-number splitting: no single photon reaches Bob
    frozen: bool = False  # nothing clicks

    @classmethod
    def of(cls, line: PulsedParameters) -> PulsedSetting:
        return cls(SideSetting.of(line.bob))

    @property
    def means(self) -> tuple[float, float, float]:
        """Mean photon numbers that enter the fibre."""
        factor = self.brightness * 10.0 ** (-self.attenuation / 10.0) if self.source_on and not self.frozen else 0.0
        signal, decoy, weakest = (value * factor for value in self.intensities)
        return signal, decoy, weakest
