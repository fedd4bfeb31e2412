"""Requests for key that wait at one moment are drawn together: one transaction, one call to the other site.

Nobody waits for company: what comes while a draw is under way goes with the next one. Requests of one pair and shape become one
draw, of which each gets its stretch of keys; a pair that asks all the time gets a lease with it (`qkdd.kms.leases`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from qkdd.core import log
from qkdd.core.errors import QkddError
from qkdd.core.zeroise import Zeroised
from qkdd.kms import allocations, together, voiding
from qkdd.kms.allocation import Allocation, Conflict, Origin
from qkdd.kms.batch import KeyBatch
from qkdd.kms.errors import PeerKmsDown
from qkdd.kms.leases import MOST, Demand, Lease, Leases, Line
from qkdd.kms.receipts import Receipts
from qkdd.kms.site import Site

_LOG = log.get("kms")
_POOL_SHARE = 16  # at most one byte in so many of the pool goes into leases at once

Announcing = Callable[[str, Allocation], Awaitable[Conflict | None]]
Alone = Callable[[str, Allocation], Awaitable[KeyBatch]]
Abandoning = Callable[[list[bytes]], Awaitable[None]]


@dataclass(slots=True)
class _Waiting:
    """One request. `done`: its keys, or None: it has to be drawn alone."""

    amount: int
    done: asyncio.Future[KeyBatch | None]


@dataclass(slots=True)
class _Joint:
    """Requests of one line that are drawn as one."""

    line: Line
    members: list[_Waiting] = field(default_factory=list)
    amount: int = 0


class JointDraws:
    """Of one KMS, for draws of class its whose pairs have no policy by origin.

    announce: tell the other site; abandon: set reservations free; alone: draw for one request. leasing: whether this process
    alone serves the store: what another one revoked would not reach a lease.
    """

    def __init__(
        self,
        site: Site,
        receipts: Receipts,
        *,
        announce: Announcing,
        alone: Alone,
        abandon: Abandoning,
        leasing: bool,
    ) -> None:
        self._site, self._receipts = site, receipts
        self._announce, self._alone, self._abandon, self._leasing = announce, alone, abandon, leasing
        self._waiting: dict[str, list[tuple[Line, _Waiting]]] = {name: [] for name in site.peers}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._leases = Leases(site.clock.monotonic)
        self._demand = Demand(site.clock.monotonic)
        self._refilling: set[Line] = set()
        self._revoking = 0
        self._revoked = 0  # how often leases were ended: a draw that was under way then makes none

    async def draw(self, peer: str, line: Line, amount: int) -> KeyBatch:
        """Raises as `qkdd.kms.draws.Draws.draw`."""
        if self._leasing:
            self._demand.note(line, amount)
            lease = self._leases.find(line, amount)
            if lease is not None:
                if self._site.zeroised:
                    raise Zeroised("all key was erased a moment ago")
                batch = lease.take(amount, self._site.synthetic)
                if self._leases.low(line):
                    self._refill(peer, line)
                await self._receipts.drawn(batch)
                return batch
        joint = await self._ask(peer, line, amount)
        if joint is None:
            return await self._alone(peer, Allocation(b"", *line, amount, ()))
        await self._receipts.drawn(joint)
        return joint

    def _ask(self, peer: str, line: Line, amount: int) -> asyncio.Future[KeyBatch | None]:
        one = _Waiting(amount, asyncio.get_running_loop().create_future())
        self._waiting[peer].append((line, one))
        if peer not in self._pumps:
            self._pumps[peer] = asyncio.create_task(self._pump(peer))
        return one.done

    def _refill(self, peer: str, line: Line) -> None:
        """The next lease, before the one in use has come to its end; no request waits for it."""
        if line in self._refilling or not self._demand.ahead(line):
            return
        self._refilling.add(line)

        def over(done: asyncio.Future[KeyBatch | None]) -> None:
            self._refilling.discard(line)
            if not done.cancelled():
                done.exception()  # told to the requests that come when the lease is empty: they meet the same

        self._ask(peer, line, 0).add_done_callback(over)

    def end_leases(self) -> None:
        """Nothing is given out any more of what was drawn ahead."""
        self._revoked += 1
        for lease in self._leases.drop(old=False):
            self._end(lease)

    @contextmanager
    def revoking(self) -> Iterator[None]:
        """Something is being revoked: what was drawn ahead before this is over is not given out any more."""
        self._revoking += 1
        self.end_leases()
        try:
            yield
        finally:
            self._revoking -= 1
            self.end_leases()

    async def end_old_leases(self) -> None:
        await self._give_back(self._leases.drop(old=True))

    async def close(self) -> None:
        """What is under way ends; its requests are told so."""
        pumps = list(self._pumps.values())
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.wait(pumps)
        await self._give_back(self._leases.drop(old=False))

    async def _give_back(self, ended: list[Lease]) -> None:
        """What is left in them can be drawn again, once the other site has heard of it (`qkdd.kms.upkeep`)."""
        over, self._leases.over = self._leases.over, []
        if not ended and not over:
            return

        def work(connection: sa.Connection) -> list[bool]:
            given = [one.left > 0 and voiding.give_back(connection, one.allocation, one.first) for one in ended]
            for draw in (*over, *(one.allocation for one, back in zip(ended, given, strict=True) if not back)):
                allocations.close_lease(connection, draw)
            return given

        try:
            given = await self._site.run(work)
        except QkddError as error:
            _LOG.warning("keys drawn ahead are lost", **log.error_fields(error))
            self._leases.over += over
            given = [False] * len(ended)
        for lease, back in zip(ended, given, strict=True):
            if back:
                lease.wipe()
            else:
                self._end(lease)

    def _end(self, lease: Lease) -> None:
        self._leases.over.append(lease.allocation)
        if left := lease.wipe():
            self._site.meter.add("qkdd_kms_lease_unused_keys_total", left)
            self._demand.unused(lease.line, left)
            self._receipts.unused(lease.allocation, lease.first, left)

    async def _pump(self, peer: str) -> None:
        try:
            while waiting := self._next(peer):
                await self._serve(peer, waiting)
        finally:  # at once: a request that comes now must find the place free
            del self._pumps[peer]
            for _, one in self._waiting[peer]:
                if not one.done.done():
                    one.done.set_result(None)
            self._waiting[peer].clear()

    def _next(self, peer: str) -> list[tuple[Line, _Waiting]]:
        waiting = self._waiting[peer]
        taken = [(line, one) for line, one in waiting[:MOST] if not one.done.done()]
        del waiting[:MOST]
        return taken or (self._next(peer) if waiting else [])

    async def _serve(self, peer: str, waiting: list[tuple[Line, _Waiting]]) -> None:
        try:
            await self._together(peer, _join(waiting))
        except BaseException as error:
            for _, one in waiting:
                if not one.done.done():
                    one.done.set_exception(error if isinstance(error, QkddError) else PeerKmsDown(f"{peer}: ended"))
            if not isinstance(error, QkddError):
                raise

    async def _together(self, peer: str, joints: list[_Joint]) -> None:
        if not self._site.peers[peer].up:
            raise PeerKmsDown(f"{peer} did not answer a moment ago")
        here, revoked = self._site.config.saes, self._revoked
        wanted = [Allocation(secrets.token_bytes(12), *one.line, one.amount, ()) for one in joints]
        ahead = [0] * len(joints)
        if self._leasing:
            ahead = [self._ahead(one) for one in joints]
        expected = [sum(slave in here for slave in one.slaves) for one in wanted]
        reserved = await self._site.run(
            together.reserve,
            self._site.own,
            peer,
            [
                together.Wanted(one, more, self._demand.step(joint.line), here)
                for joint, one, more, here in zip(joints, wanted, ahead, expected, strict=True)
            ],
            self._site.now(),
            _POOL_SHARE,
        )
        pending = {one.id for one in reserved if one is not None}
        try:
            cut = [(joint, one) for joint, one in zip(joints, reserved, strict=True) if one is not None]
            said = await asyncio.gather(*(self._announce(peer, one) for _, one in cut), return_exceptions=True)
            recorded: list[tuple[_Joint, Allocation]] = []
            failed: list[tuple[_Joint, QkddError]] = []
            for (joint, one), answer in zip(cut, said, strict=True):
                if answer is None:
                    recorded.append((joint, one))
                elif isinstance(answer, Conflict):  # each is drawn alone, further on
                    self._site.meter.add("qkdd_kms_conflicts_total")
                    _LOG.warning("the other KMS refuses a range", peer=peer, **answer.facts)
                    await self._site.run(allocations.burn, self._site.own, peer, one, answer)
                    pending.discard(one.id)
                elif isinstance(answer, QkddError):
                    failed.append((joint, answer))
                else:
                    raise answer
            if recorded:
                over, self._leases.over = self._leases.over, []
                draws = [(one, one.amount > joint.amount) for joint, one in recorded]
                try:
                    texts = await self._site.run(together.deliver, self._site.sealer, draws, over)
                except BaseException:
                    self._leases.over += over
                    raise
                pending -= {one.id for _, one in recorded}
                for (joint, one), (text, origin) in zip(recorded, texts, strict=True):
                    self._share(peer, joint, one, text, origin, lease=revoked == self._revoked and not self._revoking)
        finally:
            if pending:
                await self._abandon(list(pending))
        for joint, failure in failed:
            for member in joint.members:
                if not member.done.done():
                    member.done.set_exception(failure)
        for joint in joints:
            for member in joint.members:
                if not member.done.done():
                    member.done.set_result(None)

    def _share(
        self, peer: str, joint: _Joint, allocation: Allocation, text: bytes, origin: Origin, *, lease: bool
    ) -> None:
        """Each gets its keys; the rest becomes the pair's lease."""
        whole = Lease(peer, allocation, origin, bytearray(text), 0, self._site.clock.monotonic())
        for member in joint.members:
            _answer(member, whole.take(member.amount, self._site.synthetic))
        if whole.left:
            if lease and not self._site.zeroised:
                self._leases.add(whole)
                self._from_lease(peer, joint.line, whole)
            else:
                self._end(whole)

    def _from_lease(self, peer: str, line: Line, lease: Lease) -> None:
        """Requests that came in the meantime wait no longer."""
        waiting = []
        for of_line, one in self._waiting[peer]:
            if of_line == line and one.amount <= lease.left and not one.done.done():
                _answer(one, lease.take(one.amount, self._site.synthetic))
            else:
                waiting.append((of_line, one))
        self._waiting[peer] = waiting

    def _ahead(self, joint: _Joint) -> int:
        """Keys for whole requests like these."""
        return min(self._demand.ahead(joint.line), MOST - joint.amount)


def _join(waiting: list[tuple[Line, _Waiting]]) -> list[_Joint]:
    joints: dict[Line, _Joint] = {}
    full: list[_Joint] = []
    for line, one in waiting:
        joint = joints.get(line)
        if joint is not None and joint.amount + one.amount > MOST:
            full.append(joints.pop(line))
            joint = None
        if joint is None:
            joint = joints[line] = _Joint(line)
        joint.members.append(one)
        joint.amount += one.amount
    return [*full, *joints.values()]


def _answer(one: _Waiting, batch: KeyBatch) -> None:
    """A request that was given up gets none of it, and nobody else does."""
    if not one.done.done():
        one.done.set_result(batch)
