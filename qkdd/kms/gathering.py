"""Requests that have arrived go together: those in the loop's queue and in the sockets' buffers too, not only those that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sized

_PASSES = 5  # of the loop: from a readable socket to a request that waits are four
_ROUNDS = 4  # at most, so that nobody waits for others who come one behind the other


async def arrived(waiting: Sized) -> None:
    """Give the loop turns until those bring nobody more to `waiting`. Waits for nothing: on an idle loop it takes microseconds,
    and on a busy one the turns are work that has to be done anyway."""
    for _ in range(_ROUNDS):
        before = len(waiting)
        for _ in range(_PASSES):
            await asyncio.sleep(0)
        if len(waiting) == before:
            return
