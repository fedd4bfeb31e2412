"""What the rooms above ask of an instrument. A driver says which roles it plays; one driver may play several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qkdd.device.firmware import FirmwareTarget
from qkdd.device.tags import StreamStart, TagBlock

__all__ = [
    "AskedSymbols",
    "Attenuator",
    "ClockReference",
    "CountReading",
    "Detector",
    "EntropySource",
    "FirmwareTarget",
    "Identity",
    "LaserDriver",
    "OpticalSwitch",
    "PolarizationController",
    "PowerMeter",
    "PreparedSymbols",
    "RotationMount",
    "SymbolSource",
    "TemperatureController",
    "TimeTagger",
]


@dataclass(frozen=True, slots=True)
class Identity:
    """What an instrument says it is; empty strings where it does not say."""

    vendor: str
    model: str
    serial: str
    firmware: str


@dataclass(frozen=True, slots=True)
class CountReading:
    """Counts per detector over one period."""

    wall: float  # seconds since the Unix epoch, end of the period
    period: float  # seconds
    counts: tuple[int, ...]


@runtime_checkable
class TimeTagger(Protocol):
    """Stamps clicks. `read` returns what has come since the last call, at the latest after about 100 ms, also if empty."""

    @property
    def resolution_ps(self) -> int: ...

    @property
    def inputs(self) -> int: ...

    async def start(self) -> StreamStart: ...

    async def read(self) -> TagBlock: ...

    async def stop(self) -> None: ...


@runtime_checkable
class Detector(Protocol):
    """An array of single-photon detectors with bias and counts. Bias in ampere (SNSPD) or volt (APD): see `bias_unit`."""

    @property
    def detectors(self) -> int: ...

    @property
    def bias_unit(self) -> str: ...

    async def counts(self) -> CountReading: ...

    async def bias(self) -> tuple[float, ...]: ...

    async def set_bias(self, detector: int, value: float) -> float: ...

    async def set_enabled(self, enabled: bool) -> None: ...


@runtime_checkable
class PolarizationController(Protocol):
    """Paddles or squeezers that turn the polarization in the fibre; settings in radian or volt: see `setting_unit`."""

    @property
    def paddles(self) -> int: ...

    @property
    def setting_unit(self) -> str: ...

    @property
    def setting_range(self) -> tuple[float, float]: ...

    async def settings(self) -> tuple[float, ...]: ...

    async def move(self, paddle: int, value: float) -> float:
        """Move one paddle, wait until it has arrived, return the read-back."""


@runtime_checkable
class Attenuator(Protocol):
    """Weakens light by so many decibels, insertion loss included. Its safe state is the largest attenuation."""

    @property
    def attenuation_range(self) -> tuple[float, float]: ...

    async def read_attenuation(self) -> float: ...

    async def set_attenuation(self, value: float) -> float:
        """Set, wait until it is there, return the read-back."""


@runtime_checkable
class PowerMeter(Protocol):
    """Measures optical power at a wavelength that it must be told, because its sensor answers by wavelength."""

    async def read_power(self) -> float:
        """In watt. Raises CommandRefused when the light is outside the measuring range or no sensor is connected."""

    async def set_wavelength(self, value: float) -> float:
        """In metre; returns the read-back."""


@runtime_checkable
class LaserDriver(Protocol):
    """Drives a laser diode. Its safe state is no emission and no current."""

    @property
    def current_range(self) -> tuple[float, float]: ...

    async def read_current(self) -> float:
        """Measured, in ampere."""

    async def set_current(self, value: float) -> float:
        """Go to `value` ampere in steps; returns the set-point's read-back."""

    async def is_emitting(self) -> bool: ...

    async def set_emission(self, on: bool) -> None:
        """Raises CommandRefused, with nothing switched, while the diode's temperature is not under control."""


@runtime_checkable
class TemperatureController(Protocol):
    """Holds a temperature (in kelvin). It goes on doing so when the program closes the device, unless told otherwise."""

    @property
    def temperature_range(self) -> tuple[float, float]: ...

    async def read_temperature(self) -> float:
        """Measured."""

    async def set_temperature(self, value: float) -> float:
        """Returns the set-point's read-back; does not wait until the temperature is reached."""

    async def set_control(self, on: bool) -> None:
        """Switch the control loop."""


@runtime_checkable
class EntropySource(Protocol):
    """A physical noise source whose every bit goes through the health tests of NIST SP 800-90B, 4.4."""

    @property
    def entropy_per_bit(self) -> float:
        """Min-entropy a bit that is claimed for it, in (0, 1]; the health tests' cut-offs follow from it."""

    async def read_noise(self, count: int) -> bytes:
        """Exactly `count` tested raw bytes. Raises EntropyFailed, from the first failed test on at every call."""


@runtime_checkable
class ClockReference(Protocol):
    """A frequency standard that taggers run on."""

    async def is_locked(self) -> bool:
        """Whether its frequency may be relied on."""


@runtime_checkable
class OpticalSwitch(Protocol):
    """Leads light to one of several positions, counted from 1 as they are labelled."""

    @property
    def positions(self) -> int: ...

    async def read_position(self) -> int: ...

    async def select(self, position: int) -> int:
        """Switch, wait until it is there, return the read-back."""


@runtime_checkable
class RotationMount(Protocol):
    """Turns an optical element; angles in radian from its home position."""

    @property
    def angle_range(self) -> tuple[float, float]: ...

    async def read_angle(self) -> float: ...

    async def rotate(self, value: float) -> float:
        """Turn, wait until it has arrived, return the read-back."""

    async def home(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PreparedSymbols:
    """Consecutive pulses from `first_slot` on. basis (0 = Z, 1 = X), bit, intensity (0 = signal, 1, 2 = decoys): uint8[n].

    skipped: slots just before without a pulse, by the transmitter's own count. lost: slots just before whose symbols were
    lost on the way to the host. faults: stable codes; not empty means that the block must be discarded.
    """

    first_slot: int
    basis: NDArray[np.uint8]
    bit: NDArray[np.uint8]
    intensity: NDArray[np.uint8]
    skipped: int
    lost: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskedSymbols:
    """Symbols of the asked slots, uint8[n]; `here` bool[n] is False (and the symbol 0) where no pulse was sent or where the
    transmitter's memory has been written over."""

    here: NDArray[np.bool_]
    basis: NDArray[np.uint8]
    bit: NDArray[np.uint8]
    intensity: NDArray[np.uint8]
    oldest: int
    next_slot: int


@runtime_checkable
class SymbolSource(Protocol):
    """A transmitter that says what it prepared: as a full stream, or for the slots that it is asked for."""

    @property
    def pulse_rate_hz(self) -> float: ...

    async def prepare(self, x_basis: float, intensities: tuple[float, float, float]) -> None:
        """Probabilities of the X basis and of the three intensities; not while pulses run."""

    async def start_symbols(self, *, on_demand: bool) -> int:
        """Begin; returns the first slot."""

    async def read_symbols(self) -> list[PreparedSymbols]:
        """Full stream: what has come since the last call, at the latest after about 100 ms, also if empty."""

    async def ask_symbols(self, slots: NDArray[np.int64]) -> AskedSymbols:
        """On demand: the symbols of rising slots."""

    async def release_symbols(self, below: int) -> None:
        """On demand: slots below are no longer needed."""

    async def stop_symbols(self) -> list[PreparedSymbols]:
        """End; returns what was still on its way, losses at the end included."""
