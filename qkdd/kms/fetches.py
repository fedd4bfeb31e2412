"""Requests of slaves that wait at one moment are answered together: one transaction, one audit line an application."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from qkdd.core.errors import StorageFailed
from qkdd.kms import fetching
from qkdd.kms.allocation import Fetched, FetchRefused
from qkdd.kms.fetching import Fetch
from qkdd.kms.site import Site

_MOST = 4096  # requests in one transaction


@dataclass(slots=True)
class _Waiting:
    """`done`: what came of it, or None: it has to be asked alone."""

    request: Fetch
    done: asyncio.Future[list[Fetched] | FetchRefused | None]


class JointFetches:
    """Of one KMS. Nobody waits for company: what comes while a transaction is under way goes with the next one."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._waiting: list[_Waiting] = []
        self._pump: asyncio.Task[None] | None = None

    async def fetch(self, request: Fetch) -> list[Fetched] | FetchRefused:
        """Raises StorageFull, StorageFailed."""
        one = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        answer = await one.done
        return answer if answer is not None else (await self._ask([request]))[0]

    async def close(self) -> None:
        """What is under way ends; its requests are told so."""
        pump = self._pump
        if pump is not None:
            pump.cancel()
            await asyncio.wait([pump])

    async def _ask(self, requests: list[Fetch]) -> list[list[Fetched] | FetchRefused]:
        site = self._site
        window = site.config.limits.redelivery_window
        return await site.run(fetching.fetch, site.sealer, site.own, requests, site.now(), window)

    async def _run(self) -> None:
        try:
            while self._waiting:
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
        try:
            answers = await self._ask([one.request for one in group])
        except Exception as error:
            for one in group:
                if one.done.done():
                    continue
                if len(group) == 1:
                    one.done.set_exception(error)
                else:
                    one.done.set_result(None)  # each alone, so that only the guilty one sees it
            return
        except BaseException:
            for one in group:
                if not one.done.done():
                    one.done.set_exception(StorageFailed("the key service has ended"))
            raise
        for one, answer in zip(group, answers, strict=True):
            if not one.done.done():
                one.done.set_result(answer)
