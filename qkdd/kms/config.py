"""Configuration of one `qkdd-kms`; docs/rooms/kms.md has a whole example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from qkdd.core.audit_files import SEGMENT, bad_segment
from qkdd.core.config import Section
from qkdd.core.database import Place
from qkdd.core.errors import ConfigError
from qkdd.core.local_config import LocalSocket
from qkdd.core.postgres import Postgres, parse
from qkdd.core.sqlite_file import SqliteFile
from qkdd.core.syslog_config import SyslogConfig
from qkdd.core.units import Seconds
from qkdd.core.zeroise import ZeroiseConfig, store_files
from qkdd.kms.classes import KeyClass
from qkdd.kms.exchange import CURVES
from qkdd.kms.listener_config import Listener, address
from qkdd.kms.source_config import OWN, SourceConfig
from qkdd.kms.stream_config import StreamsConfig


class NodePlane(Listener, frozen=True, kw_only=True):
    """Where this site's nodes push chunks. `nodes`: certificate names that may."""

    nodes: tuple[str, ...]


INTERFACES = ("etsi014", "skip", "etsi004")


class SaeListener(Listener, frozen=True, kw_only=True):
    """Where applications of this site ask for keys. `interfaces`: what is spoken there, of "etsi014", "skip" and "etsi004"."""

    interfaces: tuple[str, ...] = ("etsi014",)

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from super().check()
        for name in self.interfaces:
            if name not in INTERFACES:
                yield "interfaces", f"there is no interface {name!r}", f"use {', '.join(INTERFACES)}"
        if not self.interfaces:
            yield "interfaces", "nothing would be served here", 'use ["etsi014"]'


class Peer(Section, frozen=True, kw_only=True):
    """Another site's KMS: its KMS plane, and the quantum links that end there.

    replicas: the same plane of its other processes, asked when the first does not answer.
    """

    url: str
    links: tuple[str, ...]
    replicas: tuple[str, ...] = ()

    def check(self) -> Iterator[tuple[str, str, str]]:
        for key, text in (("url", self.url), *((f"replicas.{i}", text) for i, text in enumerate(self.replicas))):
            url = urlsplit(text)
            if url.scheme != "https" or not url.hostname or url.path.rstrip("/"):
                yield key, f"{text!r} is not of the form https://host:port", "give the other KMS's kms_plane address"
        if not self.links:
            yield "links", "no link leads there", "name the link that the node pushes chunks for"


class Sae(Section, frozen=True, kw_only=True):
    """An application of this site. `identities`: names in its certificate (SAN URI, DNS or CN); default: its id.

    `listeners`: where it may come from; empty: every SAE listener. `requests_per_s`, `key_bits_per_h`: instead of those in
    `[limits]`; 0 for no limit.
    """

    identities: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()
    requests_per_s: float | None = None
    key_bits_per_h: int | None = None

    def check(self) -> Iterator[tuple[str, str, str]]:
        for name in ("requests_per_s", "key_bits_per_h"):
            if (value := getattr(self, name)) is not None and value < 0:
                yield name, "cannot be negative", "use 0 for no limit"


class Pair(Section, frozen=True, kw_only=True):
    """Two applications that may share keys, in both directions unless `one_way`. `peer`: the KMS whose link pays.

    classes: what they may get, most wanted first; "pqc-only" at the end allows the fallback. sources: names of [sources], and
    "own" for key of our nodes; none: any. max_epsilon: the most that may be claimed for the chunks of one draw together.
    """

    master: str
    slave: str
    peer: str
    one_way: bool = False
    classes: tuple[KeyClass, ...] = (KeyClass.ITS,)
    sources: tuple[str, ...] = ()
    max_epsilon: float | None = None

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            yield "classes", "names no class, or one twice", 'use ["its"], ["hybrid"] or ["hybrid", "pqc-only"]'
        if KeyClass.PQC_ONLY in self.classes[:-1]:
            yield "classes", "pqc-only before another class: quantum key would never be used", "name it last"
        if self.max_epsilon is not None and not 0 < self.max_epsilon <= 1:
            yield "max_epsilon", "must lie above 0 and be at most 1", "use 1e-9, or leave it out"


class HybridExchange(Section, frozen=True, kw_only=True):
    """Of the post-quantum share in `hybrid` and `pqc-only` keys. `curve`: nothing, "X25519" or "P-384" beside ML-KEM-1024."""

    curve: str = ""
    lifetime: Seconds = Seconds(600.0)  # of a pair of key-encapsulation keys

    def check(self) -> Iterator[tuple[str, str, str]]:
        if self.curve not in CURVES:
            yield "curve", f"{self.curve!r} is unknown", f"use one of {', '.join(repr(c) for c in CURVES)}"
        if not 10 <= self.lifetime <= 86_400:
            yield "lifetime", "must lie between 10 s and a day", 'use "10 min"'


class Limits(Section, frozen=True, kw_only=True):
    """Sizes in bits as in ETSI GS QKD 014, the rest in the named unit."""

    key_size: int = 256
    min_key_size: int = 64
    max_key_size: int = 4096
    max_key_per_request: int = 128
    max_key_count: int = 10_000_000
    max_sae_id_count: int = 0  # additional slaves; 0 = no multicast
    body_bytes: int = 65_536
    json_depth: int = 16
    in_flight_per_sae: int = 16
    redelivery_window: Seconds = Seconds(0.0)
    key_lifetime: Seconds = Seconds(7 * 86_400.0)
    pool_bytes: int = 1 << 30
    peer_deadline: Seconds = Seconds(3.0)
    store_deadline: Seconds = Seconds(10.0)
    idle_timeout: Seconds = Seconds(75.0)
    connections: int = 4096  # open at once on each listener
    requests_per_s: float = 0.0  # of each application; 0 = no limit
    key_bits_per_h: int = 0  # drawn by each application; 0 = no limit

    def check(self) -> Iterator[tuple[str, str, str]]:
        for name in ("key_size", "min_key_size", "max_key_size"):
            if getattr(self, name) % 8 or getattr(self, name) <= 0:
                yield name, "is not a positive multiple of 8 bits", "use 256"
        if not self.min_key_size <= self.key_size <= self.max_key_size:
            yield "key_size", "lies outside min_key_size to max_key_size", "use 256"
        if not 1 <= self.max_key_per_request <= 4096:
            yield "max_key_per_request", "must lie between 1 and 4096", "use 128"
        if not 0 <= self.redelivery_window <= 300:
            yield "redelivery_window", "must lie between 0 s (off) and 300 s", 'use "5 s"'
        if self.key_lifetime < 60:
            yield "key_lifetime", "below a minute a slave may come too late", 'use "7 d"'
        for name in ("max_key_count", "body_bytes", "json_depth", "in_flight_per_sae", "pool_bytes", "connections"):
            if getattr(self, name) < 1:
                yield name, "must be positive", "leave it out for the default"
        if not 2 <= self.store_deadline <= 300:
            yield "store_deadline", "must lie between 2 s and 300 s", 'use "10 s"'
        for name in ("requests_per_s", "key_bits_per_h"):
            if getattr(self, name) < 0:
                yield name, "cannot be negative", "use 0 for no limit"
        if self.max_sae_id_count < 0:
            yield "max_sae_id_count", "cannot be negative", "use 0 for no multicast"


class KmsIdentity(Section, frozen=True, kw_only=True):
    """Name, state and master key. `metrics`: a loopback address for /metrics, or nothing.

    store: nothing for a file in the state directory, or the URL of a PostgreSQL database, "postgresql://user@host/name", that
    several processes of this KMS may share (docs/rooms/kms.md, Replicas).
    """

    id: str
    state_directory: str
    master_key: str
    metrics: str | None = None
    store: str | None = None
    audit_segment: int = SEGMENT

    def check(self) -> Iterator[tuple[str, str, str]]:
        yield from bad_segment(self.audit_segment)
        if self.store is not None:
            try:
                parse(self.store)
            except ConfigError as error:
                yield "store", error.message.removeprefix("store: "), error.remedy
        if self.metrics is not None:
            try:
                host, _ = address(self.metrics)
            except ValueError as error:
                yield "metrics", str(error), 'write "127.0.0.1:9111"'
            else:
                if host not in ("127.0.0.1", "::1", "localhost"):
                    yield "metrics", f"{host} is not loopback, and /metrics asks for no certificate", "use 127.0.0.1"


class KmsConfig(Section, frozen=True, kw_only=True):
    """The whole file. `admin`: the socket of `qkdctl kms`. `sae` has up to two listeners: "post-quantum" and "classical"."""

    kms: KmsIdentity
    node_plane: NodePlane
    kms_plane: Listener
    peers: dict[str, Peer]
    sae: dict[str, SaeListener]
    saes: dict[str, Sae]
    pairs: tuple[Pair, ...]
    limits: Limits = Limits()
    hybrid: HybridExchange = HybridExchange()
    admin: LocalSocket | None = None
    sources: dict[str, SourceConfig] = {}
    streams: StreamsConfig = StreamsConfig()
    zeroise: ZeroiseConfig = ZeroiseConfig()
    syslog: SyslogConfig | None = None

    def key_files(self) -> list[Path]:
        """Every file with a key that this KMS is given; the master key first."""
        listeners = (self.node_plane, self.kms_plane, *self.sae.values())
        foreign = [e.key for s in self.sources.values() for e in (s.etsi020, s.etsi014, s.etsi004) if e is not None]
        return [Path(p) for p in (self.kms.master_key, *(e.key for e in listeners), *foreign, *self.zeroise.also)]

    def store_files(self) -> list[Path]:
        """Files of the embedded store; none with PostgreSQL."""
        place = self.store_place()
        return store_files(place.path) if isinstance(place, SqliteFile) else []

    def store_place(self) -> Place:
        """Where the keys are kept."""
        if self.kms.store is not None:
            return Postgres(self.kms.store, self.limits.store_deadline)
        return SqliteFile(Path(self.kms.state_directory) / "kms.db", self.limits.store_deadline)

    def check(self) -> Iterator[tuple[str, str, str]]:
        seen: dict[str, str] = {}
        planes: dict[str, Listener] = {"node_plane": self.node_plane, "kms_plane": self.kms_plane}
        pushed = {f"sources.{n}.etsi020": s.etsi020 for n, s in self.sources.items() if s.etsi020 is not None}
        for name, plane in {**planes, **{f"sae.{n}": s for n, s in self.sae.items()}, **pushed}.items():
            if plane.listen in seen and not plane.listen.endswith(":0"):
                yield f"{name}.listen", f"{plane.listen} is taken by {seen[plane.listen]}", "give each its own port"
            seen[plane.listen] = name
            if plane.crl is None and name != "sae.classical" and name not in pushed:
                yield f"{name}.crl", "a post-quantum listener needs a revocation list", "`qkdd pki crl` makes one"
        for name in self.sae:
            if name not in ("post-quantum", "classical"):
                yield f"sae.{name}", "unknown listener", 'the two are "post-quantum" and "classical"'
        names: dict[tuple[str, str], str] = {}
        for sae, entry in self.saes.items():
            for listener in entry.listeners or tuple(self.sae):
                if listener not in self.sae:
                    yield f"saes.{sae}.listeners", f"there is no listener {listener}", f"use {', '.join(self.sae)}"
                for identity in entry.identities or (sae,):
                    if names.setdefault((listener, identity), sae) != sae:
                        yield (
                            f"saes.{sae}.identities",
                            f"{identity} is also {names[listener, identity]}",
                            "one SAE each",
                        )
        for index, pair in enumerate(self.pairs):
            if pair.peer not in self.peers:
                yield f"pairs.{index}.peer", f"there is no peer {pair.peer}", f"use {', '.join(self.peers) or '(none)'}"
            for name in pair.sources:
                if name != OWN and name not in self.sources:
                    yield f"pairs.{index}.sources", f"there is no source {name!r}", f'name one of [sources], or "{OWN}"'
            if pair.master not in self.saes and pair.slave not in self.saes:
                yield f"pairs.{index}", "neither application is in [saes]", "one of them must be of this site"
        links: dict[str, str] = {}
        for peer, there in self.peers.items():
            if peer == self.kms.id:
                yield f"peers.{peer}", "is this KMS itself", "name the other site's KMS"
            for link in there.links:
                if links.setdefault(link, peer) != peer:
                    yield f"peers.{peer}.links", f"{link} also leads to {links[link]}", "a link leads to one KMS"
        folders: dict[str, str] = {}
        for name, source in self.sources.items():
            if source.link not in links:
                yield f"sources.{name}.link", f"no peer has a link {source.link!r}", "name it in `links` of the peer"
            if name == OWN:
                yield f"sources.{name}", "is the name of our own nodes' key", "name it otherwise"
            if source.directory and folders.setdefault(source.directory, name) != name:
                yield f"sources.{name}.directory", f"is also that of {folders[source.directory]}", "one folder each"
