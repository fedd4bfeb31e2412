"""What the host takes for the clicks of a gigahertz link: slots, sifting messages, rounds; and what goes over the wire.

The calls are the link's own, in its order: bob's clicks into slots (kernel), his bases, both messages; alice's decoding, the
symbols that she asks her transmitter for (on demand: a gigahertz of symbols fits no cable), her answer; bob's rounds. Every
kept round is compared with what was prepared. CPU time of this thread; the board's own work is not the host's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from qkdd_fwbridge.messages import Demanded
from qkdd_fwbridge.symbols import MAX_DEMAND, answer_demand, demand, demanded

from qkdd import kernels
from qkdd.core.units import Fraction, Hertz, Seconds
from qkdd.distill.decoy_config import DecoySettings
from qkdd.link import sifting
from qkdd.link.config import LinkShared
from qkdd.link.events import squash
from qkdd_hil.gigahertz.recording import Recording

STEP_PS = 5_000_000_000  # of clicks that are taken at a time
ASK = 32768  # symbols in one question to the transmitter
T = TypeVar("T")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Rates in clicks per CPU second of one core. bits: on the wire per detection; bound: the entropy of the same."""

    clicks: int
    clicks_per_s_of_the_link: float
    detections: int
    rounds: int
    qber: float
    slots_clicks_per_s: float
    sift_bob_clicks_per_s: float
    sift_alice_clicks_per_s: float
    bob_clicks_per_s: float
    alice_clicks_per_s: float
    both_clicks_per_s: float
    wire_bits_slots: float
    bound_bits_slots: float
    wire_bits_bases: float
    bound_bits_bases: float
    wire_bits_answer: float
    bound_bits_answer: float

    @property
    def wire_bits(self) -> float:
        return self.wire_bits_slots + self.wire_bits_bases + self.wire_bits_answer

    @property
    def bound_bits(self) -> float:
        return self.bound_bits_slots + self.bound_bits_bases + self.bound_bits_answer


class _Watch:
    """CPU time by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def __call__(self, name: str, call: Callable[[], T]) -> T:
        begin = time.thread_time()
        result = call()
        self.spent[name] = self.spent.get(name, 0.0) + time.thread_time() - begin
        return result


def shared_of(recording: Recording) -> LinkShared:
    """The settings of a link that would run this."""
    terms = recording.terms
    decoy = DecoySettings(
        pulse_rate=Hertz(terms.pulse_hz),
        block_pulses=terms.pulses,
        mu=terms.mu,
        p=terms.p,
        mu_intervals=tuple((mu, mu) for mu in terms.mu),
        x_basis=Fraction(terms.x_basis),
    )
    return LinkShared(
        protocol="decoy_bb84", symbols="on_demand", gate=Fraction(0.4), dead_time=Seconds(15e-9), decoy=decoy
    )


def assigner(recording: Recording, shared: LinkShared) -> tuple[kernels.SlotAssigner, int]:
    """A receiver that is locked, two slots before the first; (it, the time at which it begins)."""
    rate = 1.0 / (shared.slot_ps * (1 + recording.terms.ppm * 1e-6))
    settings = kernels.SlotSettings(
        half_gate=float(shared.gate) / 2,
        dead_ps=shared.dead_ps,
        piece_clicks=4096,
        piece_ps=round(shared.slot_ps * 1e8),
        gain_phase=0.4,
        gain_rate=0.08,
        contrast=0.1,
        rate_low=rate * (1 - 2e-5),
        rate_high=rate * (1 + 2e-5),
    )
    begin = recording.first_centre() - round(2 * shared.slot_ps)
    return kernels.SlotAssigner(settings, begin, -2, 0.0, rate), begin


def measure(recording: Recording) -> Measured:
    """One block over the whole recording. Raises ValueError when a kept round is not what was prepared."""
    shared, watch = shared_of(recording), _Watch()
    slots, patterns, clicks = _slots(recording, shared, watch)
    apart, pulses = sifting.spacing(shared), recording.terms.pulses
    intensities = len(recording.terms.mu)
    bases, bits = watch("bob", lambda: squash(patterns))
    coded_slots = watch("bob", lambda: sifting.encode_slots(slots, 0, apart))
    coded_bases = watch("bob", lambda: sifting.encode_bases(bases))
    theirs = watch("alice", lambda: sifting.decode_slots(coded_slots, len(slots), 0, pulses, apart))
    symbols = _asked(recording.symbols, theirs, watch)
    said = watch("alice", lambda: sifting.decode_bases(coded_bases, len(theirs)))
    hers, z, x = watch("alice", lambda: sifting.compare(symbols, said, intensities))
    rounds = watch("bob", lambda: sifting.chosen_rounds(z, x, bases, intensities))
    prepared = recording.symbols[slots[rounds.chosen]]
    if not (
        np.array_equal(rounds.chosen, hers.chosen)
        and np.array_equal(prepared >> 3, rounds.bases)
        and np.array_equal(prepared & 3, rounds.intensities)
    ):
        raise ValueError("the sifted rounds are not what was prepared")
    wrong = int(np.count_nonzero((prepared >> 2 & 1) != bits[rounds.chosen]))
    n, spent = len(slots), watch.spent
    bob, alice = spent["slots"] + spent["bob"], spent["alice"]
    answer = np.zeros(n, np.uint8)
    answer[rounds.chosen] = rounds.intensities + 1
    by_basis = [answer[bases == basis] for basis in (0, 1)]
    return Measured(
        clicks=clicks,
        clicks_per_s_of_the_link=recording.clicks_per_s,
        detections=n,
        rounds=len(rounds.chosen),
        qber=wrong / max(1, len(rounds.chosen)),
        slots_clicks_per_s=clicks / spent["slots"],
        sift_bob_clicks_per_s=clicks / spent["bob"],
        sift_alice_clicks_per_s=clicks / alice,
        bob_clicks_per_s=clicks / bob,
        alice_clicks_per_s=clicks / alice,
        both_clicks_per_s=clicks / (bob + alice),
        wire_bits_slots=8 * len(coded_slots) / n,
        bound_bits_slots=slots_entropy(n, pulses, apart),
        wire_bits_bases=8 * len(coded_bases) / n,
        bound_bits_bases=entropy(bases),
        wire_bits_answer=8 * (len(z) + len(x)) / n,
        bound_bits_answer=sum(len(part) * entropy(part) for part in by_basis) / n,
    )


def _slots(recording: Recording, shared: LinkShared, watch: _Watch) -> tuple[NDArray[np.int64], NDArray[np.uint8], int]:
    """(slots, patterns, clicks) of the block."""
    assign, begin = assigner(recording, shared)
    found: list[tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.void]]] = []
    times, detectors = recording.times, recording.detectors
    first = int(np.searchsorted(times, begin))
    end = int(times[-1]) + round(2 * shared.slot_ps)
    for start in range(begin, end, STEP_PS):
        until = min(end, start + STEP_PS)
        last = int(np.searchsorted(times, until))
        piece = slice(first, last)
        found.append(watch("slots", partial(assign, times[piece], detectors[piece], until - 1)))
        first = last
    slots, patterns = (np.concatenate([part[column] for part in found]) for column in (0, 1))
    inside = slice(*np.searchsorted(slots, (0, recording.terms.pulses)))
    return slots[inside], patterns[inside], assign.counts[0]


def announced(recording: Recording) -> NDArray[np.int64]:
    """int64[n]: the slots in which a receiver of this recording has detections."""
    return _slots(recording, shared_of(recording), _Watch())[0]


def _asked(symbols: NDArray[np.uint8], slots: NDArray[np.int64], watch: _Watch) -> NDArray[np.uint8]:
    """The symbols of rising slots, asked for piece by piece; what the board does for it is not counted."""
    parts = []
    for low in range(0, len(slots), min(ASK, MAX_DEMAND)):
        wanted = slots[low : low + ASK]
        watch("alice", partial(demand, wanted))
        answer = answer_demand(0, np.ones(len(wanted), np.bool_), symbols[wanted], 0, len(symbols))
        parts.append(watch("alice", partial(_symbols, answer, len(wanted))))
    return np.concatenate(parts)


def _symbols(answer: Demanded, count: int) -> NDArray[np.uint8]:
    found = demanded(answer, count)
    return (found.basis << 3 | found.bit << 2 | found.intensity).astype(np.uint8)


def entropy(values: NDArray[np.uint8]) -> float:
    """Bits a value, of their frequencies."""
    shares = np.bincount(values) / max(1, len(values))
    return float(-sum(p * math.log2(p) for p in shares if p > 0))


def slots_entropy(detections: int, pulses: int, apart: int) -> float:
    """Bits a detection for naming the slots of `detections` out of `pulses`, any two at least `apart` from each other, all such
    sets equally likely: log2 of their number, by Stirling's formula through the logarithm of the gamma function."""
    free = pulses - (apart - 1) * max(0, detections - 1)
    ways = math.lgamma(free + 1) - math.lgamma(detections + 1) - math.lgamma(free - detections + 1)
    return ways / math.log(2) / max(1, detections)
