"""Applications that draw keys in both directions and remember every answer, so that no key can be lost or come twice unseen."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from qkdd_hil.demo.applications import Application

OK, UNAVAILABLE = 200, 503
PAUSE = 0.1  # s between two requests of a direction
KEYS_PER_REQUEST = 3
_NO_ANSWER = (aiohttp.ClientError, ConnectionError, TimeoutError)


@dataclass
class Ledger:
    """Every key that any application was given, by fingerprint only."""

    masters: dict[str, str] = field(default_factory=dict)  # key id -> fingerprint
    slaves: dict[str, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)  # answers of the slave side that are neither key nor "later"
    repeated_ids: int = 0
    unanswered: int = 0  # requests that a crash cut off

    @property
    def delivered(self) -> int:
        return len(self.slaves)

    @property
    def differing(self) -> int:
        """Keys that are not the same on both sides."""
        return sum(self.masters[key_id] != print_ for key_id, print_ in self.slaves.items())

    @property
    def twice(self) -> int:
        """Key ids given to two masters, or the same bits under two ids."""
        prints = Counter(self.masters.values())
        return self.repeated_ids + sum(count - 1 for count in prints.values())

    @property
    def lost(self) -> int:
        """Keys that a master was given and its slave could not get."""
        return len(set(self.masters) - set(self.slaves))


class Direction:
    """One master and its slave. `outstanding`: ids that the slave has still to fetch."""

    def __init__(self, ledger: Ledger, master: Application, slave: Application) -> None:
        self._ledger = ledger
        self._master, self._slave = master, slave
        self.outstanding: set[str] = set()
        self.drawing = True

    async def run(self) -> None:
        """Draw and fetch until `drawing` is false and nothing is outstanding."""
        async with self._master.session() as master, self._slave.session() as slave:
            while self.drawing or self.outstanding:
                if self.drawing:
                    await self._draw(master)
                for key_id in list(self.outstanding):
                    await self._fetch(slave, key_id)
                await asyncio.sleep(PAUSE)

    async def _draw(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._master.base_url}/{self._slave.sae_id}/enc_keys?number={KEYS_PER_REQUEST}"
        status, body = await self._ask(session, url)
        if status == OK:
            for key in body["keys"]:
                key_id = key["key_ID"].lower()
                self._ledger.repeated_ids += key_id in self._ledger.masters
                self._ledger.masters[key_id] = _fingerprint(key["key"])
                self.outstanding.add(key_id)

    async def _fetch(self, session: aiohttp.ClientSession, key_id: str) -> None:
        status, body = await self._ask(
            session, f"{self._slave.base_url}/{self._master.sae_id}/dec_keys?key_ID={key_id}"
        )
        if status == OK:
            self._ledger.slaves[key_id] = _fingerprint(body["keys"][0]["key"])
            self.outstanding.discard(key_id)
        elif status not in (0, UNAVAILABLE):
            self._ledger.refused[f"{status} {body.get('message', '') if isinstance(body, dict) else ''}"] += 1
            self.outstanding.discard(key_id)

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
        """(status, body); status 0 when the KMS is down or died over the request."""
        try:
            async with session.get(url) as answer:
                return answer.status, await answer.json(content_type=None)
        except _NO_ANSWER:
            self._ledger.unanswered += 1
            return 0, None


def _fingerprint(key: str) -> str:
    return hashlib.sha256(base64.b64decode(key, validate=True)).hexdigest()
