"""Audit lines of keys that are given out, durable before they are: those of one moment are written together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from qkdd.core.audit import AuditLog
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError, StorageFailed
from qkdd.kms.allocation import Allocation, FetchRefused
from qkdd.kms.batch import KeyBatch
from qkdd.kms.fetching import Fetch, Fetched
from qkdd.kms.gathering import arrived
from qkdd.kms.key_ids import key_id


@dataclass(slots=True)
class _Fetch:
    """Requests of one application for keys of one master."""

    master: str
    slave: str
    firsts: list[str] = field(default_factory=list)
    count: int = 0
    again: int = 0


class Receipts:
    def __init__(self, audit: AuditLog, meter: Meter) -> None:
        self._audit, self._meter = audit, meter
        self._drawn: list[KeyBatch] = []
        self._fetched: dict[tuple[str, str], _Fetch] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None

    async def drawn(self, *batches: KeyBatch) -> None:
        """These keys go to their masters. Raises StorageFull, StorageFailed."""
        self._drawn += batches
        await self._written()

    async def fetched(self, answers: Sequence[tuple[Fetch, Fetched | FetchRefused]]) -> None:
        """These keys go to slaves, those of one moment. Raises StorageFull, StorageFailed."""
        given = [(request, answer) for request, answer in answers if isinstance(answer, Fetched)]
        for request, answer in given:
            fetch = self._fetched.get((request.master, request.slave))
            if fetch is None:
                fetch = self._fetched[request.master, request.slave] = _Fetch(request.master, request.slave)
            allocation, first, _ = request.runs[0]
            fetch.firsts.append(key_id(allocation, first))
            fetch.count += sum(run.amount for run in request.runs)
            fetch.again += answer.again
        if given:
            await self._written()

    def unused(self, allocation: Allocation, first: int, count: int) -> None:
        """The last keys of a draw are given to nobody: they stay used at both sites."""
        self._audit.write(
            "keys of a lease unused",
            master=allocation.master,
            slave=allocation.slaves[0],
            count=count,
            bits=8 * allocation.key_bytes,
            first=key_id(allocation.id, first),
        )

    async def _written(self) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        try:
            while self._waiting:
                await arrived(self._waiting)
                waiting, self._waiting = self._waiting, []
                try:
                    self._lines()
                    await self._audit.settled()
                except BaseException as error:
                    for done in waiting:
                        if not done.done():
                            done.set_exception(
                                error if isinstance(error, QkddError) else StorageFailed("the audit log has ended")
                            )
                    if not isinstance(error, QkddError):
                        raise
                    continue
                for done in waiting:
                    if not done.done():
                        done.set_result(None)
        finally:
            self._writer = None

    def _lines(self) -> None:
        drawn, self._drawn = self._drawn, []
        fetched, self._fetched = self._fetched, {}
        draws: dict[bytes, list[KeyBatch]] = {}
        for batch in drawn:
            draws.setdefault(batch.allocation.id, []).append(batch)
        for batches in draws.values():  # of one draw: given out in order, so stretch behind stretch
            allocation, origin = batches[0].allocation, batches[0].origin
            count = sum(map(len, batches))
            self._audit.write(
                "keys drawn",
                master=allocation.master,
                slave=allocation.slaves[0],
                count=count,
                bits=8 * allocation.key_bytes,
                first=key_id(allocation.id, min(batch.first for batch in batches)),
                key_class=allocation.key_class,
                sources=list(origin.sources),
                epsilon=origin.epsilon,
                requests=len(batches),
            )
            self._meter.add("qkdd_kms_keys_drawn_total", count)
            for source in origin.sources:
                self._meter.add("qkdd_kms_source_drawn_total", count, source=source)
            self._meter.add("qkdd_kms_class_keys_total", count, key_class=allocation.key_class)
        for fetch in fetched.values():
            more = {"further": fetch.firsts[1:]} if len(fetch.firsts) > 1 else {}
            self._audit.write(
                "keys fetched",
                master=fetch.master,
                slave=fetch.slave,
                count=fetch.count,
                again=fetch.again,
                first=fetch.firsts[0],
                **more,
            )
            self._meter.add("qkdd_kms_keys_fetched_total", fetch.count)
