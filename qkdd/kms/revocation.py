"""Revocation as an order of this site's operator, and as news from the other one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec
import sqlalchemy as sa

from qkdd.core import log
from qkdd.core.errors import QkddError
from qkdd.kms import revoke
from qkdd.kms.errors import NotEntitled
from qkdd.kms.plane import Revoke, RevokedThere
from qkdd.kms.site import Site

_LOG = log.get("kms")


class Revocations:
    def __init__(self, site: Site, revoking: Callable[[], AbstractContextManager[None]]) -> None:
        """revoking: inside, and of what was drawn ahead before, nothing more is given out; it may have to be revoked."""
        self._site, self._revoking = site, revoking

    async def on_revoke(self, peer: str, message: Revoke) -> RevokedThere:
        """Only what is shared with the asking KMS."""
        if message.undrawn_of is not None and self._site.links.get(message.undrawn_of) != peer:
            raise NotEntitled(f"link {message.undrawn_of!r} does not lead to {peer}")

        def work(connection: sa.Connection) -> RevokedThere:
            found = revoke.draws(connection, ids=message.draws, peer=peer)
            keys = [k for k in message.keys if revoke.peer_of(connection, k) == peer]
            single = sum(revoke.one_key(connection, k, self._site.config.saes) for k in keys)
            undrawn = revoke.undrawn(connection, message.undrawn_of) if message.undrawn_of is not None else 0
            return RevokedThere(len(found), single, undrawn)

        with self._revoking():
            done = await self._site.run(work)
        self._site.audit.write(
            "revoked by the other site", peer=peer, draws=done.draws, keys=done.keys, undrawn=done.undrawn
        )
        await self._site.audit.settled()
        return done

    async def revoke(
        self,
        *,
        keys: list[str],
        sae: str | None = None,
        link: str | None = None,
        span: tuple[float, float] | None = None,
        undrawn: bool = False,
    ) -> dict[str, object]:
        """What fits is given to nobody any more, here at once; then the other sites are told.

        keys: single IDs; else draws that fit every condition given. span: wall time; undrawn: also key of `link` that was not
        drawn yet. Returns counts (`here`, `there`) and `told`: KMS id → whether it confirmed. Raises StorageFull, StorageFailed.
        """
        shift = self._site.now() - self._site.clock.wall()
        times = (span[0] + shift, span[1] + shift) if span is not None else None

        def work(connection: sa.Connection) -> tuple[list[tuple[str, str]], int, int, dict[str, list[str]]]:
            of_peer: dict[str, list[str]] = {}
            single = 0
            for key in keys:
                peer = revoke.peer_of(connection, key)
                single += revoke.one_key(connection, key, self._site.config.saes)
                for name in [peer] if peer is not None else self._site.peers:
                    of_peer.setdefault(name, []).append(key)
            found = []
            if not keys:
                found = revoke.draws(connection, sae=sae, link=link, span=times)
            gone = revoke.undrawn(connection, link) if undrawn and link is not None else 0
            return found, single, gone, of_peer

        with self._revoking():
            found, single, gone, of_peer = await self._site.run(work)
        self._site.audit.write(
            "revoked",
            draws=len(found),
            keys=single,
            undrawn=gone,
            sae=sae,
            link=link,
            key_ids=keys,
        )
        await self._site.audit.settled()
        told, there = {}, RevokedThere(0, 0, 0)
        for name, peer_kms in self._site.peers.items():
            ids = [draw for draw, of in found if of == name]
            undrawn_of = link if undrawn and link is not None and self._site.links.get(link) == name else None
            if not ids and name not in of_peer and undrawn_of is None:
                continue
            try:
                said = await peer_kms.call("revoke", Revoke(ids, of_peer.get(name, []), undrawn_of), RevokedThere)
                there = RevokedThere(there.draws + said.draws, there.keys + said.keys, there.undrawn + said.undrawn)
                told[name] = True
            except QkddError as error:
                _LOG.warning("the other KMS was not told of a revocation", peer=name, **log.error_fields(error))
                told[name] = False
        here = RevokedThere(len(found), single, gone)
        return {"here": msgspec.structs.asdict(here), "there": msgspec.structs.asdict(there), "told": told}
