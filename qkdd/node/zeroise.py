"""Emergency erasure of a node: by an administrator's order or a tamper input; the process ends with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.core.local_errors import BadRequest
from qkdd.core.tamper import TamperWatch
from qkdd.core.zeroise import EXIT_ZEROISED, Report, ZeroiseView, store_files, zeroise
from qkdd.node.config import NodeConfig

STORE = "keys.sqlite"
_SAFE_SECONDS = 0.5  # for the hardware, once the keys are gone
_LAST_WORDS = 0.2  # seconds for the answer to whoever gave the order
_LOG = log.get("node")


class Zeroiser:
    """`safe` brings the devices into their safe state; `end` ends the process at once."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        meter: Meter,
        audit: AuditLog,
        safe: Callable[[], Awaitable[None]],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._config, self._clock, self._audit, self._safe, self._end = config, clock, audit, safe, end
        self._tamper = TamperWatch(config.zeroise, clock, meter, self._tripped)

    async def watch(self) -> None:
        """The tamper inputs, for ever."""
        await self._tamper.run()

    async def order(self, confirm: str) -> ZeroiseView:
        """Raises BadRequest when `confirm` is not the node's id; nothing was erased."""
        if confirm != self._config.node.id:
            raise BadRequest("confirm is not the id of this node; nothing was erased")
        return (await self.zeroise("administrator")).view()

    async def _tripped(self, reason: str) -> None:
        await self.zeroise(reason)

    async def zeroise(self, reason: str) -> Report:
        config, state = self._config, Path(self._config.node.state_directory)
        keys = [Path(config.node.master_key), Path(config.peer.key), *config.keys.secret_files()]
        keys += [Path(path) for path in config.zeroise.also]
        report = await asyncio.to_thread(zeroise, state, keys, store_files(state / STORE), reason, self._clock.wall())
        _LOG.critical("zeroised", reason=reason, seconds=report.seconds, erased=report.erased, failed=report.failed)
        self._audit.write("zeroised", reason=reason, erased=report.erased, failed=list(report.failed))
        loop = asyncio.get_running_loop()
        loop.call_later(_LAST_WORDS + _SAFE_SECONDS, self._end, EXIT_ZEROISED)
        try:
            async with asyncio.timeout(_SAFE_SECONDS):
                await self._audit.settled()
                await self._safe()
        except (QkddError, TimeoutError) as error:
            _LOG.error("not everything was done after the erasure", error=str(error) or type(error).__name__)
        return report
