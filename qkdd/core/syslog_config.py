"""The section [syslog]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from qkdd.core.config import Section
from qkdd.core.endpoint import Endpoint
from qkdd.core.syslog_format import FACILITIES, LEVELS

Level = Literal["debug", "info", "warning", "error", "critical"]


class SyslogConfig(Section, frozen=True, kw_only=True):
    """A collector that is told every log line and audit line: syslog over TLS (RFC 5425), always 1.3 with a client certificate.

    server: host:port; the host must be named in the collector's certificate. certificate, key: ours. trust: authorities that may
    have issued the collector's certificate. facility: of log lines; audit lines have 13, "log audit". level: the least that is
    sent. enterprise: private enterprise number in the SD-ID (RFC 5424, 7.2.2). queue: lines that may wait for the collector.
    """

    server: str
    certificate: str
    key: str
    trust: str
    facility: str = "daemon"
    level: Level = "info"
    enterprise: int = 32473  # that of examples (RFC 5612); a site with a number of its own gives it
    queue: int = 10_000

    def check(self) -> Iterator[tuple[str, str, str]]:
        try:
            Endpoint.parse(self.server)
        except ValueError as error:
            yield "server", str(error), 'for example "siem.example:6514"'
        if self.facility not in FACILITIES:
            yield "facility", f"{self.facility!r} is no facility", f"one of {', '.join(FACILITIES)}"
        if self.level not in LEVELS:
            yield "level", f"{self.level!r} is no level", f"one of {', '.join(LEVELS)}"
        if not 1 <= self.enterprise < 1 << 32:
            yield "enterprise", f"{self.enterprise} is no enterprise number", "leave it out"
        if not 100 <= self.queue <= 1_000_000:
            yield "queue", f"{self.queue} lies outside 100 to 1000000", "leave it out for 10000"
