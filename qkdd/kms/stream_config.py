"""`[streams]`: what applications may ask of key streams (ETSI GS QKD 004)."""

from __future__ import annotations

from collections.abc import Iterator

from qkdd.core.config import Section
from qkdd.core.units import Seconds


class StreamsConfig(Section, frozen=True, kw_only=True):
    """max_bps: the largest Max_bps that may be asked for; push_bps: of a pushed stream that names none.

    idle: time without a call until an end is closed.
    """

    max_chunk_bytes: int = 8192
    max_bps: int = 100_000_000
    push_bps: int = 1_000_000
    max_timeout: Seconds = Seconds(30.0)
    max_ttl: Seconds = Seconds(86_400.0)
    per_sae: int = 16
    idle: Seconds = Seconds(3600.0)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not 8 <= self.max_chunk_bytes <= 1 << 20:
            yield "max_chunk_bytes", "must lie between 8 and 1048576", "use 8192"
        for name in ("max_bps", "push_bps"):
            if not 8 <= getattr(self, name) < 1 << 32:
                yield name, "must lie between 8 and 4294967295", "leave it out for the default"
        if not 0 <= self.max_timeout <= 300:
            yield "max_timeout", "must lie between 0 s and 300 s", 'use "30 s"'
        if not 1 <= self.max_ttl < 1 << 32:
            yield "max_ttl", "must be positive", 'use "1 d"'
        if self.per_sae < 1:
            yield "per_sae", "must be positive", "use 16"
        if self.idle < 60:
            yield "idle", "below a minute slow applications lose their stream", 'use "1 h"'
