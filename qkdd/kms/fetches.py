"""Requests of slaves that wait at one moment are answered together: one transaction, one audit line an application, both durable.

What comes meanwhile goes with the next group, which begins when this one has been answered: two groups at once, one in the store
and one in the audit log, would be smaller and cost more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from qkdd.core import log
from qkdd.core.errors import QkddError, StorageFailed
from qkdd.kms import fetching
from qkdd.kms.allocation import FetchRefused
from qkdd.kms.fetching import Fetch, Fetched
from qkdd.kms.gathering import arrived
from qkdd.kms.opening import Kept
from qkdd.kms.receipts import Receipts
from qkdd.kms.site import Site

_LOG = log.get("kms")
_MOST = 4096  # requests in one transaction


@dataclass(slots=True)
class _Waiting:
    """`done`: what came of it, or None: it has to be asked alone."""

    request: Fetch
    done: asyncio.Future[Fetched | FetchRefused | None]


class JointFetches:
    """Of one KMS. Nobody waits for company: a request that finds no group under way begins one."""

    def __init__(self, site: Site, receipts: Receipts) -> None:
        self._site, self._receipts = site, receipts
        self._kept = Kept(site.clock.monotonic)
        self._waiting: list[_Waiting] = []
        self._pump: asyncio.Task[None] | None = None

    async def fetch(self, request: Fetch) -> Fetched | FetchRefused:
        """What it says is in the audit log. Raises StorageFull, StorageFailed."""
        one = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        answer = await one.done
        if answer is None:
            [answer] = await self._ask([request])
            await self._receipts.fetched([(request, answer)])
        return answer

    async def close(self) -> None:
        """What is under way ends; its requests are told so."""
        pump = self._pump
        if pump is not None:
            pump.cancel()
            await asyncio.wait([pump])
        try:
            await self.wipe()
        except QkddError as error:  # a store that does not answer
            _LOG.warning("opened chunks are wiped with the process's memory", **log.error_fields(error))

    async def wipe(self) -> None:
        """No chunk stays open that no request of this moment needs."""
        if self._kept.open:
            await self._site.database.run(lambda _connection: self._kept.wipe())

    async def _ask(self, requests: list[Fetch]) -> list[Fetched | FetchRefused]:
        site = self._site
        window = site.config.limits.redelivery_window
        return await site.run(
            fetching.fetch, site.sealer, site.own, requests, site.now(), window, site.synthetic, self._kept
        )

    async def _run(self) -> None:
        try:
            while self._waiting:
                await arrived(self._waiting)
                group = [one for one in self._waiting[:_MOST] if not one.done.done()]
                del self._waiting[:_MOST]
                if group:
                    await self._answer(group)
        finally:  # at once: a request that comes now must find the place free
            self._pump = None
            for one in self._waiting:
                if not one.done.done():
                    one.done.set_result(None)
            self._waiting.clear()

    async def _answer(self, group: list[_Waiting]) -> None:
        requests = [one.request for one in group]
        try:
            try:
                answers = await self._ask(requests)
            except Exception:
                if len(group) == 1:
                    raise
                for one in group:  # each alone, so that only the guilty one sees it
                    if not one.done.done():
                        one.done.set_result(None)
                return
            await self._receipts.fetched(list(zip(requests, answers, strict=True)))
        except BaseException as error:
            for one in group:
                if not one.done.done():
                    one.done.set_exception(
                        error if isinstance(error, Exception) else StorageFailed("the key service has ended")
                    )
            if not isinstance(error, Exception):
                raise
            return
        for one, answer in zip(group, answers, strict=True):
            if not one.done.done():
                one.done.set_result(answer)
