"""The KMS's own metrics: a Meter over a Prometheus registry, with names, labels and help in one table."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

# name: (labels, help); counters end in _total
TABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "qkdd_kms_chunks_total": (("link",), "Chunks that nodes handed over."),
    "qkdd_kms_keys_drawn_total": ((), "Keys given to masters."),
    "qkdd_kms_lease_unused_keys_total": (
        (),
        "Keys drawn ahead for a pair that nobody asked for in time and that could not go back to the pool: given to nobody.",
    ),
    "qkdd_kms_class_keys_total": (("key_class",), "Keys given to masters, by class: its, hybrid, pqc-only."),
    "qkdd_kms_fallback_pairs": ((), "Pairs that get pqc-only keys now for want of quantum key."),
    "qkdd_kms_keys_fetched_total": ((), "Keys given to slaves."),
    "qkdd_kms_interface_keys_total": (("interface",), "Keys given to masters and slaves, by interface."),
    "qkdd_kms_refused_total": (("reason",), "Requests refused for identity, entitlement or missing keys."),
    "qkdd_kms_expired_total": ((), "Draws whose keys were never fetched completely in their lifetime."),
    "qkdd_kms_conflicts_total": ((), "Ranges on which the two sites did not agree; none was given out twice."),
    "qkdd_kms_returned_bits_total": (
        ("peer",),
        "Key of abandoned draws, and drawn ahead for nobody, that came back to the pool.",
    ),
    "qkdd_kms_store_silent": ((), "1 while the key store does not answer within its deadline."),
    "qkdd_kms_store_silences_total": ((), "Times the key store did not answer within its deadline."),
    "qkdd_kms_requests_total": (("plane", "status"), "HTTP answers."),
    "qkdd_kms_connections_refused_total": (
        ("listener", "reason"),
        "Connections closed for want of room: limit, made room, handshakes, unfinished, system.",
    ),
    "qkdd_kms_certificate_expiry_seconds": (("listener",), "Time left until a listener's certificate expires."),
    "qkdd_kms_source_files_total": (("source", "result"), "Key files of watched folders: stored or refused."),
    "qkdd_kms_source_keys_total": (
        ("source", "result"),
        "Keys of other makers' key management systems: stored, refused, voided, failed_to_void, key_not_present, gone.",
    ),
    "qkdd_kms_stream_calls_total": (("call", "status"), "Calls of key streams (ETSI GS QKD 004), by status."),
    "qkdd_kms_source_drawn_total": (("source",), "Keys given to masters with key of another maker in them, by source."),
    "qkdd_syslog_messages_total": ((), "Lines given to the syslog collector."),
    "qkdd_syslog_dropped_total": ((), "Lines dropped unsent because the queue was full."),
    "qkdd_syslog_waiting": ((), "Lines that wait in memory for the syslog collector."),
    "qkdd_tamper_inputs_lost": ((), "Configured tamper inputs that cannot be read."),
    "qkdd_kms_pool_bits": (("peer", "owner"), "Key that can still be drawn."),
}


class KmsMeter:
    """Implements `qkdd.core.counters.Meter`; a name that is not in the table is a KeyError.

    `everywhere`: labels that every series carries.
    """

    def __init__(self, everywhere: dict[str, str] | None = None) -> None:
        self._everywhere = everywhere or {}
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(name, help_text, (*labels, *self._everywhere), registry=self.registry)
            for name, (labels, help_text) in TABLE.items()
            if name.endswith("_total")
        }
        self._series: dict[tuple[object, ...], Counter] = {}  # found once: looking one up costs more than counting
        self._gauges = {
            name: Gauge(name, help_text, (*labels, *self._everywhere), registry=self.registry)
            for name, (labels, help_text) in TABLE.items()
            if not name.endswith("_total")
        }

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        key = (name, *labels.items())
        series = self._series.get(key)
        if series is None:
            counter, labels = self._counters[name], labels | self._everywhere
            series = self._series[key] = counter.labels(**labels) if labels else counter
        series.inc(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        gauge, labels = self._gauges[name], labels | self._everywhere
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        raise KeyError(f"{name}: the KMS has no histograms")

    def text(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)
