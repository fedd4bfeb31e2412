"""NOR flash of a simulated board: bits are cleared by programming and set by erasing a sector; power can fail at any byte."""

from __future__ import annotations

import numpy as np

SECTOR = 4096


class PowerLost(Exception):
    """The supply failed in the middle of what was being done."""


class Power:
    """The supply. `cut_after` bytes of flash work it fails (None: never)."""

    def __init__(self, seed: int = 1) -> None:
        self.random = np.random.default_rng(seed)
        self.cut_after: int | None = None
        self.work = 0  # bytes of flash work done since the beginning
        self.lost = False

    def restore(self) -> None:
        """Power is back; the next cut must be asked for again."""
        self.lost, self.cut_after = False, None

    def spend(self) -> bool:
        """One byte of work; False when power fails in it."""
        if self.lost:
            raise PowerLost
        self.work += 1
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                self.lost = True
                return False
        return True

    def free(self, count: int) -> bool:
        """Whether `count` bytes of work go through without a cut; then they are spent."""
        if self.lost or (self.cut_after is not None and self.cut_after < count):
            return False
        self.work += count
        if self.cut_after is not None:
            self.cut_after -= count
        return True


class Flash:
    """`sectors` sectors of 4096 bytes. A cut leaves the byte in hand with some of its bits done, as a real part does."""

    def __init__(self, sectors: int, power: Power) -> None:
        self.data = bytearray(b"\xff" * (sectors * SECTOR))
        self.sectors, self._power = sectors, power

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self.data[offset : offset + count])

    def erase(self, sector: int) -> None:
        """Set all bits of a sector. Raises PowerLost with the sector in any state between before and after."""
        for _ in range(16):  # an erase takes about as long as this many bytes of programming
            if not self._power.spend():
                mess = self._power.random.bytes(SECTOR)
                start = sector * SECTOR
                for index, bits in enumerate(mess):
                    self.data[start + index] |= bits
                raise PowerLost
        self.data[sector * SECTOR : (sector + 1) * SECTOR] = b"\xff" * SECTOR

    def program(self, offset: int, data: bytes) -> None:
        """Clear the bits that are 0 in `data`. Raises PowerLost with the first bytes done."""
        if self._power.free(len(data)):
            old = np.frombuffer(self.data, np.uint8, len(data), offset)
            self.data[offset : offset + len(data)] = (old & np.frombuffer(data, np.uint8)).tobytes()
            return
        for index, value in enumerate(data):
            if not self._power.spend():
                self.data[offset + index] &= value | int(self._power.random.integers(256))
                raise PowerLost
            self.data[offset + index] &= value
