"""Requests for a fresh error rate, answered by the next alignment that begins after them."""

from __future__ import annotations

import asyncio

from qkdd.core.errors import QkddError


class Probes:
    """Waiting callers. `wanted` is set while there is a reason to break off waiting for a block."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[float]] = []
        self._taken: list[asyncio.Future[float]] = []
        self.wanted = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def ask(self) -> float:
        """Wait for the error rate of a stretch that begins after this call."""
        probe: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(probe)
        self.wanted.set()
        return await probe

    def take(self) -> None:
        """A stretch begins now: it serves everybody who has asked so far."""
        self._taken += self._waiting
        self._waiting = []
        self.wanted.clear()

    def answer(self, error_rate: float) -> None:
        """The stretch is done."""
        self._finish(error_rate)

    def fail(self, error: QkddError, *, everybody: bool = False) -> None:
        """The stretch failed; with `everybody` also those who still wait for one."""
        if everybody:
            self.take()
        self._finish(error)

    def _finish(self, outcome: float | QkddError) -> None:
        for probe in self._taken:
            if not probe.done():
                if isinstance(outcome, QkddError):
                    probe.set_exception(outcome)
                else:
                    probe.set_result(outcome)
        self._taken = []
