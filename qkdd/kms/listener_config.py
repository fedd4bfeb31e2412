"""Addresses and the TLS that is spoken there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qkdd.core.config import Section
from qkdd.peer.tls import Suite, TlsProfile


def address(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:8441" or "[::1]:8441". Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not of the form host:port")
    return host.strip("[]"), int(port)


class Listener(Section, frozen=True, kw_only=True):
    """An address and the TLS that is spoken there. One PKI per listener. Port 0 takes a free one."""

    listen: str
    certificate: str
    key: str
    trust: str
    crl: str | None = None
    groups: tuple[str, ...] = ()

    def check(self) -> Iterator[tuple[str, str, str]]:
        try:
            address(self.listen)
        except ValueError as error:
            yield "listen", str(error), 'write "127.0.0.1:8441"'

    def profile(self, name: str, suite: Suite, identity: str | None = None) -> TlsProfile:
        """The TLS profile of this listener; with `identity` the same credentials for connecting to that peer."""
        return TlsProfile(
            certificate=Path(self.certificate),
            key=Path(self.key),
            trust=Path(self.trust),
            crl=Path(self.crl) if self.crl is not None else None,
            suite=suite,
            groups=self.groups,
            identity=identity,
            name=name,
        )


class ClientTls(Section, frozen=True, kw_only=True):
    """Credentials for calling somebody else's KMS. `identity`: the name in its certificate, and nobody else is spoken to.

    suite: "classical" for a KMS with a classical PKI; "post-quantum" needs a revocation list.
    """

    certificate: str
    key: str
    trust: str
    identity: str
    crl: str | None = None
    suite: Suite = "post-quantum"
    groups: tuple[str, ...] = ()

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not self.identity:
            yield "identity", "is empty", "give the name in the other KMS's certificate"
        if self.suite == "post-quantum" and self.crl is None:
            yield "crl", "a post-quantum connection needs a revocation list", 'name it, or set suite = "classical"'

    def profile(self, name: str) -> TlsProfile:
        """The TLS profile for connecting."""
        return TlsProfile(
            certificate=Path(self.certificate),
            key=Path(self.key),
            trust=Path(self.trust),
            crl=Path(self.crl) if self.crl is not None else None,
            suite=self.suite,
            groups=self.groups,
            identity=self.identity,
            name=name,
        )
