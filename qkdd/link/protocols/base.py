"""What a protocol must do for the link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qkdd.link.clockmap import ClockMap
from qkdd.link.config import LinkShared
from qkdd.link.events import Events
from qkdd.peer.contract import PeerSession


@dataclass(frozen=True, slots=True, eq=False)
class SiftTask:
    """One registered block on one node. start_ps, stop_ps on bob's clock; events on this node's own.

    clock, pairs_expected, resolution_ps: alice's knowledge of the alignment; None and 0 on bob's side.
    """

    number: int
    start_ps: int
    stop_ps: int
    events: Events
    shared: LinkShared
    clock: ClockMap | None = None
    pairs_expected: float = 0.0
    resolution_ps: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SiftedRounds:
    """Equal rounds on both nodes. bits, bases: uint8[m]. pairs: all coincidences.

    clock: the alignment to go on with, known to alice only.
    """

    bits: NDArray[np.uint8]
    bases: NDArray[np.uint8]
    pairs: int
    clock: ClockMap | None = None


class SiftProtocol(Protocol):
    """One per protocol name; stateless."""

    async def alice(self, task: SiftTask, session: PeerSession) -> SiftedRounds:
        """Raises BlockRefused subclasses; the caller aborts the block."""

    async def bob(self, task: SiftTask, session: PeerSession) -> SiftedRounds:
        """As `alice`, for the other end."""
