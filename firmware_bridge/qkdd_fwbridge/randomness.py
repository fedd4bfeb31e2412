"""Random choices that the host feeds to a board: a raw noise source, tested without pause, then extracted.

Never an algorithm with a short seed: the bytes given out are a Toeplitz hash of fresh noise (leftover hash lemma,
Impagliazzo, Levin, Luby 1989): from n bits of min-entropy h each, m = floor(n h) - 2 log2(1/eps) bits that are eps-close to
uniform, also for who knows the hash's seed (which comes from the operating system once a source, and may be public).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qkdd.kernels import pack_bits, toeplitz, unpack_bits
from qkdd_fwbridge.errors import SourceFailed
from qkdd_fwbridge.health import STARTUP, HealthTest

BLOCK_BITS = 8192
EPSILON_LOG2 = -64


class HealthTestedSource:
    """`read(count)` gives exactly `count` raw bytes of noise; `entropy` is what its maker guarantees a bit, at least.

    The first 1024 bits are tested and thrown away. After a failed test nothing is given out any more.
    """

    def __init__(self, read: Callable[[int], bytes], entropy: float) -> None:
        self._read = read
        self._test = HealthTest(entropy)
        self._out_bits = (math.floor(BLOCK_BITS * entropy) + 2 * EPSILON_LOG2) // 8 * 8
        if self._out_bits <= 0:
            raise ValueError(f"a source with {entropy} bits of entropy a bit gives nothing")
        length = BLOCK_BITS + self._out_bits - 1
        whole = (length + 7) // 8
        self._seed = unpack_bits(secrets.token_bytes(whole), 8 * whole)[:length]
        self._ready = bytearray()
        self._started = False

    @property
    def ratio(self) -> float:
        """Bytes out for each byte of noise."""
        return self._out_bits / BLOCK_BITS

    def take(self, count: int) -> bytes:
        """`count` bytes for choices. Raises SourceFailed."""
        if not self._started:
            self._raw(STARTUP)
            self._started = True
        if self._test.failure is not None:  # also what was made before: the fault may be older than its discovery
            self._ready.clear()
            raise SourceFailed(self._test.failure)
        while len(self._ready) < count:
            self._ready += pack_bits(toeplitz(self._raw(BLOCK_BITS), self._seed, self._out_bits))
        data = bytes(self._ready[:count])
        del self._ready[:count]
        return data

    def _raw(self, bits: int) -> NDArray[np.uint8]:
        data = self._read(bits // 8)
        if len(data) != bits // 8:
            raise SourceFailed(f"the source gave {len(data)} of {bits // 8} bytes")
        values = unpack_bits(data, bits)
        self._test.feed(values)
        return values
