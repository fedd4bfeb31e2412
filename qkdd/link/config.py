"""Configuration of one quantum link: what is this node's own, and what both nodes must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from qkdd.core import units
from qkdd.core.config import Section
from qkdd.core.units import Fraction, Seconds
from qkdd.distill.config import DistillConfig

DETECTORS = ("H", "V", "D", "A")
StateName = Literal["phi+", "phi-", "psi+", "psi-"]

# Bob flips his bit in (Z, X) so that both nodes' bits agree: which of the Bell states the source makes.
STATE_FLIPS: dict[str, tuple[int, int]] = {"phi+": (0, 0), "phi-": (0, 1), "psi+": (1, 0), "psi-": (1, 1)}


class LinkShared(DistillConfig, frozen=True):
    """Everything that must be equal on both nodes; `canonical()` is what is hashed and compared.

    protocol: how clicks become sifted bits. state: Bell state of the source at the receivers.
    block: acquisition time of a block on bob's clock. window: full width of the coincidence window.
    announce_bin: bob's times are rounded to multiples of it before anybody sees them.
    dead_time: after any click all four detectors of the side are blanked for this long (the longest dead time).
    basis_imbalance_max: highest |n_Z - n_X| / (n_Z + n_X) of a block's sifted bits.
    open_stretch: time sacrificed for an alignment. offset_range: largest offset of the two tag streams that is searched.
    clock_error_max: largest relative frequency difference of the two clocks.
    """

    protocol: Literal["bbm92"] = "bbm92"
    state: StateName = "phi+"
    block: Seconds = Seconds(5.0)
    window: Seconds = Seconds(6e-9)
    announce_bin: Seconds = Seconds(2e-9)
    dead_time: Seconds = Seconds(100e-9)
    basis_imbalance_max: Fraction = Fraction(0.05)
    open_stretch: Seconds = Seconds(2.0)
    offset_range: Seconds = Seconds(1.25)
    clock_error_max: float = 10e-6

    @property
    def window_ps(self) -> int:
        return round(self.window * 1e12)

    @property
    def announce_ps(self) -> int:
        return round(self.announce_bin * 1e12)

    @property
    def dead_ps(self) -> int:
        return round(self.dead_time * 1e12)

    @property
    def block_ps(self) -> int:
        return round(self.block * 1e12)

    @property
    def flips(self) -> tuple[int, int]:
        """Whether bob flips his bit in (Z, X)."""
        return STATE_FLIPS[self.state]

    def canonical(self) -> dict[str, str]:
        """Every setting as text, in SI base units; equal on both nodes or the peers refuse each other."""
        tree = msgspec.to_builtins(self, enc_hook=_plain)
        return {key: str(tree[key]) for key in sorted(tree)}

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from super().check()
        if not 10e-12 <= self.window <= 1e-6:
            yield "window", f"{self.window} lies outside 10 ps to 1 us", "a few times the jitter, for example 6 ns"
        if not 0 < self.announce_ps <= self.window_ps / 2:
            yield (
                "announce_bin",
                f"{self.announce_bin} does not lie between 1 ps and half the window",
                "take the tagger's bin",
            )
        if self.dead_time < 2 * self.window:
            yield (
                "dead_time",
                f"{self.dead_time} is shorter than two coincidence windows, so that one click could pair twice",
                "take the longest dead time of the detectors, at least twice the window",
            )
        if not 0.1 <= self.block <= 600.0:
            yield "block", f"{self.block} lies outside 100 ms to 10 min", "5 s suits 1e4 sifted bits a second and more"
        if not 0.5 <= self.open_stretch <= 5.0:
            yield "open_stretch", f"{self.open_stretch} lies outside 0.5 s to 5 s", "2 s suits most links"
        if not 1e-3 <= self.offset_range <= 5.0:
            yield (
                "offset_range",
                f"{self.offset_range} lies outside 1 ms to 5 s",
                "1.25 s covers hosts that are 1 s apart",
            )
        if not 1e-9 <= self.clock_error_max <= 50e-6:
            yield (
                "clock_error_max",
                f"{self.clock_error_max} lies outside 1e-9 to 5e-5",
                "1e-5 covers two clocks of 5 ppm",
            )


def _plain(value: object) -> object:
    """Quantities compare as SI numbers, so that "5 s" and "5000 ms" are the same setting."""
    if isinstance(value, units.Quantity):
        return float(value)
    return units.enc_hook(value)


class LinkConfig(Section, frozen=True):
    """One node's end of a link.

    tagger, detectors, polarization: names of device sections. channels: detector to input of the tagger (0-based).
    delays: what is already known of each detector's path; what is left is measured in every alignment.
    buffer_blocks: blocks that may wait for processing before the oldest clicks are dropped (and counted).
    realign_after: blocks refused in a row for a lost lock before a new alignment.
    """

    name: str
    role: Literal["alice", "bob"]
    shared: LinkShared = LinkShared()
    tagger: str = "tagger"
    detectors: str | None = None
    polarization: str | None = None
    channels: dict[str, int] = msgspec.field(
        default_factory=lambda: {name: index for index, name in enumerate(DETECTORS)}
    )
    delays: dict[str, Seconds] = {}
    buffer_blocks: int = 3
    realign_after: int = 3

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not self.name:
            yield "name", "is empty", "both nodes give the link the same short name"
        if set(self.channels) != set(DETECTORS):
            yield "channels", f"names {sorted(self.channels)}", "name each of H, V, D and A once"
        elif len(set(self.channels.values())) != len(DETECTORS):
            yield "channels", "gives one input of the tagger to two detectors", "each detector has an input of its own"
        elif not all(0 <= value <= 255 for value in self.channels.values()):
            yield "channels", "names an input outside 0 to 255", "inputs are counted from 0"
        for name, delay in self.delays.items():
            if name not in DETECTORS:
                yield f"delays.{name}", "is no detector", "name H, V, D or A"
            elif abs(delay) > 1e-6:
                yield f"delays.{name}", f"{delay} is longer than 1 us", "a metre of cable is about 5 ns"
        if not 2 <= self.buffer_blocks <= 20:
            yield "buffer_blocks", f"{self.buffer_blocks} lies outside 2 to 20", "3 is the default"
        if not 1 <= self.realign_after <= 100:
            yield "realign_after", f"{self.realign_after} lies outside 1 to 100", "3 is the default"
