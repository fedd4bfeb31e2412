"""What the link asks of the rooms it is wired to. `node` passes the implementations in."""

from __future__ import annotations

from typing import Protocol

from qkdd.distill.blocks import DecoyBlock, DistilledBlock, SiftedBlock
from qkdd.peer.contract import PeerSession


class Distiller(Protocol):
    """Turns a sifted block into key, or raises a BlockRefused. Holds the tracker of the tolerated error."""

    def seed(self, errors: int, count: int) -> None:
        """The error count of sacrificed bits: what the first tolerated error rests on."""

    async def distil(self, block: SiftedBlock | DecoyBlock, session: PeerSession) -> DistilledBlock:
        """Plan, estimate, reconcile, verify and amplify over the session.

        Raises BlockRefused (the caller aborts the block) or an error of the session.
        """


class Committer(Protocol):
    """Makes a distilled block durable on both nodes in two phases."""

    async def settle(self, session: PeerSession) -> object:
        """Bring blocks in doubt from earlier sessions to the same end on both nodes: first thing in a session."""

    async def commit(self, distilled: DistilledBlock, session: PeerSession) -> object: ...


class Ledger(Protocol):
    """The durable account of epsilon (`qkdd.security.ledger.EpsilonLedger`). It blocks: the link calls it in a thread."""

    def charge(self, eps: float, *, now: float) -> None:
        """Take one block's epsilon, durably, before the block starts and whether it is refused later or not.

        Raises EpsilonSpent when the epoch's budget does not cover it.
        """
