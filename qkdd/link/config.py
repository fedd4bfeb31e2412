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
ProtocolName = Literal["bbm92", "decoy_bb84"]
SLOT_BINS = 10  # bins of the tagger that a slot has at least (TDC1, 2 ns: at most 50 MHz)
StateName = Literal["phi+", "phi-", "psi+", "psi-"]

# Bob flips his bit in (Z, X) so that both nodes' bits agree: which of the Bell states the source makes.
STATE_FLIPS: dict[str, tuple[int, int]] = {"phi+": (0, 0), "phi-": (0, 1), "psi+": (1, 0), "psi-": (1, 1)}


class LinkShared(DistillConfig, frozen=True):
    """Everything that must be equal on both nodes; `canonical()` is what is hashed and compared.

    protocol: how clicks become sifted bits: bbm92 (pairs, both nodes measure) or decoy_bb84 (alice sends pulses, bob measures).
    dead_time: after any click all four detectors of the side are blanked for this long (the longest dead time).
    open_stretch: time sacrificed for an alignment. offset_range: largest offset of the two streams that is searched.
    clock_error_max: largest relative frequency difference of the two clocks.

    bbm92 only. state: Bell state of the source at the receivers. block: acquisition time of a block on bob's clock.
    window: full width of the coincidence window. announce_bin: bob's times are rounded to multiples of it before anybody
    sees them.
    basis_imbalance_max: highest |n_Z - n_X| / (n_Z + n_X) of a block's sifted bits.

    decoy_bb84 only (pulses and proof stand in `decoy`). gate: part of a slot, about its centre, in which clicks are detections.
    symbols: how alice's node learns what the transmitter prepared: "stream" (everything over the cable) or "on_demand" (the
    slots that bob announces while the block is acquired). align_symbols: symbols that an alignment opens.
    """

    protocol: ProtocolName = "bbm92"
    state: StateName = "phi+"
    block: Seconds = Seconds(5.0)
    window: Seconds = Seconds(6e-9)
    announce_bin: Seconds = Seconds(2e-9)
    dead_time: Seconds = Seconds(100e-9)
    basis_imbalance_max: Fraction = Fraction(0.05)
    open_stretch: Seconds = Seconds(2.0)
    offset_range: Seconds = Seconds(1.25)
    clock_error_max: float = 10e-6
    gate: Fraction = Fraction(0.5)
    symbols: Literal["stream", "on_demand"] = "stream"
    align_symbols: int = 1 << 20

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
    def block_s(self) -> float:
        """Seconds that a block's acquisition takes."""
        return self.decoy.block_s if self.decoy is not None and self.protocol == "decoy_bb84" else float(self.block)

    @property
    def slot_ps(self) -> float:
        """Nominal time between two pulses, ps; 0 for a protocol without."""
        return 1e12 / float(self.decoy.pulse_rate) if self.decoy is not None else 0.0

    @property
    def flips(self) -> tuple[int, int]:
        """Whether bob flips his bit in (Z, X)."""
        return STATE_FLIPS[self.state]

    def canonical(self) -> dict[str, str]:
        """Every setting as text, in SI base units; equal on both nodes or the peers refuse each other."""
        return dict(sorted(_flat(msgspec.to_builtins(self, enc_hook=_plain), "")))

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from super().check()
        yield from self._check_pulses() if self.protocol == "decoy_bb84" else self._check_pairs()
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

    def _check_pulses(self) -> Iterator[tuple[str, str, str]]:
        if self.decoy is None:
            yield "decoy", "is missing, and decoy_bb84 needs it", "add a section [link.shared.decoy]"
            return
        if not 0.05 <= self.gate <= 1.0:
            yield "gate", f"{float(self.gate)} lies outside 0.05 to 1", "0.5 keeps half of every slot"
        if not 1 <= self.dead_ps <= 10**9:
            yield (
                "dead_time",
                f"{self.dead_time} lies outside 1 ps to 1 ms",
                "take the longest dead time of the detectors",
            )
        if not 1 << 16 <= self.align_symbols <= 1 << 24:
            yield (
                "align_symbols",
                f"{self.align_symbols} lies outside {1 << 16} to {1 << 24}",
                "1048576 suits gains above 1e-3; a weaker link needs more",
            )
        if not 0.05 <= self.decoy.block_s <= 3600.0:
            yield (
                "decoy.block_pulses",
                f"{self.decoy.block_pulses} pulses take {self.decoy.block_s:g} s, which lies outside 50 ms to 1 h",
                "a block of some ten seconds suits most links",
            )

    def _check_pairs(self) -> Iterator[tuple[str, str, str]]:
        if self.decoy is not None:
            yield "decoy", "is of no use to bbm92", 'take the section away, or set protocol = "decoy_bb84"'
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


def _flat(tree: dict[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    """Sections inside the section by dotted keys, so that a refusal names the one setting that differs."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _plain(value: object) -> object:
    """Quantities compare as SI numbers, so that "5 s" and "5000 ms" are the same setting."""
    if isinstance(value, units.Quantity):
        return float(value)
    return units.enc_hook(value)


class LinkConfig(Section, frozen=True):
    """One node's end of a link.

    tagger, transmitter, detectors, polarization: names of device sections; alice of decoy_bb84 has a transmitter in place of a
    tagger. channels: detector to input of the tagger (0-based).
    delays: what is already known of each detector's path; what is left is measured in every alignment.
    buffer_blocks: blocks that may wait for processing before the oldest clicks are dropped (and counted).
    realign_after: blocks refused in a row for a lost lock before a new alignment.
    """

    name: str
    role: Literal["alice", "bob"]
    shared: LinkShared = LinkShared()
    tagger: str = "tagger"
    transmitter: str = "board"
    detectors: str | None = None
    polarization: str | None = None
    channels: dict[str, int] = msgspec.field(
        default_factory=lambda: {name: index for index, name in enumerate(DETECTORS)}
    )
    delays: dict[str, Seconds] = {}
    buffer_blocks: int = 3
    realign_after: int = 3

    @property
    def transmits(self) -> bool:
        """Whether this node sends pulses instead of measuring."""
        return self.role == "alice" and self.shared.protocol == "decoy_bb84"

    @property
    def device(self) -> str:
        """The section of the device that this end runs on: `transmitter` or `tagger`."""
        return self.transmitter if self.transmits else self.tagger

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
