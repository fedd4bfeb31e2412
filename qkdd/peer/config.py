"""Section [peer] of a node's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qkdd.core.config import Section
from qkdd.core.units import Seconds
from qkdd.peer.errors import TlsSettingRefused
from qkdd.peer.opening import SessionSettings
from qkdd.peer.tls import POST_QUANTUM_GROUPS, POST_QUANTUM_SIGNATURES, TlsProfile


class PeerConfig(Section, frozen=True, kw_only=True):
    """The classical channel to the other node. alice listens, bob connects. Paths are relative to the working directory."""

    peer_id: str
    certificate: str
    key: str
    trust: str
    crl: str
    listen: str | None = None
    connect: str | None = None
    groups: tuple[str, ...] = POST_QUANTUM_GROUPS[:2]
    signatures: tuple[str, ...] = POST_QUANTUM_SIGNATURES
    rehandshake: Seconds = Seconds(3600.0)
    silence: Seconds = Seconds(30.0)
    ping: Seconds = Seconds(5.0)
    answer: Seconds = Seconds(600.0)
    opening: Seconds = Seconds(15.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if (self.listen is None) == (self.connect is None):
            yield "listen", "exactly one of listen (alice) and connect (bob) is needed", "give one of them as HOST:PORT"
        for name, address in (("listen", self.listen), ("connect", self.connect)):
            if address is not None:
                try:
                    split_address(address)
                except ValueError as error:
                    yield name, str(error), "write HOST:PORT, for example 192.0.2.7:7001 or [2001:db8::7]:7001"
        try:
            self.profile().effective_groups()
        except TlsSettingRefused as error:
            yield "groups", error.message, error.remedy
        try:
            self.profile().effective_signatures()
        except TlsSettingRefused as error:
            yield "signatures", error.message, error.remedy
        if not 0 < self.ping * 2 <= self.silence:
            yield (
                "silence",
                "must be at least two pings long, or a healthy peer counts as silent",
                "for example 30 s and 5 s",
            )
        if self.rehandshake <= 0:
            yield "rehandshake", "must be longer than 0", "for example 1 h"

    def profile(self) -> TlsProfile:
        """TLS profile of this end: only the configured peer, and only as a node."""
        return TlsProfile(
            certificate=Path(self.certificate),
            key=Path(self.key),
            trust=Path(self.trust),
            crl=Path(self.crl),
            groups=self.groups,
            signatures=self.signatures,
            identity=self.peer_id,
            roles=("node",),
            name="peer",
        )

    def settings(self) -> SessionSettings:
        return SessionSettings(silence=self.silence, ping=self.ping, answer=self.answer, hello=self.opening)


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT` (IPv6 in brackets). Raises ValueError."""
    host, separator, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is no HOST:PORT")
    return host, int(port)
