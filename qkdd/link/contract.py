"""What the link asks of the rooms it is wired to. `node` passes the implementations in."""

from __future__ import annotations

from typing import Protocol

from qkdd.distill.blocks import DistilledBlock, SiftedBlock
from qkdd.peer.contract import PeerSession


class BlockPlan(Protocol):
    """What both nodes fixed for a block before anything of it was opened."""

    @property
    def length(self) -> int: ...

    @property
    def tolerated_error(self) -> float: ...


class Distiller(Protocol):
    """Turns a sifted block into key, or raises a BlockRefused. Holds the tracker of the tolerated error."""

    def seed(self, errors: int, count: int) -> None:
        """The error count of sacrificed bits: what the first tolerated error rests on."""

    async def distil(self, block: SiftedBlock, session: PeerSession) -> DistilledBlock:
        """Plan, estimate, reconcile, verify and amplify over the session.

        Raises BlockRefused (the caller aborts the block) or an error of the session.
        """


class Committer(Protocol):
    """Makes a distilled block durable on both nodes in two phases."""

    async def commit(self, distilled: DistilledBlock, session: PeerSession) -> object: ...


class Ledger(Protocol):
    """The durable account of epsilon. A block is paid for before it starts, also if it is refused later."""

    async def spend(self, number: int) -> None:
        """Raises when the epoch's budget does not cover one more block."""
