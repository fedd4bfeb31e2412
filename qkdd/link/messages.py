"""What the two ends of a link say to each other, in the order of docs/architecture.md's table.

Times travel as counts of the announce bin since the stretch's start, gap-coded; bits and bases packed, most significant
bit first. What decoy_bb84 says is coded near its entropy, see sifting.
"""

from __future__ import annotations

from typing import Literal

from qkdd.peer.contract import Message

Action = Literal["align", "block", "rest", "open"]


class Turn(Message, frozen=True, tag="link.turn"):
    """bob → alice: what comes next. For "block" it says that all his clicks of [start, stop) are in his memory
    (the table's BlockRegistered); for "align" it names the stretch that will be sacrificed.

    number: of the block, or of the alignment. start, stop: ps on bob's clock for bbm92, absolute slots for decoy_bb84 (for its
    alignment the number of slots; for a block on demand the slots lie ahead, and are announced while they pass).
    Of an "open" alignment nothing is used afterwards.
    position_ps: where his tag stream stands as he sends this. resolution_ps: of his tagger. known: an alignment exists, the
    stretch only refreshes it.
    """

    action: Action
    number: int
    start: int
    stop: int
    position_ps: int
    resolution_ps: int
    known: bool = False


class TurnAnswer(Message, frozen=True, tag="link.turn-answer"):
    """alice → bob: for "block", all her clicks of the block are in her memory (BlockRegistered); else what she wants
    instead: "align" when her lock is lost, "rest" when she is drained, "open" while her operator holds the link open."""

    action: Action
    number: int


class OpenStretch(Message, frozen=True, tag="link.open-stretch"):
    """bob → alice: every single-detector event of the sacrificed stretch; no key comes from it.

    times: gap-coded ps since start. detectors: two packed bits an event.
    """

    number: int
    count: int
    times: bytes
    detectors: bytes


class Aligned(Message, frozen=True, tag="link.aligned"):
    """alice → bob: what she found. found false: no peak, and the rest is empty.

    Offsets in ps at bob's origin_ps. delays_ps: to be taken off bob's detectors H, V, D, A. matches: gap-coded indices of
    his opened events; detectors: hers at these, two packed bits each. timing_leak: bits a bit, see estimate.
    """

    number: int
    found: bool
    origin_ps: int
    offset_ps: float
    drift: float
    delays_ps: tuple[float, float, float, float]
    timing_leak: float
    count: int
    matches: bytes
    detectors: bytes


class OpenView(Message, frozen=True, tag="link.open-view"):
    """alice → bob, after `Aligned` of an "open" turn: what an operator sees of the stretch.

    histogram: alice's time minus bob's less the offset, counts a bin from low_ps on; empty without a peak. singles: her events
    by detector H V D A. delays_ps: all that is taken off her detectors so far.
    """

    number: int
    low_ps: float
    bin_ps: float
    histogram: tuple[int, ...]
    singles: tuple[int, int, int, int]
    delays_ps: tuple[float, float, float, float]


class OpenDelays(Message, frozen=True, tag="link.open-delays"):
    """bob → alice, the answer: all that is taken off his detectors so far."""

    number: int
    delays_ps: tuple[float, float, float, float]


class Announce(Message, frozen=True, tag="link.announce"):
    """bob → alice, after both registered: when his detectors clicked (rounded) and in which basis. Never a bit."""

    block: int
    count: int
    times: bytes
    bases: bytes


class Matches(Message, frozen=True, tag="link.matches"):
    """alice → bob: which of his events coincide with hers and are of the same basis. pairs: all that coincide; count: of equal
    basis; matches: gap-coded indices of these among his announced events."""

    block: int
    pairs: int
    count: int
    matches: bytes


class OpenSymbols(Message, frozen=True, tag="link.open-symbols"):
    """alice → bob: what she prepared in consecutive slots that are given up; no key comes from them.

    first: absolute slot. age_s: how long ago it went out, to some 100 ms. symbols: half a byte each (the even index high),
    basis << 3 | bit << 2 | intensity, intensity 3 where no pulse was sent.
    """

    number: int
    first: int
    count: int
    age_s: float
    symbols: bytes


class FoundSymbols(Message, frozen=True, tag="link.found-symbols"):
    """bob → alice: his single-detector events in these slots. slots: gap-coded, from the first one on; detectors: two packed
    bits each. found false: nothing fits, and the rest is empty."""

    number: int
    found: bool
    count: int
    slots: bytes
    detectors: bytes


class DetectedSlots(Message, frozen=True, tag="link.detected-slots"):
    """bob → alice: slots of the block with a detection, up to slot `until` of it. The last one of a block has until = its
    length. slots: from the last message's `until` on, gap-coded less the least distance of two (see sifting)."""

    block: int
    until: int
    count: int
    slots: bytes


class DetectedBases(Message, frozen=True, tag="link.detected-bases"):
    """bob → alice, after all slots of the block: his bases of them. Never a bit."""

    block: int
    count: int
    bases: bytes


class PreparedRounds(Message, frozen=True, tag="link.prepared-rounds"):
    """alice → bob, after every detection of the block is registered: for each of his detections in Z, then in X, 0 where her
    basis is another (or no pulse was sent) and 1 + intensity where it is the same. pulses: sent in the block."""

    block: int
    pulses: int
    z: bytes
    x: bytes
