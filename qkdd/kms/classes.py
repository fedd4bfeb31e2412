"""Classes of keys, and which of them a pair of applications may get.

`its`: key of a quantum link, as it is. `hybrid`: derived from key of a quantum link and an ML-KEM-1024 secret (and a curve's,
when configured). `pqc-only`: derived from the post-quantum secret alone; computational security only.
"""

from __future__ import annotations

from enum import StrEnum

from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.counters import Meter
from qkdd.kms.errors import ClassRefused

_LOG = log.get("kms")


class KeyClass(StrEnum):
    ITS = "its"
    HYBRID = "hybrid"
    PQC_ONLY = "pqc-only"


class ClassPolicy:
    """What the pairs of the configuration may get. `pairs`: (master, slave) → classes, most wanted first."""

    def __init__(self, pairs: dict[tuple[str, str], tuple[KeyClass, ...]]) -> None:
        self._pairs = pairs

    def choices(self, master: str, slaves: tuple[str, ...], asked: KeyClass | None) -> tuple[KeyClass, ...]:
        """The classes to try, in this order. Raises ClassRefused for one that not every pair of them may get."""
        both = [self._pairs.get((master, slave), ()) for slave in slaves]
        allowed = tuple(c for c in both[0] if all(c in classes for classes in both[1:]))
        if asked is not None:
            allowed = (asked,) if asked in allowed else ()
        if not allowed:
            raise ClassRefused(
                "not all extension_mandatory request options could be met", key_class=asked.value if asked else None
            )
        return allowed

    def allows(self, master: str, slave: str, key_class: KeyClass) -> bool:
        return key_class in self._pairs.get((master, slave), ())


class Fallback:
    """Says when a pair gets `pqc-only` for want of quantum key, and when that is over."""

    def __init__(self, meter: Meter, audit: AuditLog) -> None:
        self._meter, self._audit = meter, audit
        self._fallen: set[tuple[str, str]] = set()

    @property
    def pairs(self) -> int:
        return len(self._fallen)

    def note(self, peer: str, master: str, slave: str, *, fallen: bool) -> None:
        """After each draw by policy. Metric, log and audit line at each change."""
        if fallen == ((master, slave) in self._fallen):
            return
        if fallen:
            self._fallen.add((master, slave))
            _LOG.warning("no quantum key: keys are pqc-only as policy allows", master=master, slave=slave, peer=peer)
        else:
            self._fallen.discard((master, slave))
            _LOG.info("quantum key is back", master=master, slave=slave, peer=peer)
        event = "fallback to pqc-only began" if fallen else "fallback to pqc-only ended"
        self._audit.write(event, master=master, slave=slave, peer=peer)
        self._meter.set("qkdd_kms_fallback_pairs", float(len(self._fallen)))
