"""What happens to the campaign: processes killed and stopped, databases killed, lines cut, several at once, at random moments."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from qkdd_hil.campaign.lines import Cut
from qkdd_hil.campaign.sites import CampaignFailed, Sites

_BETWEEN = 1.5  # s between the beginnings of two faults, on average
_DOWN = (0.1, 2.0)  # s that a process stays down
_STOPPED = (0.5, 8.0)  # s that a process does nothing, and longer than the others wait for it
_CUT = (0.05, 4.0)  # s, and longer than a KMS waits for another
# how often each kind; a line is one of eight kinds of connection
_KINDS = {"kill KMS": 4, "stop KMS": 1, "kill database": 1, "cut line": 6}


class Faults:
    """`run` until it is cancelled; `counts` by kind. Faults under way are finished (and undone) by `end`."""

    def __init__(self, sites: Sites, seed: int) -> None:
        self._sites, self._random = sites, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._under_way: set[asyncio.Task[None]] = set()
        self._databases = set(sites.databases)  # those that are up

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / _BETWEEN))
            task = asyncio.create_task(self._one())
            self._under_way.add(task)
            task.add_done_callback(self._done)

    async def end(self) -> None:
        """Wait until what is broken is whole again. Raises what a fault raised."""
        await asyncio.gather(*self._under_way)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._under_way.discard(task)  # a failed one is kept for `end`

    def failure(self) -> BaseException | None:
        """What a fault itself failed of: a database that did not come back."""
        for task in self._under_way:
            if task.done() and not task.cancelled():
                return task.exception()
        return None

    def _one(self) -> Coroutine[Any, Any, None]:
        choose = self._random
        (kind,) = choose.choices(list(_KINDS), list(_KINDS.values()))
        match kind:
            case "kill KMS":
                self.counts[kind] += 1
                return self._sites.kill(choose.choice(sorted(self._sites.replicas)), choose.uniform(*_DOWN))
            case "stop KMS":
                self.counts[kind] += 1
                return self._sites.stop(choose.choice(sorted(self._sites.replicas)), choose.uniform(*_STOPPED))
            case "kill database" if self._databases:
                self.counts[kind] += 1
                return self._database(choose.choice(sorted(self._databases)), choose.uniform(*_DOWN))
            case _:
                name, how = choose.choice(sorted(self._sites.lines)), choose.choice(list(Cut))
                self.counts[f"cut {name.split()[0]}: {how}"] += 1
                return self._sites.lines[name].cut(how, choose.uniform(*_CUT))

    async def _database(self, site: str, seconds: float) -> None:
        self._databases.discard(site)
        await self._sites.kill_database(site, seconds)
        self._databases.add(site)


def check(*failures: BaseException | None) -> None:
    """Raises CampaignFailed for the first that is one."""
    for failure in failures:
        if failure is not None:
            raise CampaignFailed(f"{type(failure).__name__}: {failure}") from failure
