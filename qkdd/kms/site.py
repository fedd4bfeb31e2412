"""What one KMS is and has: configuration, store, line to the other sites, clock. The rooms of the key service share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.database import Database, Upsert
from qkdd.core.sealing import Sealer
from qkdd.core.secret import Secret
from qkdd.core.zeroise import Zeroised
from qkdd.kms import chunks
from qkdd.kms.classes import ClassPolicy, Fallback
from qkdd.kms.config import KmsConfig
from qkdd.kms.errors import NotEntitled, StoreMismatch
from qkdd.kms.hybrid import Hybrid
from qkdd.kms.origin import Only, together
from qkdd.kms.plane import PeerKms
from qkdd.kms.quotas import Quotas
from qkdd.kms.schema import META

P = ParamSpec("P")
T = TypeVar("T")


def _check_kind(connection: sa.Connection, synthetic: bool) -> None:
    """A store holds synthetic key or real key for all its life. Raises StoreMismatch."""
    known = connection.execute(sa.select(META.c.value).where(META.c.name == "synthetic")).scalar()
    if known is None:
        used = connection.execute(sa.select(sa.func.count()).select_from(META)).scalar_one()
        used += connection.execute(sa.text("SELECT count(*) FROM (SELECT 1 FROM chunks LIMIT 1) AS one")).scalar_one()
        known = 0.0 if used else float(synthetic)
        connection.execute(META.insert().values(name="synthetic", value=known))
    if bool(known) != synthetic:
        kinds = ("real", "synthetic (insecure)")
        raise StoreMismatch(f"the store is for {kinds[bool(known)]} key, this program serves {kinds[synthetic]} key")


_REMEMBER = Upsert(META, ("name",), lambda _, new: {"value": new.value})


def _service_time(connection: sa.Connection, own: float) -> float:
    """The largest service time that any process of this KMS has reached, `own` included; remembered."""
    known = connection.execute(sa.select(META.c.value).where(META.c.name == "service_seconds")).scalar()
    now = max(own, known or 0.0)
    _REMEMBER(connection, {"name": "service_seconds", "value": now})
    return now


class Site:
    """`peers` by KMS id; `links`: link → KMS at its other end; `pairs`: (master, slave) → KMS whose link pays."""

    def __init__(
        self,
        config: KmsConfig,
        database: Database,
        master: Secret,
        peers: dict[str, PeerKms],
        *,
        clock: Clock,
        meter: Meter,
        audit: AuditLog,
        synthetic: bool = False,
    ) -> None:
        self.config, self.own, self.synthetic = config, config.kms.id, synthetic
        self.database, self.sealer = database, Sealer(master, "kms")
        self.zeroised = False
        self.peers, self.clock, self.meter, self.audit = peers, clock, meter, audit
        self.links = {link: name for name, peer in config.peers.items() for link in peer.links}
        self.pairs: dict[tuple[str, str], str] = {}
        for pair in config.pairs:
            self.pairs[pair.master, pair.slave] = pair.peer
            if not pair.one_way:
                self.pairs[pair.slave, pair.master] = pair.peer
        classes = {(pair.master, pair.slave): pair.classes for pair in config.pairs}
        back = {(p.slave, p.master): p.classes for p in config.pairs if not p.one_way}
        forth = {(p.master, p.slave): Only(p.sources, p.max_epsilon) for p in config.pairs}
        self._origins = {
            (p.slave, p.master): Only(p.sources, p.max_epsilon) for p in config.pairs if not p.one_way
        } | forth
        self.policy, self.fallback = ClassPolicy(back | classes), Fallback(meter, audit)
        self.hybrid = Hybrid(config.hybrid, self.own, self.now)
        self.quotas = Quotas(config, clock)
        self._time_base, self._time_start = 0.0, clock.monotonic()

    async def open(self) -> None:
        """Open the store, check that it is of this kind, take up its time. Raises StoreMismatch, StorageFailed."""
        await self.database.open()
        await self.run(_check_kind, self.synthetic)
        self._time_base, self._time_start = 0.0, self.clock.monotonic()
        self._time_base = await self.run(_service_time, 0.0)

    async def close(self) -> None:
        for peer in self.peers.values():
            await peer.close()
        await self.database.close()

    async def run(self, work: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One transaction of the store. Raises Zeroised, StorageFull, StorageFailed."""
        if self.zeroised:
            raise Zeroised("all key was erased a moment ago")
        return await self.database.run(lambda c: work(c, *args, **kwargs))

    def now(self) -> float:
        """Seconds this KMS has ever run, in any of its processes: lifetimes do not change when the wall clock is stepped."""
        return self._time_base + self.clock.monotonic() - self._time_start

    async def remember_time(self) -> float:
        """`now`, durable, and not behind another process of this KMS."""
        own = self.now()
        now = await self.run(_service_time, own)
        self._time_base += now - own
        return now

    async def pool(self, peer: str) -> dict[str, int]:
        """Owner → bytes that can still be drawn."""
        return await self.database.run(lambda c: chunks.pool_bytes(c, peer))

    def origin(self, master: str, slaves: Sequence[str]) -> Only | None:
        """Which key all of these pairs may have; None when nothing fits them all."""
        return together([self._origins.get((master, slave), Only()) for slave in slaves])

    def pair(self, master: str, slave: str) -> str:
        """The KMS whose link pays for keys from `master` to `slave`. Raises NotEntitled when they are no pair."""
        if (master, slave) not in self.pairs:
            raise NotEntitled(f"{master} may not draw keys for {slave}")
        return self.pairs[master, slave]
