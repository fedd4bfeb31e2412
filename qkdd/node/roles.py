"""Which roles a driver plays, seen from its class."""

from __future__ import annotations

from qkdd.device import Driver, PolarizationController, TimeTagger
from qkdd.device.roles import Detector

ROLES: dict[str, type] = {
    "time tagger": TimeTagger,
    "detector": Detector,
    "polarization controller": PolarizationController,
}


def plays(driver: Driver, role: type) -> bool:
    """Whether the class has every member of the role. (isinstance() would run properties that need an open device.)"""
    return all(hasattr(type(driver), name) for name in vars(role) if not name.startswith("_"))
