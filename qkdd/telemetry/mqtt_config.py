"""The section [telemetry.mqtt]."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qkdd.core.config import Section
from qkdd.core.endpoint import Endpoint
from qkdd.core.units import Seconds

_LEVEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")  # one level of a topic, without wildcards


class MqttConfig(Section, frozen=True, kw_only=True):
    """A broker that this node tells what it does. Always TLS 1.3 with a client certificate.

    server: host:port; the host must be named in the broker's certificate. site: second level of every topic. certificate, key:
    of this node towards the broker. trust: authorities that may have issued the broker's certificate. period: between rounds of
    telemetry. spool_bytes: what may wait on disk while the broker is away; the oldest is dropped first, and counted.
    """

    server: str
    site: str
    certificate: str
    key: str
    trust: str
    period: Seconds = Seconds(5.0)
    expiry: Seconds = Seconds(600.0)
    canary: Seconds = Seconds(30.0)
    spool_bytes: int = 4 << 20

    def check(self) -> Iterator[tuple[str, str, str]]:
        try:
            Endpoint.parse(self.server)
        except ValueError as error:
            yield "server", str(error), 'for example "broker.example:8883"'
        if not _LEVEL.match(self.site):
            yield (
                "site",
                f"{self.site!r} is no level of a topic",
                "letters, digits, dot, dash and underscore, at most 63",
            )
        for name, low, high in (("period", 1.0, 3600.0), ("canary", 5.0, 3600.0), ("expiry", 10.0, 86_400.0)):
            if not low <= getattr(self, name) <= high:
                yield (
                    name,
                    f"{getattr(self, name)} lies outside {low:g} s to {high:g} s",
                    "leave it out for the default",
                )
        if not 64 << 10 <= self.spool_bytes <= 1 << 30:
            yield "spool_bytes", f"{self.spool_bytes} lies outside 64 KiB to 1 GiB", "leave it out for 4 MiB"
