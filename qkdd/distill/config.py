"""What both nodes must agree on before they distil: part of the shared link section of the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from qkdd.core.config import Section
from qkdd.core.units import Fraction
from qkdd.distill.decoy_config import DecoySettings

ProofName = Literal["bbm92/tl2017", "bbm92/lim2021"]
Method = Literal["ldpc", "cascade"]  # of error correction
LDPC_FRAME_LEAST, LDPC_FRAME_MOST = 16_384, 1_048_576


class DistillConfig(Section, frozen=True):
    """Base of the shared link section; every field is hashed and compared with the peer's.

    proof: which theorem gives the length. Blocks below `small_block` sifted bits use `bbm92/lim2021` in any case.
    qber_max: highest error rate that may ever be tolerated. error_margin: added to the error of earlier blocks.
    eps_sec, eps_cor: secrecy and correctness parameter of one block; eps_auth: allowance for forging any of its tags.
    leak_efficiency: Cascade parities (one direction) over the Shannon limit for which the leak budget is sized.
    reconciler: method of error correction; `auto` lets alice choose for each block (`qkdd.distill.policy`).
    ldpc_frame: most bits that one LDPC frame may have; longer frames disclose less and decode slower.
    tags_per_block: Wegman-Carter tags of 128 bits that one block consumes, both directions together.
    decoy: the pulses and the proof of a prepare-and-measure link, which takes the place of `proof`; None for entangled pairs.
    """

    proof: ProofName = "bbm92/tl2017"
    small_block: int = 20_000
    qber_max: Fraction = Fraction(0.05)
    error_margin: Fraction = Fraction(0.005)
    eps_sec: float = 9.97e-13
    eps_cor: float = 1e-15
    eps_auth: float = 1e-15
    leak_efficiency: float = 1.10
    reconciler: Literal["auto", "ldpc", "cascade"] = "auto"
    ldpc_frame: int = 262_144
    tags_per_block: int = 8
    decoy: DecoySettings | None = None

    @property
    def eps_block(self) -> float:
        """What one block, accepted or refused, takes from the ledger."""
        return self.eps_sec + self.eps_cor + self.eps_auth

    def check(self) -> Iterator[tuple[str, str, str]]:
        for key in ("eps_sec", "eps_cor", "eps_auth"):
            value = getattr(self, key)
            if not (math.isfinite(value) and 0.0 < value < 1e-3):
                yield (
                    key,
                    f"{value} lies outside 0 to 1e-3",
                    "a usual value is 1e-12 for eps_sec and 1e-15 for the others",
                )
        if not 1.0 <= self.leak_efficiency <= 2.0:
            yield "leak_efficiency", f"{self.leak_efficiency} lies outside 1 to 2", "1.10 suits blocks above 1e5 bits"
        if not 0.0 < self.qber_max < 0.5:
            yield "qber_max", f"{float(self.qber_max)} is no usable error rate", "a usual value is 0.05"
        if not LDPC_FRAME_LEAST <= self.ldpc_frame <= LDPC_FRAME_MOST:
            yield (
                "ldpc_frame",
                f"{self.ldpc_frame} lies outside {LDPC_FRAME_LEAST} to {LDPC_FRAME_MOST}",
                "262144 suits most links; 65536 decodes faster",
            )
        if not 1 <= self.tags_per_block <= 8:
            yield "tags_per_block", f"{self.tags_per_block} lies outside 1 to 8", "the block protocol uses 8"
        if self.small_block < 0:
            yield "small_block", "is negative", "0 switches to bbm92/lim2021 never, 20000 is the default"
        if self.decoy is not None and 0.0 < self.eps_sec < 1e-3 and 0.0 < self.eps_cor < 1e-3:
            for key, problem, remedy in self.decoy.check_length(self.eps_sec, self.eps_cor):
                yield f"decoy.{key}", problem, remedy
