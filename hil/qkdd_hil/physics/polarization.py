"""Polarization as rotations of the Poincaré sphere: axes s1 (H/V), s2 (D/A), s3 (circular)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# A three-paddle controller wound as quarter, half and quarter wave plate reaches every rotation.
PADDLE_RETARDANCES = (math.pi / 2, math.pi, math.pi / 2)

# How the paddles' fibre loops stand when their scales read zero (rad). Three equal axes would be a singular point, where
# no small turn of any paddle undoes a drift about the common axis; a real mount is not there either.
PADDLE_MOUNT = (-0.30, 0.0, 1.20)

# Directions of the four analysers H, V, D, A on the sphere.
ANALYSERS: Matrix = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])


def rotation(vector: Sequence[float] | Matrix) -> Matrix:
    """float64[3, 3]: right-handed turn about `vector` by its length in radian (Rodrigues)."""
    v = np.asarray(vector, dtype=np.float64)
    angle = float(np.linalg.norm(v))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = v / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned: Matrix = np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * (cross @ cross)
    return turned


def retarder(axis: float, retardance: float) -> Matrix:
    """float64[3, 3]: wave plate whose fast axis stands at `axis` rad to horizontal: a turn by `retardance` about a
    linear polarization, which stands at twice the angle on the sphere."""
    return rotation((retardance * math.cos(2 * axis), retardance * math.sin(2 * axis), 0.0))


def paddles(angles: Sequence[float]) -> Matrix:
    """float64[3, 3]: what three paddles at `angles` (rad) do to light that meets the first one first."""
    total = np.eye(3)
    for angle, mount, retardance in zip(angles, PADDLE_MOUNT, PADDLE_RETARDANCES, strict=True):
        total = retarder(angle + mount, retardance) @ total
    return total


class SlowDrift:
    """A rotation vector that wanders smoothly from zero: three incommensurate sines an axis, a pure function of time,
    so that the bench can skip a stretch nobody listened to and stay repeatable."""

    def __init__(self, amplitude: float, period: float, rng: np.random.Generator) -> None:
        self._amplitude = amplitude
        self._rate = 2 * math.pi / (period * np.array([[1.0], [0.618], [0.314]]) * rng.uniform(0.8, 1.25, (3, 3)))
        self._phase = rng.uniform(0.0, 2 * math.pi, (3, 3))

    def at(self, seconds: float) -> Matrix:
        """float64[3], rad."""
        wave = np.sin(self._rate * seconds + self._phase) - np.sin(self._phase)
        vector: Matrix = self._amplitude / 3.0 * wave.sum(axis=0)
        return vector
