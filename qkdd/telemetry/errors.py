"""Errors of the telemetry room."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError


class UnknownMetric(QkddError):
    code = "QKD-TEL-UNKNOWN-METRIC"
    meaning = "A room counted under a name or with labels that the metric catalogue does not have: a defect of qkdd."
    default_remedy = "Report it; the name belongs into qkdd.telemetry.catalogue."


class MetricsListenFailed(QkddError):
    code = "QKD-TEL-LISTEN"
    meaning = "The metrics listener could not take its address; nothing was started."
    default_remedy = "Choose a free loopback port for [telemetry] listen, or stop the process that has it."


class MqttDown(QkddError):
    code = "QKD-TEL-MQTT-DOWN"
    kind = Kind.TRANSIENT
    meaning = "The MQTT broker does not answer, refuses the connection or has ended it; messages wait on disk."
    default_remedy = "Check the broker, its address, and that its certificate and ours are valid."


class MqttDenied(QkddError):
    code = "QKD-TEL-MQTT-DENIED"
    kind = Kind.TRANSIENT
    meaning = (
        "The MQTT broker accepts this node's messages and delivers them to nobody: its access list forbids the topics."
    )
    default_remedy = "Allow the node's certificate name to read and write qkd/v1/<site>/<node>/# on the broker."
