"""Errors of the telemetry room."""

from __future__ import annotations

from qkdd.core.errors import QkddError


class UnknownMetric(QkddError):
    code = "QKD-TEL-UNKNOWN-METRIC"
    meaning = "A room counted under a name or with labels that the metric catalogue does not have: a defect of qkdd."
    default_remedy = "Report it; the name belongs into qkdd.telemetry.catalogue."


class MetricsListenFailed(QkddError):
    code = "QKD-TEL-LISTEN"
    meaning = "The metrics listener could not take its address; nothing was started."
    default_remedy = "Choose a free loopback port for [telemetry] listen, or stop the process that has it."
