"""What the rooms above ask of an instrument. A driver says which roles it plays; one driver may play several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qkdd.device.tags import StreamStart, TagBlock


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
