"""Following a daemon over its control socket: its state twice a second, its events as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from qkdd_hil.demo.figures import Block

POLL = 0.5  # s
BLOCKS = 50  # asked for at once; far more than end between two polls
OnEvent = Callable[[str, dict[str, Any]], None]
_NOT_THERE = (aiohttp.ClientError, OSError, TimeoutError)  # not up yet, or just restarting


class NodeWatch:
    """What one daemon last said. `status` is the JSON of /v1/status, empty before the first answer."""

    def __init__(self, name: str, socket: Path, on_event: OnEvent) -> None:
        self.name = name
        self.status: dict[str, Any] = {}
        self.blocks: dict[int, Block] = {}
        self._socket = socket
        self._on_event = on_event

    @property
    def link(self) -> dict[str, Any]:
        """The part about the quantum link."""
        found: dict[str, Any] = self.status.get("link") or {}
        return found

    async def follow(self) -> None:
        """Poll and listen until cancelled."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2.0)
        connector = aiohttp.UnixConnector(str(self._socket))
        async with (
            aiohttp.ClientSession("http://qkdd", connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._poll(session))
            tasks.create_task(self._listen(session))

    async def post(self, route: str) -> None:
        """A command to the daemon, for example "/v1/drain"."""
        connector = aiohttp.UnixConnector(str(self._socket))
        async with (
            aiohttp.ClientSession("http://qkdd", connector=connector) as session,
            session.post(route, raise_for_status=True),
        ):
            pass

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        while True:
            try:
                async with asyncio.timeout(5.0):
                    await self._ask(session)
            except _NOT_THERE:
                self.status = {}
            await asyncio.sleep(POLL)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        async with session.get("/v1/status", raise_for_status=True) as answer:
            self.status = await answer.json()
        async with session.get("/v1/blocks", params={"limit": BLOCKS}, raise_for_status=True) as answer:
            for block in msgspec.json.decode(await answer.read(), type=list[Block]):
                self.blocks[block.number] = block

    async def _listen(self, session: aiohttp.ClientSession) -> None:
        since = 0
        while True:
            try:
                async with session.get("/v1/events", params={"since": since}, raise_for_status=True) as answer:
                    async for line in answer.content:
                        if line.strip():
                            event = msgspec.json.decode(line)
                            since = max(since, event["seq"])
                            self._on_event(self.name, event)
            except _NOT_THERE:
                pass
            await asyncio.sleep(POLL)


def finished_blocks(first: NodeWatch, second: NodeWatch) -> list[Block]:
    """Blocks by number as both nodes saw them; one that either refused counts as refused."""
    found = dict(first.blocks)
    for number, block in second.blocks.items():
        if number not in found or not block.accepted:
            found[number] = block
    return [found[number] for number in sorted(found)]
