"""The post-quantum share of draws between two KMSs: our bundles in the store, the other site's in memory.

A draw's secret stands sealed in its allocation's row (`mix`) on both sites and goes with it; our private keys stand sealed in
`exchanges` and go after twice their lifetime.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import replace

import msgspec
import sqlalchemy as sa

from qkdd.core.sealing import Sealer
from qkdd.kms import exchange
from qkdd.kms.allocation import Allocation, Conflict
from qkdd.kms.allocations import record
from qkdd.kms.config import HybridExchange
from qkdd.kms.errors import ExchangeRefused
from qkdd.kms.exchange import Bundle, Offer
from qkdd.kms.mixing import mix_place, transcript
from qkdd.kms.plane import Exchange, PeerKms
from qkdd.kms.schema import ALLOCATIONS, EXCHANGES

STALE = Conflict("", "the offer's key-encapsulation key is gone or the offer does not open", 0)


class Hybrid:
    """For one KMS. `now`: its service time."""

    def __init__(self, config: HybridExchange, own: str, now: Callable[[], float]) -> None:
        self._config, self._own, self._now = config, own, now
        self._bundles: dict[str, tuple[float, Bundle]] = {}

    # the drawing site

    async def offer(self, peer: str, line: PeerKms, sealer: Sealer, allocation_id: bytes) -> tuple[Offer, bytes]:
        """An offer for a new draw, and its sealed secret. Raises PeerKmsDown, ExchangeRefused."""
        known = self._bundles.get(peer)
        if known is None or self._now() - known[0] > self._config.lifetime:
            known = self._now(), await line.call("exchange", Exchange(), Bundle)
            self._bundles[peer] = known
        made, shared = exchange.encapsulate(known[1], self._config.curve)
        return made, sealer.seal(shared, mix_place(allocation_id))

    def forget(self, peer: str) -> None:
        """The other site does not know its bundle any more: ask for another."""
        self._bundles.pop(peer, None)

    def confirmation(self, sealer: Sealer, peer: str, allocation: Allocation) -> bytes:
        """For announcing a draw of ours; nothing for one without a post-quantum share."""
        if allocation.mix is None:
            return b""
        shared = sealer.open(allocation.mix, mix_place(allocation.id))
        return exchange.confirmation(shared, transcript(self._own, peer, allocation))

    # the recording site

    def bundle(self, connection: sa.Connection, sealer: Sealer, peer: str) -> Bundle:
        """Our public keys for a peer; new ones when the last are past half of their lifetime."""
        now = self._now()
        young = connection.execute(
            sa.select(EXCHANGES.c.bundle)
            .where(EXCHANGES.c.peer == peer, EXCHANGES.c.created > now - self._config.lifetime / 2)
            .order_by(EXCHANGES.c.created.desc())
            .limit(1)
        ).scalar()
        if young is not None:
            found = msgspec.json.decode(young, type=Bundle)
            if found.curve == self._config.curve:
                return found
        private, made = exchange.new_bundle(secrets.token_hex(16), self._config.curve)
        sealed = sealer.seal(private, exchange_place(made.id))
        connection.execute(
            EXCHANGES.insert().values(
                id=made.id, peer=peer, created=now, bundle=msgspec.json.encode(made), sealed=sealed
            )
        )
        return made

    def expire(self, connection: sa.Connection) -> None:
        """Erase private keys that no draw can need any more."""
        connection.execute(EXCHANGES.delete().where(EXCHANGES.c.created < self._now() - 2 * self._config.lifetime))

    def record(
        self,
        connection: sa.Connection,
        sealer: Sealer,
        peer: str,
        allocation: Allocation,
        expected: int,
        confirmation: bytes,
    ) -> Conflict | None:
        """`allocations.record` for any class: the secret is opened and confirmed first; STALE if that fails."""
        offer = allocation.offer
        if offer is not None:
            known = connection.execute(sa.select(ALLOCATIONS.c.id).where(ALLOCATIONS.c.id == allocation.id)).scalar()
            if known is None:
                row = connection.execute(
                    sa.select(EXCHANGES).where(EXCHANGES.c.id == offer.bundle, EXCHANGES.c.peer == peer)
                ).one_or_none()
                if row is None:
                    return STALE
                try:
                    private = sealer.open(row.sealed, exchange_place(row.id))
                    shared = exchange.decapsulate(private, msgspec.json.decode(row.bundle, type=Bundle), offer)
                except ExchangeRefused:
                    return STALE
                good = exchange.confirmation(shared, transcript(peer, self._own, allocation))
                if not hmac.compare_digest(good, confirmation):
                    return STALE
                allocation = replace(allocation, mix=sealer.seal(shared, mix_place(allocation.id)))
        return record(connection, peer, allocation, expected, self._now())


def exchange_place(bundle_id: str) -> str:
    """Where the private keys of a bundle stand."""
    return f"exchange/{bundle_id}"
