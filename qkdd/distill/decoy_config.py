"""Settings of a decoy-state link that both nodes must agree on: the pulses, the proof and what the proof has to be told."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Literal

from qkdd.core.config import Section
from qkdd.core.units import Fraction, Hertz
from qkdd.security import modes
from qkdd.security.channel import BlockCounts, Channel
from qkdd.security.decoy import check_settings, check_within
from qkdd.security.errors import ProofInputError
from qkdd.security.mismatch import mismatch_deltas
from qkdd.security.proofs import EQUAL_DETECTORS, Receiver, decoy_length

DecoyProof = Literal["bb84-2decoy/vl", "bb84-1decoy/wiesemann", "bb84-2decoy/lim2014", "bb84-1decoy/rusca2018"]
FIXED_LENGTH: DecoyProof = "bb84-1decoy/wiesemann"
WITH_MISMATCH: DecoyProof = "bb84-2decoy/vl"
PULSES_MIN, PULSES_MAX = 10_000, 10**13
_LEVELS = 65536  # a board draws the intensity by comparing 16 random bits with two thresholds


class DecoyChannel(Section, frozen=True):
    """What the link is expected to do, from its characterisation: a fixed-length proof takes its thresholds from these numbers.

    transmission: from the transmitter's exit to a click, detector included. dark_probability: dark clicks per detector and gate.
    error: share of photons on the wrong detector. receiver_x_basis: share of detections that the receiver measures in X.
    """

    transmission: Fraction
    dark_probability: float = 1e-6
    error: Fraction = Fraction(0.01)
    receiver_x_basis: Fraction = Fraction(0.5)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not 0.0 < self.transmission <= 1.0:
            yield "transmission", f"{float(self.transmission)} lies outside 0 to 1", "30 dB of loss is 0.001"
        if not 0.0 <= self.dark_probability <= 0.1:
            yield (
                "dark_probability",
                f"{self.dark_probability} lies outside 0 to 0.1",
                "dark counts a second over gates",
            )
        if not 0.0 <= self.error < 0.5:
            yield "error", f"{float(self.error)} is no usable error rate", "a usual value is 0.01"
        if not 0.0 < self.receiver_x_basis < 1.0:
            yield (
                "receiver_x_basis",
                f"{float(self.receiver_x_basis)} lies outside 0 to 1",
                "a passive receiver has 0.5",
            )

    def channel(self, f_ec: float = 1.16) -> Channel:
        """As the channel model wants it."""
        return Channel(float(self.transmission), self.dark_probability, float(self.error), f_ec=f_ec)


class DecoySettings(Section, frozen=True):
    """Pulses, proof and characterisation of a prepare-and-measure link; `[link.shared.decoy]`, equal on both nodes.

    pulse_rate: pulses a second. block_pulses: pulses of one block, the number that the proofs call N. x_basis: probability with
    which the transmitter prepares the test basis X. mu: mean photon numbers at the transmitter's exit, brightest first, two or
    three. p: their probabilities. mu_intervals: (low, high) of each as characterised; a block whose measured intensity left
    its interval is refused. proof: the mode of `qkdd.security.modes`.

    efficiency_mismatch, dark_count_mismatch: largest relative half-ranges of the detectors' efficiencies and dark counts,
    dark_count_probability: per detector and gate; random_swap: the receiver swaps, in hardware and at random for each pulse,
    which detector stands for which bit. Only bb84-2decoy/vl has a term for unequal detectors.

    expected: the characterised channel, needed by the fixed-length proof. accept_margin: by which part the bounds of an
    acceptable fixed-length block may be worse than those of the expected one.
    """

    pulse_rate: Hertz
    block_pulses: int
    mu: tuple[float, ...]
    p: tuple[float, ...]
    mu_intervals: tuple[tuple[float, float], ...]
    x_basis: Fraction = Fraction(0.1)
    proof: DecoyProof = "bb84-2decoy/vl"
    efficiency_mismatch: Fraction = Fraction(0.0)
    dark_count_mismatch: Fraction = Fraction(0.0)
    dark_count_probability: float = 0.0
    random_swap: bool = False
    expected: DecoyChannel | None = None
    accept_margin: Fraction = Fraction(0.05)

    @property
    def intensities(self) -> int:
        """How many the proof has: 2 or 3."""
        return modes.mode(self.proof).intensities

    @property
    def label(self) -> str:
        """Shown with every length of this proof; empty if there is nothing to add."""
        return modes.mode(self.proof).label

    @property
    def probabilities(self) -> tuple[float, ...]:
        """`p` as a transmitter board draws it, in steps of 2^-16: the proof is given what is done, not what was wished."""
        bounds = [round(math.fsum(self.p[:index]) * _LEVELS) for index in range(len(self.p))] + [_LEVELS]
        return tuple((high - low) / _LEVELS for low, high in itertools.pairwise(bounds))

    @property
    def block_s(self) -> float:
        """Seconds that the pulses of a block take."""
        return self.block_pulses / float(self.pulse_rate)

    def receiver(self) -> Receiver:
        """The detectors' inequality as the proof wants it. Raises ProofInputError."""
        if self.efficiency_mismatch == 0.0 and self.dark_count_mismatch == 0.0:
            return EQUAL_DETECTORS
        return Receiver(
            *mismatch_deltas(
                float(self.efficiency_mismatch),
                float(self.dark_count_mismatch),
                self.dark_count_probability,
                self.random_swap,
            )
        )

    def expect(self, channel: Channel, receiver_x_basis: float) -> BlockCounts:
        """Mean counts of one block over `channel`; the receiver measures X with probability receiver_x_basis."""
        link = dataclasses.replace(channel, receiver_key=1.0 - receiver_x_basis)
        return link.counts(self.mu, self.probabilities, 1.0 - float(self.x_basis), self.block_pulses)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not 1e3 <= self.pulse_rate <= 1e11:
            yield "pulse_rate", f"{self.pulse_rate} lies outside 1 kHz to 100 GHz", "the transmitter's clock"
        if not PULSES_MIN <= self.block_pulses <= PULSES_MAX:
            yield (
                "block_pulses",
                f"{self.block_pulses} lies outside {PULSES_MIN} to {PULSES_MAX}",
                "10 s of pulses is a good first block",
            )
        if not 0.0 < self.x_basis < 1.0:
            yield "x_basis", f"{float(self.x_basis)} lies outside 0 to 1", "a usual value is 0.1"
        if not 0.0 <= self.accept_margin < 1.0:
            yield "accept_margin", f"{float(self.accept_margin)} lies outside 0 to 1", "a usual value is 0.05"
        if self.proof == FIXED_LENGTH and self.expected is None:
            yield (
                "expected",
                "is missing: this proof fixes its thresholds before the block",
                "characterise the link, or use bb84-2decoy/vl",
            )
        yield from self._check_source()
        yield from self._check_receiver()

    def _check_source(self) -> Iterator[tuple[str, str, str]]:
        remedy = f"{self.proof} has {self.intensities} intensities"
        try:
            check_settings(self.mu, self.p, self.intensities)
        except ProofInputError as error:
            yield str(error.details.get("name") or "mu"), error.message, remedy
            return
        if not all(value > 0.0 for value in self.probabilities):
            yield "p", "has a value below what a board can draw", "the least probability is 2^-16"
        try:
            check_within(self.mu, self.mu_intervals)
        except ProofInputError as error:
            yield "mu_intervals", error.message, "give (low, high) around each mean photon number"
            return
        for low, high in self.mu_intervals:
            if not 0.0 <= low <= high:
                yield "mu_intervals", f"[{low}, {high}] is no interval of photon numbers", "low first, none below 0"
        # the proof's order has to hold wherever in their intervals the intensities are
        lows, highs = [low for low, _ in self.mu_intervals], [high for _, high in self.mu_intervals]
        if not lows[0] > math.fsum(highs[1:]) or (len(lows) == 3 and not lows[1] > highs[2]):
            yield "mu_intervals", "let the intensities change their order", "narrow the intervals"

    def _check_receiver(self) -> Iterator[tuple[str, str, str]]:
        for key in ("efficiency_mismatch", "dark_count_mismatch", "dark_count_probability"):
            value = float(getattr(self, key))
            if not 0.0 <= value < 1.0:
                yield key, f"{value} lies outside 0 to 1", "as measured; 0 only for equal detectors"
                return
        receiver = self.receiver()
        if self.proof != WITH_MISMATCH and (receiver.delta1 > 0.0 or receiver.delta2 > 0.0):
            yield "efficiency_mismatch", f"{self.proof} has no term for unequal detectors", f"{WITH_MISMATCH} has one"
        elif receiver.delta1 >= 0.5 or receiver.delta2 >= 1.0:
            yield (
                "efficiency_mismatch",
                f"costs a phase error of {receiver.delta1:.3f}, so no key is possible",
                "equal detectors, or random_swap with a receiver that does it",
            )

    def check_length(self, eps_sec: float, eps_cor: float) -> Iterator[tuple[str, str, str]]:
        """Findings if no block of this size can have key on the best of all channels, or on the expected one."""
        if next(self.check(), None) is not None:
            return  # what is wrong already has its own finding
        cases: list[tuple[str, BlockCounts]] = [
            ("even without loss, noise and leak", self.expect(Channel(1.0, 0.0, 0.0), 0.5)),
        ]
        if self.expected is not None:
            expected = self.expect(self.expected.channel(), float(self.expected.receiver_x_basis))
            cases.append(("on the expected channel", expected))
        for words, counts in cases:
            found = decoy_length(
                self.proof,
                self.mu,
                self.probabilities,
                counts,
                0.0,
                eps_sec,
                eps_cor,
                receiver=self.receiver(),
                simulation=True,
            )
            if found.l_bits == 0:
                yield (
                    "block_pulses",
                    f"{self.block_pulses} pulses give no key {words}: {found.reason}",
                    "more pulses a block; `qkdctl link advise` finds mu, p, x_basis and the block",
                )
                return
