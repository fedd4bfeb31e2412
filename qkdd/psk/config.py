"""Configuration of `qkd-psk`: one file for each tunnel and end."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from qkdd.core.config import Section
from qkdd.core.endpoint import Endpoint
from qkdd.core.units import Seconds
from qkdd.peer.tls import Suite, TlsProfile


class AgentConfig(Section, frozen=True, kw_only=True):
    """`[agent]`. `period` counts at the end that connects; the other one follows."""

    state_directory: str
    master_key: str
    metrics: str | None = None
    period: Seconds = Seconds(120.0)
    max_age: Seconds = Seconds(900.0)
    on_old_key: Literal["keep", "tear-down"] = "keep"
    answer_deadline: Seconds = Seconds(10.0)
    heartbeat: Seconds = Seconds(15.0)
    # in doubt and without a line: each of the two keys is tried so long; WireGuard knocks every 5 s
    trial: Seconds = Seconds(12.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        for name in ("period", "answer_deadline", "heartbeat", "trial"):
            if getattr(self, name) <= 0:
                yield name, "must be positive", "leave it out"
        if self.trial < 11:
            yield "trial", "in less than two of WireGuard's handshakes (5 s each) nothing can be seen", 'use "12 s"'
        if self.max_age < 2 * self.period:
            yield "max_age", "one late rotation would already make the key too old", "use at least twice the period"
        if self.metrics is not None:
            yield from _endpoint("metrics", self.metrics)
            if not list(_endpoint("metrics", self.metrics)) and not Endpoint.parse(self.metrics).loopback:
                yield "metrics", "would be open to the network", 'write "127.0.0.1:9121"'


class KmsAccess(Section, frozen=True, kw_only=True):
    """`[kms]`: the KMS of this site (ETSI GS QKD 014) and our certificate as an application.

    `identity`: the name in the KMS's certificate; `partner`: SAE ID of the other end.
    """

    url: str
    identity: str
    partner: str
    certificate: str
    key: str
    trust: str
    crl: str | None = None
    suite: Suite = "post-quantum"

    def check(self) -> Iterator[tuple[str, str, str]]:
        url = urlsplit(self.url)
        if url.scheme != "https" or not url.hostname or url.path.rstrip("/") or url.query or url.username:
            yield "url", f"{self.url!r} is not of the form https://host:port", "/api/v1/keys is added by qkd-psk"
        if not self.partner:
            yield "partner", "is empty", "give the SAE ID of the other end"

    def profile(self) -> TlsProfile:
        return TlsProfile(
            certificate=Path(self.certificate),
            key=Path(self.key),
            trust=Path(self.trust),
            crl=Path(self.crl) if self.crl is not None else None,
            suite=self.suite,
            identity=self.identity,
            name="kms",
        )


class PartnerConfig(Section, frozen=True, kw_only=True):
    """`[partner]`: the agent at the other end. One end has `connect`, the other `listen`."""

    identity: str
    certificate: str
    key: str
    trust: str
    crl: str
    connect: str | None = None
    listen: str | None = None

    def check(self) -> Iterator[tuple[str, str, str]]:
        if (self.connect is None) == (self.listen is None):
            yield "connect", "exactly one of `connect` and `listen` is needed", "one end connects, the other listens"
        for name in ("connect", "listen"):
            if getattr(self, name) is not None:
                yield from _endpoint(name, getattr(self, name))

    def profile(self) -> TlsProfile:
        return TlsProfile(
            certificate=Path(self.certificate),
            key=Path(self.key),
            trust=Path(self.trust),
            crl=Path(self.crl),
            identity=self.identity,
            name="partner",
        )


class WireguardConfig(Section, frozen=True, kw_only=True):
    """`[wireguard]`. `peer`: public key of the other end. `uapi`: socket of a userspace implementation, instead of `wg`."""

    interface: str
    peer: str
    wg: str = "wg"
    uapi: str | None = None

    def check(self) -> Iterator[tuple[str, str, str]]:
        try:
            raw = base64.b64decode(self.peer, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != 32:
            yield "peer", f"{self.peer!r} is no public key of WireGuard", "`wg show INTERFACE peers` prints it"
        if not self.interface or len(self.interface) > 15 or set(self.interface) & set("/ \t\n"):
            yield "interface", f"{self.interface!r} is no name of an interface", 'write "wg0"'


class StrongswanConfig(Section, frozen=True, kw_only=True):
    """`[strongswan]`. `connection`: the connection as in swanctl.conf; the agent loads it with `ppk_id` of the newest key.

    Without `connection` only the keys are loaded and unloaded (an end that never begins an IKE_SA needs no more).
    `renew`: make a new IKE_SA after each rotation and end the old one, so that the new key counts at once; at one end only.
    """

    socket: str = "/run/charon.vici"
    name: str
    connection: dict[str, Any] | None = None
    renew: bool = False

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not self.name:
            yield "name", "is empty", "name of the connection, as in swanctl.conf"
        if self.renew and self.connection is None:
            yield "renew", "needs `connection`", "give the connection as in swanctl.conf"
        for taken in ("ppk_id", "ppk_required"):
            if self.connection is not None and taken in self.connection:
                yield f"connection.{taken}", "is set by qkd-psk", "leave it out"


class PskConfig(Section, frozen=True, kw_only=True):
    """The whole file; one of `wireguard` and `strongswan`."""

    agent: AgentConfig
    kms: KmsAccess
    partner: PartnerConfig
    wireguard: WireguardConfig | None = None
    strongswan: StrongswanConfig | None = None

    def check(self) -> Iterator[tuple[str, str, str]]:
        if (self.wireguard is None) == (self.strongswan is None):
            yield "wireguard", "exactly one of [wireguard] and [strongswan] is needed", "one file for each tunnel"


def _endpoint(name: str, text: str) -> Iterator[tuple[str, str, str]]:
    try:
        Endpoint.parse(text)
    except ValueError as error:
        yield name, str(error), 'write "192.0.2.1:7411"'
