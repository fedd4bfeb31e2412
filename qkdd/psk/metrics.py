"""What `qkd-psk` counts, and its meter."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

# name: (labels, help)
TABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "qkdd_psk_rotations_total": ((), "Keys on which both ends agreed and that this end uses or used."),
    "qkdd_psk_failures_total": (("code",), "Failed attempts, by stable code."),
    "qkdd_psk_repairs_total": ((), "Times the program had lost the key (restart, hand) and got it again."),
    "qkdd_psk_trials_total": ((), "Times a key was tried because the other end could not be asked which one it uses."),
    "qkdd_psk_key_age_seconds": ((), "Age of the key in use; time since the start when there is none."),
    "qkdd_psk_period_seconds": ((), "Time after which this end asks for a new key; 0 at the end that listens."),
    "qkdd_psk_agreed": ((), "1 when both ends said that they use the same key, 0 while that is not known."),
    "qkdd_psk_partner_up": ((), "1 while the line to the agent of the other end stands."),
    "qkdd_psk_old_key": ((), "1 while the key in use is older than max_age and is kept by policy."),
    "qkdd_psk_torn_down": ((), "1 while the tunnel is blocked because its key is too old, or there is none."),
}


class PskMeter:
    """Implements `qkdd.core.counters.Meter`; a name that is not in the table is a KeyError."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(name, text, labels, registry=self.registry)
            for name, (labels, text) in TABLE.items()
            if name.endswith("_total")
        }
        self._gauges = {
            name: Gauge(name, text, labels, registry=self.registry)
            for name, (labels, text) in TABLE.items()
            if not name.endswith("_total")
        }

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        raise KeyError(f"{name}: qkd-psk has no histograms")

    def text(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)
