"""Counts of a block of pulses, per intensity: what the decoy proofs are given, and what the operator is shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qkdd import kernels
from qkdd.security.channel import BlockCounts
from qkdd.security.errors import InconsistentCounts

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DecoyStatistics:
    """One block's counts per intensity, brightest first: detections n and bit errors m of both bases, both nodes in the basis.

    m_test is None until the test basis was opened, m_key until the key basis was corrected and verified (one-decoy modes only).
    """

    pulses: int
    mu: tuple[float, ...]
    p: tuple[float, ...]
    x_basis: float
    n_key: Counts
    n_test: Counts
    m_test: Counts | None = None
    m_key: Counts | None = None

    @property
    def gains(self) -> tuple[float, ...]:
        """Detections per pulse of each intensity, whatever the receiver's choice of basis: the matched detections of each
        basis over the pulses that the transmitter prepared in it."""
        key, test = self.pulses * (1.0 - self.x_basis), self.pulses * self.x_basis
        return tuple((n / key + t / test) / p for n, t, p in zip(self.n_key, self.n_test, self.p, strict=True))

    @property
    def errors(self) -> tuple[float | None, ...]:
        """Error rate of each intensity in the test basis; None where nothing was detected or opened."""
        return tuple(m / n if n else None for m, n in zip(self.m_test or (), self.n_test, strict=bool(self.m_test)))

    @property
    def receiver_x_basis(self) -> float:
        """Share of detections that the receiver measures in X, from the matched detections of both bases."""
        key, test = sum(self.n_key) / (1.0 - self.x_basis), sum(self.n_test) / self.x_basis
        return test / (key + test) if key + test else 0.5

    def block_counts(self) -> BlockCounts:
        """As the proofs want them. What is not known yet counts as no errors: then only to learn that no key is possible."""
        zeros = (0,) * len(self.mu)
        return BlockCounts(
            _floats(self.n_key),
            _floats(self.m_key or zeros),
            _floats(self.n_test),
            _floats(self.m_test or zeros),
        )

    def with_tests(self, m_test: Counts) -> DecoyStatistics:
        return replace(self, m_test=m_test)

    def with_key_errors(self, m_key: Counts) -> DecoyStatistics:
        return replace(self, m_key=m_key)

    def with_key(self, n_key: Counts) -> DecoyStatistics:
        """The key basis without the detections that a fixed-length block drops."""
        return replace(self, n_key=n_key)


def _floats(counts: Counts) -> tuple[float, ...]:
    return tuple(float(value) for value in counts)


def per_intensity(intensities: NDArray[np.uint8], where: NDArray[np.bool_], kinds: int) -> Counts:
    """How many of the rounds `where` have intensity 0, 1, …, kinds - 1. Raises InconsistentCounts on a further one."""
    found = kernels.class_counts(intensities, where)
    if found[kinds:].any():
        further = int(np.flatnonzero(found)[-1])
        raise InconsistentCounts(f"intensity {further} in a block of {kinds} intensities", name="intensities")
    return tuple(int(value) for value in found[:kinds])
