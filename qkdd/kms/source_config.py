"""`[sources.NAME]`: key that other makers' devices and key management systems bring. Both sites name a source alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from urllib.parse import urlsplit

from qkdd.core.config import Section
from qkdd.core.etsi020 import is_sae_id
from qkdd.core.units import Seconds
from qkdd.kms.listener_config import ClientTls, Listener
from qkdd.peer.tls import Suite

PULLED = ("etsi014", "etsi004")  # kinds for which this KMS asks
OWN = "own"  # the name of our own nodes' key where a policy lists sources


def _https(key: str, text: str, *, path: bool = False) -> Iterator[tuple[str, str, str]]:
    url = urlsplit(text)
    if url.scheme != "https" or not url.hostname or url.query or url.username or (url.path.rstrip("/") and not path):
        yield key, f"{text!r} is not of the form https://host:port", "write https://host:port"


class Etsi020Source(Listener, frozen=True, kw_only=True):
    """ETSI GS QKD 020: the other KMS pushes keys here, to us as the SAE `sae_id` and so to nobody else.

    initiators: names in the certificates that may; initiator_sae_ids: who they may speak for (default: the same names).
    callback_urls: beginnings of the addresses that may be acknowledged to (asynchronous mode); none: synchronous mode only.
    """

    sae_id: str
    initiators: tuple[str, ...]
    initiator_sae_ids: tuple[str, ...] = ()
    callback_urls: tuple[str, ...] = ()
    suite: Suite = "post-quantum"

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from super().check()
        if self.suite == "post-quantum" and self.crl is None:
            yield "crl", "a post-quantum listener needs a revocation list", 'name it, or set suite = "classical"'
        if not self.initiators:
            yield "initiators", "nobody may bring keys", "name the other KMS as its certificate does"
        for name in (self.sae_id, *self.initiator_sae_ids, *(() if self.initiator_sae_ids else self.initiators)):
            if not is_sae_id(name):
                yield "sae_id", f"{name!r} is no SAE ID of 1 to 64 characters", "use letters, digits, - and ."
        for number, url in enumerate(self.callback_urls):
            yield from _https(f"callback_urls.{number}", url, path=True)


class _Pulled(ClientTls, frozen=True, kw_only=True):
    """What both kinds of pulled key have in common.

    level: bytes that this site keeps ready to draw; not_found_patience: how long a key that the other site's KMS does not
    know yet is asked for before it is given up.
    """

    url: str
    level: int = 65_536
    period: Seconds = Seconds(1.0)
    deadline: Seconds = Seconds(10.0)
    not_found_patience: Seconds = Seconds(60.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from super().check()
        yield from _https("url", self.url, path=True)
        if not 1 <= self.level <= 1 << 30:
            yield "level", "must lie between 1 and 1073741824 bytes", "use 65536"
        for name in ("period", "deadline"):
            if getattr(self, name) <= 0:
                yield name, "must be positive", 'use "1 s"'


class Etsi014Source(_Pulled, frozen=True, kw_only=True):
    """ETSI GS QKD 014: one site asks its KME for new keys, the other site asks its own for the same by their ids.

    sae_id: who this KMS is to the KME (its certificate says so there); remote_sae_id: who the other site is.
    """

    sae_id: str
    remote_sae_id: str
    key_size: int = 256
    keys_per_request: int = 64

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from super().check()
        if self.key_size % 8 or not 64 <= self.key_size <= 1 << 20:
            yield "key_size", "must be a multiple of 8 between 64 and 1048576 bits", "use 256"
        if not 1 <= self.keys_per_request <= 256:
            yield "keys_per_request", "must lie between 1 and 256", "use 64"
        for name in ("sae_id", "remote_sae_id"):
            if not getattr(self, name):
                yield name, "is empty", "give the SAE ID as the other maker's KME knows it"


class Etsi004Source(_Pulled, frozen=True, kw_only=True):
    """ETSI GS QKD 004 over JSON and HTTP: a key stream between `source` and `destination`, read at both ends."""

    source: str
    destination: str
    chunk_bytes: int = 1024
    max_bps: int = 0
    timeout: Seconds = Seconds(2.0)
    ttl: Seconds = Seconds(3600.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from super().check()
        if not 8 <= self.chunk_bytes <= 1 << 16:
            yield "chunk_bytes", "must lie between 8 and 65536", "use 1024"
        if not 0 <= self.max_bps < 1 << 32:
            yield "max_bps", "must lie between 0 (no limit) and 4294967295", "leave it out"
        for name in ("source", "destination"):
            if not getattr(self, name):
                yield name, "is empty", "give the URI or SAE ID as the other maker's KMS knows it"


class SourceConfig(Section, frozen=True, kw_only=True):
    """Key of `link` from one of: files in `directory`, `etsi020` (pushed to us), `etsi014` or `etsi004` (pulled by us).

    epsilon: what its maker claims for each piece of key, when the key itself brings no claim.
    """

    link: str
    directory: str = ""
    etsi020: Etsi020Source | None = None
    etsi014: Etsi014Source | None = None
    etsi004: Etsi004Source | None = None
    epsilon: float | None = None

    @property
    def kind(self) -> str:
        """ "directory", "etsi020", "etsi014" or "etsi004"."""
        return next((k for k in ("etsi020", "etsi014", "etsi004") if getattr(self, k) is not None), "directory")

    def check(self) -> Iterator[tuple[str, str, str]]:
        kinds = [k for k in ("directory", "etsi020", "etsi014", "etsi004") if getattr(self, k)]
        if not kinds:
            yield "directory", "the source has none of directory, etsi020, etsi014, etsi004", "name one"
        if len(kinds) > 1:
            yield kinds[1], f"the source is {kinds[0]} already", "make it a source of its own"
        if self.epsilon is not None and not (0 <= self.epsilon <= 1 and math.isfinite(self.epsilon)):
            yield "epsilon", "must lie between 0 and 1", "use 1e-10"
