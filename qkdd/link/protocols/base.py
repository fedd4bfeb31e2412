"""What a protocol must do for the link.

A protocol makes one end for each run of a link. The end owns the node's device (a time tagger, or a transmitter), its lock on
the other node, and the way from one block's registered detections to equal rounds on both nodes. The session owns the rest:
whose turn it is, the ledger, what a refusal costs, distillation and commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.distill.blocks import DecoyBlock, SiftedBlock
from qkdd.link.bookkeeping import Bookkeeping
from qkdd.link.config import LinkConfig
from qkdd.link.messages import Turn
from qkdd.peer.contract import PeerSession


@dataclass(frozen=True, slots=True)
class Setup:
    """What every end is made with. `book` shows what the end sees; `heartbeat` is called after each read of the device."""

    config: LinkConfig
    session: PeerSession
    clock: Clock
    meter: Meter
    book: Bookkeeping
    heartbeat: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Opened:
    """Sacrificed rounds of an alignment, equal on both nodes.

    errors of bits: what the distiller's first tolerated error rests on. error_rate: what a calibration searches by.
    """

    errors: int
    bits: int
    error_rate: float


class Source(Protocol):
    """The device's stream, read all the time into a bounded memory."""

    @property
    def failure(self) -> BaseException | None:
        """What ended the reading; None while it goes on."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Idempotent."""

    async def failed(self) -> BaseException:
        """Wait until the reading has ended by an error, and return it."""


class LinkEnd(Protocol):
    """Common to both roles. Refusals are raised as BlockRefused subclasses; the session aborts the block."""

    @property
    def source(self) -> Source: ...

    @property
    def locked(self) -> bool:
        """Whether the last alignment still stands."""

    @property
    def registered_at(self) -> float:
        """Monotonic time at which the block in hand was registered: its processing counts from here."""

    def begin(self) -> None:
        """A block or an alignment begins now."""

    def lose_lock(self) -> None:
        """The next alignment starts from nothing."""

    async def sift(self, turn: Turn) -> SiftedBlock | DecoyBlock:
        """Equal rounds of a block that both nodes agreed on. The device's memory of it is released in any case."""


class BobEnd(LinkEnd, Protocol):
    """Bob leads: he proposes stretches and blocks."""

    def alignment(self, number: int) -> Turn:
        """The stretch that is sacrificed next."""

    async def align(self, turn: Turn) -> Opened:
        """After alice agreed. Raises AlignmentFailed when no common peak was found (the session goes on)."""

    async def registered(self, number: int) -> Turn:
        """The next block, once everything that has to be in memory before it is proposed is there. May be cancelled."""

    def farewell(self, number: int) -> Turn:
        """A turn that ends the run."""


class AliceEnd(LinkEnd, Protocol):
    """Alice answers. holds_open: what she says of the next turn: her operator holds the link open."""

    holds_open: bool

    @property
    def patience(self) -> float:
        """Seconds that bob's next turn may take."""

    async def align(self, turn: Turn, failures: int) -> Opened:
        """Agree to the stretch and align. failures: alignments that failed in a row so far."""

    async def registered(self, turn: Turn) -> None:
        """Return when alice may agree to the block. Raises ClockRejected when the proposal cannot be."""


class LinkProtocol(Protocol):
    """One per protocol name. `device` is a TimeTagger or a SymbolSource; the configuration check saw the role."""

    def alice(self, setup: Setup, device: object) -> AliceEnd: ...

    def bob(self, setup: Setup, device: object) -> BobEnd: ...
