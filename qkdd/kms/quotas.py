"""How often an application may ask and how much key it may draw: a bucket each that fills evenly.

Per process and in memory: replicas count each for themselves, and a start begins with full buckets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qkdd.core.clock import Clock
from qkdd.kms.config import KmsConfig
from qkdd.kms.errors import QuotaSpent, RateExceeded

_HOUR = 3600.0


@dataclass(slots=True)
class _Bucket:
    """`size` units at most, `rate` more a second."""

    size: float
    rate: float
    level: float
    at: float

    def fill(self, now: float) -> float:
        self.level = min(self.size, self.level + (now - self.at) * self.rate)
        self.at = now
        return self.level

    def take(self, amount: float, now: float) -> float:
        """0 when taken, else the seconds until that much is there."""
        missing = amount - self.fill(now)
        if missing > 0:
            return missing / self.rate
        self.level -= amount
        return 0.0


class Quotas:
    """Of every application in the configuration; one without limits costs nothing."""

    def __init__(self, config: KmsConfig, clock: Clock) -> None:
        self._clock = clock
        now, limits = clock.monotonic(), config.limits
        self._requests: dict[str, _Bucket] = {}
        self._bits: dict[str, _Bucket] = {}
        for name, sae in config.saes.items():
            rate = limits.requests_per_s if sae.requests_per_s is None else sae.requests_per_s
            bits = limits.key_bits_per_h if sae.key_bits_per_h is None else sae.key_bits_per_h
            if rate:
                self._requests[name] = _Bucket(max(1.0, rate), rate, max(1.0, rate), now)
            if bits:
                self._bits[name] = _Bucket(bits, bits / _HOUR, bits, now)

    def ask(self, sae: str) -> None:
        """One request. Raises RateExceeded."""
        bucket = self._requests.get(sae)
        if bucket is not None and (wait := bucket.take(1.0, self._clock.monotonic())):
            raise RateExceeded(f"{sae} asks more often than it may", wait, requests_per_s=bucket.rate)

    def limited(self, sae: str) -> bool:
        """Whether the key that it draws is counted."""
        return sae in self._bits

    @contextmanager
    def drawing(self, sae: str, bits: int) -> Iterator[None]:
        """A draw of so much key; what is not drawn in the end is not counted. Raises QuotaSpent."""
        bucket = self._bits.get(sae)
        if bucket is None:
            yield
            return
        if wait := bucket.take(bits, self._clock.monotonic()):
            left = math.floor(bucket.level)
            if bits > bucket.size:
                raise QuotaSpent(f"{bits} bits are more than {sae} may draw in an hour", None, bits_left=left)
            raise QuotaSpent(f"{sae} has drawn what it may", wait, bits_left=left)
        try:
            yield
        except BaseException:
            bucket.level = min(bucket.size, bucket.level + bits)
            raise

    def requests_per_s(self, sae: str) -> float | None:
        """What the application may ask in a second; None: as often as it likes."""
        bucket = self._requests.get(sae)
        return bucket.rate if bucket is not None else None

    def key_bits(self, sae: str) -> tuple[int, int] | None:
        """(bits an hour, bits left now); None without a quota."""
        bucket = self._bits.get(sae)
        return (int(bucket.size), math.floor(bucket.fill(self._clock.monotonic()))) if bucket is not None else None
