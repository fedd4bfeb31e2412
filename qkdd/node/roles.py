"""Which roles a driver plays, seen from its class."""

from __future__ import annotations

from qkdd.device import Driver, PolarizationController, TimeTagger, roles

ROLES: dict[str, type] = {
    "time tagger": TimeTagger,
    "symbol source": roles.SymbolSource,
    "detector": roles.Detector,
    "polarization controller": PolarizationController,
    "attenuator": roles.Attenuator,
    "power meter": roles.PowerMeter,
    "laser driver": roles.LaserDriver,
    "temperature controller": roles.TemperatureController,
    "entropy source": roles.EntropySource,
    "optical switch": roles.OpticalSwitch,
    "clock reference": roles.ClockReference,
    "rotation mount": roles.RotationMount,
}


def plays(driver: Driver, role: type) -> bool:
    """Whether the class has every member of the role. (isinstance() would run properties that need an open device.)"""
    return all(hasattr(type(driver), name) for name in vars(role) if not name.startswith("_"))
