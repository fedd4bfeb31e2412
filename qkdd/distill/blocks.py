"""What goes into distillation and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkdd.core.secret import Secret
from qkdd.distill.decoy_counts import DecoyStatistics
from qkdd.distill.packed import PackedBits


@dataclass(frozen=True, slots=True, eq=False)
class SiftedBlock:
    """The matched-basis rounds of one block on one node.

    number: of the block, equal on both nodes. bits: m of them. bases: uint8[m], 0 = Z, 1 = X.
    acquisition_s: seconds of acquisition that the block stands for, gaps of the link included.
    """

    number: int
    bits: PackedBits
    bases: NDArray[np.uint8]
    acquisition_s: float

    def __post_init__(self) -> None:
        if self.bases.dtype != np.uint8 or self.bases.shape != (len(self.bits),):
            raise ValueError("bases are a uint8 array, one a bit")

    def __len__(self) -> int:
        return len(self.bits)

    def __repr__(self) -> str:
        return f"<SiftedBlock {self.number}: {len(self)} bits>"

    def wipe(self) -> None:
        """Zero the bits; `distil` does it when it is done with the block."""
        self.bits.wipe()


KEY_BASIS, TEST_BASIS = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class DecoyBlock:
    """The detected rounds of one block of pulses in which both nodes had the same basis, on one node.

    bits: uint8[m], 0 or 1. bases: uint8[m], 0 = Z makes key, 1 = X tests. intensities: uint8[m], 0 = signal, 1 and 2 = decoys,
    as the transmitter announced them after the block's last detection was registered. pulses: sent in the block.
    measured: mean photon numbers that the transmitter measured during the block (alice), None if it has no monitor.
    """

    number: int
    bits: NDArray[np.uint8]
    bases: NDArray[np.uint8]
    intensities: NDArray[np.uint8]
    pulses: int
    acquisition_s: float
    measured: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        columns = (self.bits, self.bases, self.intensities)
        if any(column.dtype != np.uint8 or column.ndim != 1 for column in columns):
            raise ValueError("bits, bases and intensities are uint8 arrays")
        if len({column.size for column in columns}) != 1:
            raise ValueError("bits, bases and intensities are of one and the same length")
        if self.bits.size and (self.bits.max() > 1 or self.bases.max() > 1 or self.intensities.max() > 2):
            raise ValueError("a bit and a basis is 0 or 1, an intensity 0, 1 or 2")

    def __len__(self) -> int:
        return int(self.bits.size)

    def __repr__(self) -> str:
        return f"<DecoyBlock {self.number}: {len(self)} bits of {self.pulses} pulses>"

    def wipe(self) -> None:
        """Zero the bits; `distil` does it when it is done with the block."""
        self.bits.fill(0)


@dataclass(frozen=True, slots=True, eq=False)
class DistilledBlock:
    """A block that passed every step on this node; it becomes key when both nodes hold it durably.

    key: `ceil(length / 8)` bytes, most significant bit first, unused bits of the last byte zero. length: secret bits.
    test_errors of test_size opened bits; actual_errors of key_size corrected bits. leak: key-dependent bits disclosed
    in both directions. f_parities: Alice's parities over `n h(actual error)`; f_sec: the whole leak over the same.
    rounds: exchanges of parities or syndromes, each one message both ways. method: of error correction; reason: why it was
    chosen. eps: secrecy + correctness + authentication error that this block spends (secrecy part: eps_sec).
    label: of the proof, shown wherever the length is. phase_error and decoy: of a block of pulses, whose test bits are the whole
    test basis.
    """

    number: int
    key: Secret
    length: int
    proof: str
    sifted: int
    tolerated_error: float
    test_errors: int
    test_size: int
    actual_errors: int
    key_size: int
    leak: int
    leak_budget: int
    rounds: int
    f_parities: float
    f_sec: float
    eps: float
    eps_sec: float
    eps_cor: float
    acquisition_s: float
    method: str = "cascade"
    reason: str = ""
    label: str = ""
    phase_error: float | None = None
    decoy: DecoyStatistics | None = None

    @property
    def qber(self) -> float:
        """Error rate over the whole block: opened and corrected bits."""
        return (self.test_errors + self.actual_errors) / self.sifted

    def __repr__(self) -> str:
        return f"<DistilledBlock {self.number}: {self.length} secret bits>"
