"""Photons of weak coherent pulses at the four detectors: what was prepared, what the adversary does, what arrives.

A symbol is basis << 3 | bit << 2 | intensity as on the transmitter's cable; ABSENT: no pulse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd_hil.physics.parameters import DETECTORS
from qkdd_hil.physics.polarization import ANALYSERS, Matrix

Symbols = NDArray[np.uint8]
Indices = NDArray[np.int64]

ABSENT = 0xFF
SYMBOLS = 16
_ROWS = 32  # of a table that a symbol's lower five bits choose from: ABSENT has a row of its own, of zeros
_MASK = np.uint8(_ROWS - 1)
MOST_PHOTONS = 24  # in a pulse that is split; the chance of more is below 1e-15 for means up to 2


def ports(visibility_z: float, visibility_x: float, turn: Matrix, basis_z: float) -> Matrix:
    """float64[2, 2, 4]: chance that a photon prepared in (basis, bit) leaves the receiver by port H, V, D, A."""
    prepared = ANALYSERS.reshape(2, 2, 3) * np.array([visibility_z, visibility_x])[:, None, None]
    share = np.repeat([basis_z, 1.0 - basis_z], 2)
    found: Matrix = share * (1.0 + prepared @ (ANALYSERS @ turn).T) / 2.0
    return found


def by_symbol(values: Matrix, intensities: Matrix) -> Matrix:
    """float64[32, 4]: `values` float64[2, 2, 4] of (basis, bit) times `intensities` float64[3], by symbol; zero where there is
    no such symbol."""
    table = np.zeros((_ROWS, DETECTORS))
    cells = np.einsum("bvd,k->bvkd", values, intensities)
    table[:SYMBOLS].reshape(2, 2, 4, DETECTORS)[:, :, :3] = cells
    return table


def coherent(symbols: Symbols, means: Matrix, rng: np.random.Generator) -> list[Indices]:
    """Per detector the pulse number of every photon that is detected, any order.

    means: float64[32, 4], mean number of photons by symbol and detector. The photons of a phase-randomised coherent pulse at
    different detectors are independent Poisson numbers. They are drawn as a Poisson process at the highest mean, thinned by
    symbol: no work for pulses without a photon.
    """
    found = []
    for detector in range(DETECTORS):
        mean = means[:, detector]
        peak = float(mean.max())
        at = rng.integers(0, max(1, len(symbols)), rng.poisson(len(symbols) * peak))
        keep = rng.random(len(at)) * peak < mean[symbols[at] & _MASK]
        found.append(at[keep])
    return found


def intercepted(symbols: Symbols, fraction: float, rng: np.random.Generator) -> Symbols:
    """Symbols as they leave an adversary who measures that fraction of the pulses in Z or X, with equal chance, and sends what
    she found with as many photons as she got: the basis is hers, the bit is random where hers was the wrong one."""
    random = rng.integers(0, 4, len(symbols), dtype=np.uint8)
    basis, bit = random >> np.uint8(1) << np.uint8(3), (random & np.uint8(1)) << np.uint8(2)
    right = (symbols & np.uint8(8)) == basis
    resent = basis | np.where(right, symbols & np.uint8(4), bit) | symbols & np.uint8(3)
    taken = (rng.random(len(symbols), dtype=np.float32) < fraction) & (symbols != ABSENT)
    result: Symbols = np.where(taken, resent, symbols).astype(np.uint8)
    return result


def poisson_weights(mean: float) -> Matrix:
    """float64[MOST_PHOTONS + 1]: chance of n photons."""
    n = np.arange(1, MOST_PHOTONS + 1)
    ratio = np.cumprod(mean / n)
    weights: Matrix = np.exp(-mean) * np.concatenate(([1.0], ratio))
    return weights


def split_gain(mean: float, arrives: float) -> float:
    """Chance that at least one of the n - 1 photons of a split pulse is detected; arrives: chance of each."""
    weights = poisson_weights(mean)[2:]
    others = np.arange(1, MOST_PHOTONS)
    return float((weights * (1.0 - (1.0 - arrives) ** others)).sum())


def forward_share(means: Matrix, shares: Matrix, line: float, lossless: float) -> float:
    """Which share of the stored-away photons the adversary lets go on, so that the mean gain over the intensities looks like
    the line's own: 1 where even all of them are too few. means, shares: float64[3]; line, lossless: chance that a photon at
    the transmitter's exit is detected, with and without the fibre's loss."""
    usual = float((shares * (1.0 - np.exp(-means * line))).sum())

    def gain(share: float) -> float:
        return sum(float(p) * split_gain(float(mu), lossless * share) for p, mu in zip(shares, means, strict=True))

    if gain(1.0) <= usual:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if gain(middle) < usual else (low, middle)
    return high


def split(symbols: Symbols, means: Matrix, arrives: Matrix, rng: np.random.Generator) -> list[Indices]:
    """As `coherent`, behind an adversary who counts the photons of each pulse without disturbing them, blocks pulses of one,
    keeps one photon of the others, and sends the rest on without loss.

    means: float64[3], photons at the exit by intensity. arrives: float64[32, 4], chance by symbol and detector that a photon that
    she sends is detected there.
    """
    weights = np.array([poisson_weights(mean) for mean in (*means, 0.0)])  # the last row is ABSENT's
    several = weights[:, 2:].sum(axis=1)
    level = symbols & np.uint8(3)
    hit = np.flatnonzero(rng.random(len(symbols)) < several[level])
    cumulative = np.cumsum(weights[:, 2:], axis=1) / np.maximum(several, 1e-300)[:, None]
    number = 1 + (rng.random(len(hit))[:, None] > cumulative[level[hit]]).sum(axis=1)  # photons that go on
    at = np.repeat(hit, np.minimum(number, MOST_PHOTONS - 1))
    goes = np.cumsum(arrives, axis=1)[symbols[at] & _MASK]
    port = (rng.random(len(at))[:, None] >= goes).sum(axis=1)
    return [at[port == detector] for detector in range(DETECTORS)]
