"""The applications of the campaign, and the book in which every key that any of them was given stands."""

from __future__ import annotations

import asyncio
import base64
import random
import ssl
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from qkdd.peer.tls import TlsProfile, client_context
from qkdd_hil.campaign.sites import Sae, Sites
from qkdd_hil.campaign.source import Source

OK, UNAVAILABLE = 200, 503
_PAUSE = (0.05, 0.5)  # s after a request that brought nothing
_TIMEOUT = 20.0  # s for an answer
_NO_ANSWER = (aiohttp.ClientError, OSError, TimeoutError)


class _Key(msgspec.Struct, frozen=True):
    key_ID: str
    key: str


class _Container(msgspec.Struct, frozen=True):
    keys: list[_Key]


@dataclass
class Book:
    """Key ids and places of keys in the source; never a key."""

    source: Source
    masters: dict[bytes, int] = field(default_factory=dict)  # key id -> place
    fetched: int = 0  # keys that both ends hold, alike
    duplicates: int = 0  # an id given twice, or one piece of the source under two ids
    mismatches: int = 0  # another key at the slave than at the master
    strangers: int = 0  # a key that the source never made
    refused: Counter[str] = field(default_factory=Counter)  # final answers to a slave for a key that its master holds
    maybe: int = 0  # keys asked for in requests whose answer never came: drawn or not
    answers: Counter[str] = field(default_factory=Counter)
    _given: set[int] = field(default_factory=set)

    @property
    def drawn(self) -> int:
        return len(self.masters)

    @property
    def lost(self) -> int:
        """Acknowledged to a master and not (or not alike) at its slave."""
        return self.drawn - self.fetched

    def draw(self, keys: list[_Key]) -> list[str]:
        """A master was given these; returns their ids."""
        for key in keys:
            key_id, place = _id(key), self.source.place(base64.b64decode(key.key, validate=True))
            if place is None:
                self.strangers += 1
                place = -1
            elif place in self._given:
                self.duplicates += 1
            self.duplicates += key_id in self.masters
            self._given.add(place)
            self.masters[key_id] = place
        return [key.key_ID for key in keys]

    def fetch(self, asked: list[str], keys: list[_Key]) -> None:
        """A slave was given these for `asked`."""
        if [key.key_ID for key in keys] != asked:
            self.mismatches += len(asked)
            return
        for key in keys:
            place = self.source.place(base64.b64decode(key.key, validate=True))
            if place is None or self.masters[_id(key)] != place:
                self.mismatches += 1
            else:
                self.fetched += 1


def _id(key: _Key) -> bytes:
    return uuid.UUID(key.key_ID).bytes


class Pair:
    """One master that draws batches of random sizes and one slave that fetches them, in one piece or two."""

    def __init__(self, sites: Sites, book: Book, ends: tuple[Sae, Sae], target: int, seed: int) -> None:
        """target: keys that all masters together want."""
        self._sites, self._book, self._target = sites, book, target
        self._master, self._slave = ends
        self._random = random.Random(seed)
        self.outstanding: list[list[str]] = []

    async def run(self) -> None:
        """Until the target is reached and the slave has everything."""
        async with self._session(self._master) as master, self._session(self._slave) as slave:
            while self._book.drawn < self._target or self.outstanding:
                came = False
                if self._book.drawn < self._target:
                    came = await self._draw(master)
                for ids in list(self.outstanding):
                    came |= await self._fetch(slave, ids)
                if not came:
                    await asyncio.sleep(self._random.uniform(*_PAUSE))

    def _session(self, sae: Sae) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=_tls(sae), limit=2)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=_TIMEOUT))

    async def _draw(self, session: aiohttp.ClientSession) -> bool:
        amount = self._random.randint(1, self._sites.options.batch)
        url = f"{self._sites.base_url(self._master)}/{self._slave.name}/enc_keys"
        status, data = await self._ask(session, "enc_keys", url, {"number": amount, "size": 256})
        if status == OK:
            keys = msgspec.json.decode(data, type=_Container).keys
            if len(keys) != amount:
                self._book.mismatches += amount
            ids = self._book.draw(keys)
            half = self._random.choice([0, len(ids) // 2])
            self.outstanding += [part for part in (ids[:half], ids[half:]) if part]
        elif status == 0:
            self._book.maybe += amount
        return status == OK

    async def _fetch(self, session: aiohttp.ClientSession, ids: list[str]) -> bool:
        url = f"{self._sites.base_url(self._slave)}/{self._master.name}/dec_keys"
        status, data = await self._ask(session, "dec_keys", url, {"key_IDs": [{"key_ID": i} for i in ids]})
        if status == OK:
            self._book.fetch(ids, msgspec.json.decode(data, type=_Container).keys)
            self.outstanding.remove(ids)
        elif status not in (0, UNAVAILABLE):
            self._book.refused[f"{status} {data[:200].decode(errors='replace')}"] += 1
            self.outstanding.remove(ids)
        return status == OK

    async def _ask(self, session: aiohttp.ClientSession, what: str, url: str, body: Any) -> tuple[int, bytes]:
        """(status, body); status 0 when no answer came, UNAVAILABLE also when the request certainly never left."""
        try:
            async with session.post(url, data=msgspec.json.encode(body)) as answer:
                status, data = answer.status, await answer.read()
        except aiohttp.ClientConnectorError:
            self._book.answers[f"{what} not connected"] += 1
            return UNAVAILABLE, b""
        except _NO_ANSWER:
            status, data = 0, b""
        self._book.answers[f"{what} {status or 'no answer'}"] += 1
        return status, data


def _tls(sae: Sae) -> ssl.SSLContext:
    paths = sae.credential
    if sae.listener == "sae.classical":
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(paths.trust))
        context.load_cert_chain(paths.certificate, paths.key)
        return context
    profile = TlsProfile(
        certificate=paths.certificate, key=paths.key, trust=paths.trust, crl=paths.crl, roles=("kms",), name=sae.name
    )
    return client_context(profile)
