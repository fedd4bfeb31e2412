"""The second bench: other makers' instruments around the same source of pairs.

Alice: PicoQuant MultiHarp, four ID Quantique ID120 (one for each detector), OZ Optics EPC-400 and DD-100. Bob: S-Fifteen TDC2,
Single Quantum WebSQ, Thorlabs MPC320.
"""

from __future__ import annotations

from qkdd_drivers.idq_id120.sim import Id120Sim
from qkdd_drivers.ozoptics_dd100.sim import Dd100Sim
from qkdd_drivers.ozoptics_epc400.sim import Epc400Sim
from qkdd_drivers.picoquant.sim import MultiHarpSim
from qkdd_drivers.s15_tdc2.sim import Tdc2Sim
from qkdd_drivers.simkit import ClickSource, Simulator
from qkdd_drivers.single_quantum_websq.sim import WebSqSim
from qkdd_drivers.thorlabs_mpc320.sim import Mpc320Sim

from qkdd_hil.bench.config import InstrumentsConfig
from qkdd_hil.bench.wiring import DetectorArray, Paddles
from qkdd_hil.physics import SideSetting
from qkdd_hil.physics.parameters import DETECTORS, MID_TRAVEL

ID120_NAMES = ("detectors", "detectors-v", "detectors-d", "detectors-a")
"""Detectors H, V, D, A; the first has the name that a link's only detector controller has."""
NOMINAL_BIAS_V = 165.0
SQUEEZER_V = 5.0
LEAST_DB = 1.2  # insertion loss of the attenuator


class OneDetector:
    """One of a side's four detectors behind a controller of its own (`DetectorBench`); its bias comes in volt."""

    detectors = 1

    def __init__(self, array: DetectorArray, setting: SideSetting, number: int) -> None:
        self._array, self._setting, self._number = array, setting, number
        self._nominal = setting.bias[number]  # what the physics calls its nominal bias

    def counts(self, period_s: float) -> tuple[int, ...]:
        return (self._array.counts(period_s)[self._number],)

    def set_bias(self, bias: tuple[float, ...]) -> None:
        values = list(self._setting.bias)
        values[self._number] = bias[0] / NOMINAL_BIAS_V * self._nominal
        self._setting.bias = tuple(values)

    def set_enabled(self, enabled: bool) -> None:
        """An ID120 has no switch beside its bias."""


class Squeezers:
    """Three of the four squeezers turn the light as the paddles of the first bench do; no voltage is mid-travel."""

    def __init__(self, paddles: Paddles) -> None:
        self._paddles = paddles

    def move(self, volts: tuple[float, ...]) -> None:
        a, b, c = (float(MID_TRAVEL) * (1.0 + volt / SQUEEZER_V) for volt in volts[:3])
        self._paddles.move((a, b, c))


class Shade:
    """The attenuator before a receiver."""

    def __init__(self, setting: SideSetting) -> None:
        self._setting = setting

    def dim(self, decibels: float) -> None:
        self._setting.transmission = min(1.0, 10.0 ** (-(decibels - LEAST_DB) / 10.0))


def alice(
    where: InstrumentsConfig, clicks: ClickSource, array: DetectorArray, setting: SideSetting, seed: int
) -> dict[str, Simulator]:
    """Her instruments by name."""
    instruments: dict[str, Simulator] = {
        "alice.tagger": MultiHarpSim(clicks, seed=seed),
        "alice.polarization": Epc400Sim(Squeezers(Paddles(setting)).move, seed=seed, pty=where.polarization or None),
        "alice.attenuator": Dd100Sim(Shade(setting).dim, seed=seed, pty=where.attenuator or None),
    }
    for number, name in zip(range(DETECTORS), ID120_NAMES, strict=True):
        one = OneDetector(array, setting, number)
        instruments[f"alice.{name}"] = Id120Sim(one, seed=seed + number)
    setting.bias = (0.0,) * DETECTORS  # as the ID120s are when they are switched on
    return instruments


def bob(
    where: InstrumentsConfig, clicks: ClickSource, array: DetectorArray, setting: SideSetting, seed: int
) -> dict[str, Simulator]:
    """His instruments by name."""
    control, counts = where.detectors_ports
    host = where.detectors_host
    return {
        "bob.tagger": Tdc2Sim(clicks, seed=seed),
        "bob.detectors": WebSqSim(array, host=host, port=control, counts_port=counts, seed=seed),
        "bob.polarization": Mpc320Sim(Paddles(setting).move, seed=seed, pty=where.polarization or None),
    }
