"""Which application is calling, whether it may, and how much it may ask at once: the same for every interface of a listener."""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from qkdd.core.counters import Meter
from qkdd.kms.config import KmsConfig
from qkdd.kms.errors import NotEntitled, RateExceeded, RequestRefused, TooBusy
from qkdd.kms.http import caller
from qkdd.kms.service import KeyService


class _Place:
    """Taken while it is entered."""

    __slots__ = ("_in_flight", "_sae")

    def __init__(self, in_flight: Counter[str], sae: str) -> None:
        self._in_flight, self._sae = in_flight, sae

    def __enter__(self) -> None:
        self._in_flight[self._sae] += 1

    def __exit__(self, *_: object) -> None:
        self._in_flight[self._sae] -= 1


class SaeAccess:
    """One SAE listener. `listener` is its name in the configuration ("post-quantum", "classical")."""

    def __init__(self, service: KeyService, listener: str, in_flight: Counter[str], meter: Meter) -> None:
        self._service, self._meter = service, meter
        self._in_flight = in_flight  # shared by all listeners: the limit is the SAE's, wherever it comes from
        self._saes = _identities(service.config, listener)

    def caller(self, request: web.Request) -> str:
        """The SAE ID, only ever from the certificate. Raises NotEntitled."""
        who = caller(request)
        if who.peer_role in ("node", "kms") or who.peer not in self._saes:
            self._meter.add("qkdd_kms_refused_total", reason="identity")
            raise NotEntitled(f"{who.peer!r} is no application of this KMS")
        return self._saes[who.peer]

    def place(self, sae: str) -> _Place:
        """One of the SAE's places for requests under way. Raises TooBusy, RateExceeded."""
        try:
            self._service.site.quotas.ask(sae)
        except RateExceeded:
            self._meter.add("qkdd_kms_refused_total", reason="rate")
            raise
        limit = self._service.config.limits.in_flight_per_sae
        if self._in_flight[sae] >= limit:
            raise TooBusy("too many requests under way", in_flight_per_sae=limit)
        return _Place(self._in_flight, sae)

    def pair(self, master: str, slave: str, message: str) -> str:
        """The KMS that pays for the pair. Raises RequestRefused, alike for an unknown SAE and for one out of reach."""
        try:
            return self._service.pair(master, slave)
        except NotEntitled:
            raise RequestRefused(message) from None


def _identities(config: KmsConfig, listener: str) -> dict[str, str]:
    return {
        identity: sae
        for sae, entry in config.saes.items()
        if not entry.listeners or listener in entry.listeners
        for identity in entry.identities or (sae,)
    }
