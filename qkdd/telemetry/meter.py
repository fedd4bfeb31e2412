"""The meter of the running daemon: the catalogue's metrics in a Prometheus registry of its own."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from qkdd.telemetry.catalogue import METRICS, Kind, Metric
from qkdd.telemetry.errors import UnknownMetric

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class PrometheusMeter:
    """Implements `qkdd.core.counters.Meter`. Thread-safe, as prometheus-client's metrics are.

    Raises UnknownMetric for a name, a kind or a set of labels that the catalogue does not have.
    """

    def __init__(self) -> None:
        # `_created` series double the exposition and say nothing that we use
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's function has no annotations
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS.values():
            if metric.kind is Kind.COUNTER:
                self._counters[metric.name] = Counter(metric.name, metric.help, metric.labels, registry=self._registry)
            elif metric.kind is Kind.HISTOGRAM:
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self._registry
                )

    @staticmethod
    def _metric(name: str, kind: Kind, labels: dict[str, str]) -> Metric:
        metric = METRICS.get(name)
        if metric is None:
            raise UnknownMetric(f"the metric {name} is not in the catalogue")
        if metric.kind is not kind:
            raise UnknownMetric(f"the metric {name} is a {metric.kind} and was used as a {kind}")
        if set(metric.labels) != set(labels):
            raise UnknownMetric(f"the metric {name} has the labels {metric.labels} and was given {tuple(labels)}")
        return metric

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        metric = self._metric(name, Kind.COUNTER, labels)
        counter = self._counters[name]
        (counter.labels(**labels) if metric.labels else counter).inc(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        metric = self._metric(name, Kind.GAUGE, labels)
        with self._lock:  # made on first use: a level that nobody has measured yet must not read as 0
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = Gauge(name, metric.help, metric.labels, registry=self._registry)
                self._gauges[name] = gauge
        (gauge.labels(**labels) if metric.labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        metric = self._metric(name, Kind.HISTOGRAM, labels)
        histogram = self._histograms[name]
        (histogram.labels(**labels) if metric.labels else histogram).observe(value)

    def exposition(self) -> bytes:
        """Everything in the Prometheus text format 0.0.4."""
        return generate_latest(self._registry)
