"""Clicks and prepared symbols of a gigahertz link, as arrays in memory or files in a folder.

Loss, detectors and clocks are the bench's (`qkdd_hil.physics`); nanowires of 30 ps and 15 ns dead time at more than 20 million
clicks a second. The symbols come from a seeded generator: a recording is no key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from qkdd_fwbridge.symbols import choose, pack, unpack

from qkdd.core.units import Fraction, Hertz, Radians, Seconds
from qkdd_hil.physics import (
    ClockParameters,
    DetectorParameters,
    FibreParameters,
    PulsedLine,
    PulsedParameters,
    SideParameters,
    TransmitterParameters,
)

PULSE_HZ = 1e9
BATCH = 1 << 20  # symbols drawn at once


@dataclass(frozen=True, slots=True)
class Terms:
    """What a recording was made with. transmission: from the transmitter's exit to a click, detector included."""

    seconds: float = 0.05
    seed: int = 1
    pulse_hz: float = PULSE_HZ
    transmission: float = 0.1
    mu: tuple[float, float, float] = (0.45, 0.18, 0.001)
    p: tuple[float, float, float] = (0.4, 0.4, 0.2)
    x_basis: float = 0.1
    receiver_x_basis: float = 0.1
    offset_s: float = 0.12
    ppm: float = 3.1

    @property
    def pulses(self) -> int:
        return round(self.seconds * self.pulse_hz)


@dataclass(frozen=True, slots=True)
class Recording:
    """times: int64[n] ps, sorted. detectors: uint8[n], 0 to 3 = H, V, D, A. symbols: uint8[pulses], what was prepared."""

    terms: Terms
    times: NDArray[np.int64]
    detectors: NDArray[np.uint8]
    symbols: NDArray[np.uint8]

    @property
    def clicks_per_s(self) -> float:
        return len(self.times) / self.terms.seconds

    def first_centre(self) -> int:
        """When the centre of slot 0 is, ps, as the bench knows it; a link finds it by its alignment."""
        return round((self.terms.offset_s + FIBRE_S * (1 + self.terms.ppm * 1e-6)) * 1e12)

    def save(self, folder: Path) -> None:
        """times.npy, detectors.npy, symbols.bin (four bits a pulse), terms.json."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "times.npy", self.times)
        np.save(folder / "detectors.npy", self.detectors)
        (folder / "symbols.bin").write_bytes(pack(self.symbols))
        (folder / "terms.json").write_bytes(msgspec.json.format(msgspec.json.encode(self.terms)) + b"\n")

    @classmethod
    def load(cls, folder: Path) -> Recording:
        """What `save` wrote."""
        terms = msgspec.json.decode((folder / "terms.json").read_bytes(), type=Terms)
        symbols = unpack((folder / "symbols.bin").read_bytes(), terms.pulses)
        return cls(terms, np.load(folder / "times.npy"), np.load(folder / "detectors.npy"), symbols)


FIBRE_S = 49e-6  # 10 km


def bench_of(terms: Terms) -> PulsedParameters:
    """The optics of a recording."""
    detectors = tuple(
        DetectorParameters(
            efficiency=Fraction(0.8),
            delay=Seconds(0.0),
            jitter=Seconds(30e-12),
            dead_time=Seconds(15e-9),
            dark_counts=Hertz(200.0),
            background=Hertz(500.0),
        )
        for _ in range(4)
    )
    bob = SideParameters(
        fibre=FibreParameters(
            transmission=Fraction(terms.transmission / 0.8), delay=Seconds(FIBRE_S), drift=Radians(0.02)
        ),
        detectors=detectors,
        clock=ClockParameters(offset=Seconds(terms.offset_s), frequency_error_ppm=terms.ppm, wander_ppm=0.01),
        basis_z=Fraction(1.0 - terms.receiver_x_basis),
        resolution=Seconds(1e-12),
    )
    return PulsedParameters(
        transmitter=TransmitterParameters(pulse_width=Seconds(20e-12), clock=ClockParameters(wander_ppm=0.0)), bob=bob
    )


def prepared(terms: Terms) -> Iterator[NDArray[np.uint8]]:
    """The symbols, in batches."""
    rng = np.random.Generator(np.random.SFC64(terms.seed))
    first, second = round(terms.p[0] * 65536), round((terms.p[0] + terms.p[1]) * 65536)
    left = terms.pulses
    while left > 0:
        words = rng.integers(0, 1 << 32, min(BATCH, left), dtype=np.uint32)
        yield choose(words, round(terms.x_basis * 32768), first, second)
        left -= len(words)


def generate(terms: Terms) -> Recording:
    """Some 5 s of one core and 1.1 GB of memory for each second at 1 GHz."""
    line = PulsedLine(bench_of(terms), terms.seed)
    line.setting.intensities = terms.mu
    line.began(0.0, terms.pulse_hz)
    symbols = np.empty(terms.pulses, np.uint8)
    at = 0
    for batch in prepared(terms):
        symbols[at : at + len(batch)] = batch
        line.pulses(at, symbols[at : at + len(batch)])
        at += len(batch)
    line.ended()
    begin = round(terms.offset_s * 1e12)
    line.clicks(0, begin)  # dark counts before the first pulse arrives
    times, detectors = line.clicks(begin, begin + round((terms.seconds + FIBRE_S) * 1e12))
    return Recording(terms, times, detectors, symbols)
