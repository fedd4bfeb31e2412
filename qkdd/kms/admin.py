"""The administration socket of the KMS: `qkdctl kms`. Never a key byte."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import msgspec

from qkdd.core.errors import StorageFailed
from qkdd.core.local_access import Role
from qkdd.core.local_api import Call, Route
from qkdd.core.local_errors import BadRequest, NotNow
from qkdd.core.sqlite_file import SqliteFile
from qkdd.core.zeroise import Report, ZeroiseOrder, ZeroiseView
from qkdd.kms.admin_sources import SourceView, StreamView, sources, streams
from qkdd.kms.config import KmsConfig
from qkdd.kms.key_ids import canonical
from qkdd.kms.rotation import Rotation
from qkdd.kms.service import KeyService


class KmsControl(Protocol):
    """What the socket steers: `qkdd.kms.server.KmsServer`."""

    config: KmsConfig

    @property
    def running(self) -> KeyService: ...

    @property
    def rotation(self) -> Rotation: ...

    def rotate(self) -> None: ...

    async def zeroise(self, reason: str) -> Report: ...


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Key that can still be drawn. `owner`: the KMS that draws from it."""

    peer: str
    owner: str
    bits: int
    up: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    kms: str
    store: str
    zeroised: bool
    fallback_pairs: int
    rotation: str
    pools: list[Pool]


class SaeView(msgspec.Struct, frozen=True, kw_only=True):
    """Limits are nothing where there are none; `key_bits_left` counts in the process that answers."""

    sae: str
    identities: list[str]
    listeners: list[str]
    partners: list[str]
    requests_per_s: float | None
    key_bits_per_h: int | None
    key_bits_left: int | None


class PairView(msgspec.Struct, frozen=True, kw_only=True):
    master: str
    slave: str
    peer: str
    one_way: bool
    classes: list[str]
    sources: list[str]
    max_epsilon: float | None


class RevokeOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Single `keys`, or draws that fit `sae`, `link` and the time span (Unix seconds) together.

    undrawn: also key of `link` that was not drawn yet.
    """

    keys: list[str] = []
    sae: str | None = None
    link: str | None = None
    since: float | None = None
    until: float | None = None
    undrawn: bool = False


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Draws and single keys that could still be fetched at a site, and bytes of key that was not drawn."""

    draws: int
    keys: int
    undrawn: int


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """`told`: KMS id → whether it confirmed; repeat the order when one did not."""

    here: Counts
    there: Counts
    told: dict[str, bool]


class RotationView(msgspec.Struct, frozen=True, kw_only=True):
    """then: what is left for the operator when it is done."""

    state: str
    done: int
    total: int
    then: str


class BackupOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """path: a new file on the KMS's machine."""

    path: str


class BackupView(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    bytes: int


async def _pools(kms: KmsControl, _call: Call | None = None) -> list[Pool]:
    service, found = kms.running, []
    for peer in kms.config.peers:
        for owner, size in sorted((await service.pool(peer)).items()):
            found.append(Pool(peer=peer, owner=owner, bits=8 * size, up=service.peer_up(peer)))
    return found


async def _status(kms: KmsControl, _call: Call) -> Status:
    service = kms.running
    return Status(
        kms=service.own,
        store=service.database.place.name,
        zeroised=service.zeroised,
        fallback_pairs=service.fallback_pairs,
        rotation=kms.rotation.progress.state,
        pools=await _pools(kms),
    )


async def _saes(kms: KmsControl, _call: Call) -> list[SaeView]:
    return [
        SaeView(
            sae=name,
            identities=list(entry.identities or (name,)),
            listeners=list(entry.listeners or kms.config.sae),
            partners=kms.running.partners(name),
            requests_per_s=kms.running.site.quotas.requests_per_s(name),
            key_bits_per_h=_quota(kms, name)[0],
            key_bits_left=_quota(kms, name)[1],
        )
        for name, entry in sorted(kms.config.saes.items())
    ]


def _quota(kms: KmsControl, sae: str) -> tuple[int | None, int | None]:
    return kms.running.site.quotas.key_bits(sae) or (None, None)


async def _pairs(kms: KmsControl, _call: Call) -> list[PairView]:
    return [
        PairView(
            master=p.master,
            slave=p.slave,
            peer=p.peer,
            one_way=p.one_way,
            classes=[str(c) for c in p.classes],
            sources=list(p.sources) or ["any"],
            max_epsilon=p.max_epsilon,
        )
        for p in kms.config.pairs
    ]


async def _sources(kms: KmsControl, _call: Call) -> list[SourceView]:
    return await sources(kms.running)


async def _streams(kms: KmsControl, _call: Call) -> list[StreamView]:
    return await streams(kms.running)


async def _revoke(kms: KmsControl, call: Call) -> Revocation:
    order: RevokeOrder = call.body
    span = None
    if order.since is not None or order.until is not None:
        span = order.since if order.since is not None else 0.0, order.until if order.until is not None else 1e12
        if span[0] > span[1]:
            raise BadRequest("since lies behind until")
    if not (order.keys or order.sae or order.link or span):
        raise BadRequest("nothing is named to revoke")
    if order.keys and (order.sae or order.link or span):
        raise BadRequest("single keys go with no other condition")
    if order.undrawn and (order.link is None or order.sae is not None or span is not None):
        raise BadRequest("undrawn goes with link alone: key that was not drawn belongs to no application and no time")
    if order.link is not None and all(order.link not in peer.links for peer in kms.config.peers.values()):
        raise BadRequest(f"there is no link {order.link!r}")
    try:
        keys = [canonical(key) for key in order.keys]
    except ValueError:
        raise BadRequest("a key ID is no UUID") from None
    done = await kms.running.revoke(keys=keys, sae=order.sae, link=order.link, span=span, undrawn=order.undrawn)
    return msgspec.convert(done, Revocation)


async def _rotate(kms: KmsControl, _call: Call) -> RotationView:
    if kms.rotation.progress.state == "running":
        raise NotNow("a rotation is under way")
    kms.rotate()
    return await _rotation(kms, _call)


async def _rotation(kms: KmsControl, _call: Call) -> RotationView:
    return RotationView(**asdict(kms.rotation.progress))


async def _backup(kms: KmsControl, call: Call) -> BackupView:
    place, target = kms.running.database.place, Path(call.body.path)
    if not isinstance(place, SqliteFile):
        raise NotNow("the store is in PostgreSQL: back it up with its own tools (pg_dump)")
    if not target.is_absolute():
        raise BadRequest("the path is not absolute")
    return BackupView(path=str(target), bytes=await asyncio.to_thread(backup, place.path, target))


def backup(store: Path, target: Path) -> int:
    """Copy a store that is in use, consistent, mode 0600; what is sealed stays sealed. Returns bytes. Raises StorageFailed."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR))
        source, copy = sqlite3.connect(f"file:{store}?mode=ro", uri=True), sqlite3.connect(target)
        try:
            source.backup(copy)
        finally:
            source.close()
            copy.close()
    except (OSError, sqlite3.Error) as error:
        raise StorageFailed(f"{target}: {error}") from None
    return target.stat().st_size


async def _zeroise(kms: KmsControl, call: Call) -> ZeroiseView:
    if call.body.confirm != kms.config.kms.id:
        raise BadRequest("confirm is not the id of this KMS; nothing was erased")
    report = await kms.zeroise("administrator")
    return report.view()


V, A = Role.VIEW, Role.ADMIN
ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/kms/status", V, "State, store, rotation and pools.", Status, _status),
    Route("GET", "/v1/kms/saes", V, "The applications of this site.", list[SaeView], _saes),
    Route("GET", "/v1/kms/pairs", V, "Who may share keys, of which classes.", list[PairView], _pairs),
    Route("GET", "/v1/kms/pools", V, "Key that can still be drawn.", list[Pool], _pools),
    Route("GET", "/v1/kms/sources", V, "Where key comes from, and how much there is.", list[SourceView], _sources),
    Route("GET", "/v1/kms/streams", V, "Key streams (ETSI GS QKD 004).", list[StreamView], _streams),
    Route("POST", "/v1/kms/revoke", A, "Give what fits to nobody any more.", Revocation, _revoke, body=RevokeOrder),
    Route("POST", "/v1/kms/rotate-master-key", A, "Begin a rotation.", RotationView, _rotate),
    Route("GET", "/v1/kms/rotation", V, "Progress of the rotation.", RotationView, _rotation),
    Route("POST", "/v1/kms/backup", A, "Copy the store.", BackupView, _backup, body=BackupOrder),
    Route("POST", "/v1/kms/zeroise", A, "Erase all key for good.", ZeroiseView, _zeroise, body=ZeroiseOrder),
)
