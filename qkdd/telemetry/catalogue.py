"""Every metric that qkdd has: name, kind, unit, help and labels, in one place.

Names follow the Prometheus convention: base units, `_total` for counters, `_ratio` for fractions. docs/metrics.md is
generated from this table; `qkdd.telemetry.meter.PrometheusMeter` refuses what is not in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from qkdd.kms.metrics import TABLE as KMS_TABLE
from qkdd.psk.metrics import TABLE as PSK_TABLE


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


_NAME = re.compile(r"^qkdd_[a-z0-9]+(_[a-z0-9]+)*$")
LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry. `unit` is the base unit in words ("seconds", "bits", "ratio", "1" for plain numbers)."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    room: str = ""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"{self.name}: a metric's name is qkdd_ and lower-case words")
        if (self.kind is Kind.COUNTER) != self.name.endswith("_total"):
            raise ValueError(f"{self.name}: counters, and only counters, end in _total")
        if (self.kind is Kind.HISTOGRAM) != bool(self.buckets):
            raise ValueError(f"{self.name}: histograms, and only histograms, have buckets")
        stem = self.name.removesuffix("_total")
        if self.unit not in ("1", "info") and not stem.endswith(f"_{self.unit}"):
            raise ValueError(f"{self.name}: the name must end in its unit, {self.unit}")
        if not self.help.endswith("."):
            raise ValueError(f"{self.name}: the help text is a sentence")


def _counter(name: str, unit: str, help_text: str, *labels: str) -> Metric:
    return Metric(name, Kind.COUNTER, unit, help_text, labels)


def _gauge(name: str, unit: str, help_text: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, unit, help_text, labels)


def _histogram(name: str, unit: str, help_text: str, *labels: str) -> Metric:
    return Metric(name, Kind.HISTOGRAM, unit, help_text, labels, LATENCY)


_TABLE: dict[str, tuple[Metric, ...]] = {
    "node": (
        _gauge(
            "qkdd_build_info", "info", "Always 1; the labels name version and kernel variant.", "version", "kernels"
        ),
        _gauge("qkdd_start_time_seconds", "seconds", "When the daemon started, seconds since the Unix epoch."),
        _gauge("qkdd_part_up", "1", "1 while a supervised part (device, peer, link, hand-over) is up, else 0.", "part"),
        _counter("qkdd_part_failures_total", "1", "Times a supervised part went down, by stable code.", "part", "code"),
        _counter("qkdd_part_reconnects_total", "1", "Times a supervised part came back.", "part"),
        _gauge(
            "qkdd_part_heartbeat_age_seconds", "seconds", "Time since a part last reported that it is alive.", "part"
        ),
        _counter("qkdd_errors_total", "1", "Errors by stable code (docs/errors.md).", "code"),
        _gauge("qkdd_tamper_inputs_lost", "1", "Configured tamper inputs that cannot be read."),
        _gauge("qkdd_memory_locked", "1", "1 when the daemon's memory cannot be swapped out (mlockall)."),
        _gauge("qkdd_draining", "1", "1 while the node finishes its block and makes no new ones."),
        _gauge("qkdd_disk_free_ratio", "ratio", "Share of the state directory's file system that is free."),
        _gauge("qkdd_calibrating", "1", "1 while a polarization calibration turns the paddles."),
        _counter("qkdd_calibrations_total", "1", "Polarization calibrations by result.", "result"),
        _gauge("qkdd_time_since_calibration_seconds", "seconds", "Time since the last polarization calibration."),
    ),
    "device": (
        _gauge("qkdd_device_up", "1", "1 while the device is open and answers, else 0.", "device", "driver"),
        _gauge(
            "qkdd_device_firmware_old", "1", "1 when a device runs an older firmware than [firmware] wanted.", "device"
        ),
        _gauge("qkdd_detector_count_rate_hertz", "hertz", "Counts a second of one detector.", "device", "detector"),
        _gauge(
            "qkdd_detector_dark_count_rate_hertz",
            "hertz",
            "Lowest count rate seen since the device came up: an upper bound of the dark counts.",
            "device",
            "detector",
        ),
        _counter("qkdd_tagger_tags_total", "1", "Clicks decoded from a time tagger's stream.", "device"),
        _counter("qkdd_tagger_tags_lost_total", "1", "Clicks that a time tagger is known to have lost.", "device"),
        _counter(
            "qkdd_tagger_reordered_total",
            "1",
            "Clicks that a time tagger gave after a later one; they were put into their place, none is lost.",
            "device",
        ),
        _counter("qkdd_tagger_faults_total", "1", "Faults of a tag stream, by stable code.", "device", "code"),
        _counter(
            "qkdd_device_process_ends_total",
            "1",
            "Processes of a vendor's code that were killed because they hung, or that ended by themselves; by code.",
            "device",
            "code",
        ),
        _counter(
            "qkdd_board_bytes_total",
            "bytes",
            "Bytes on the line of one of our boards; direction: to (the board), from.",
            "device",
            "direction",
        ),
        _counter("qkdd_device_errors_total", "1", "Errors of a device's exchanges, by stable code.", "device", "code"),
    ),
    "link": (
        _gauge("qkdd_link_up", "1", "1 while the link is aligned and makes blocks, else 0.", "link"),
        _counter(
            "qkdd_link_up_seconds_total", "seconds", "Time in which the link was up; availability is its rate.", "link"
        ),
        _gauge("qkdd_link_qber_ratio", "ratio", "Quantum bit error ratio of the last block.", "link"),
        _gauge(
            "qkdd_link_visibility_ratio",
            "ratio",
            "Interference visibility of the last block in one basis.",
            "link",
            "basis",
        ),
        _gauge(
            "qkdd_link_chsh_s_inferred",
            "1",
            "CHSH S inferred from the correlations of two bases a side; this is no Bell test.",
            "link",
        ),
        _gauge(
            "qkdd_link_dead_time_seconds",
            "seconds",
            "Dead time applied to all detectors of a side after a click.",
            "link",
        ),
        _gauge("qkdd_link_clock_offset_seconds", "seconds", "Bob's clock minus alice's, as tracked.", "link"),
        _gauge("qkdd_link_clock_drift_ratio", "ratio", "Relative frequency difference of the two clocks.", "link"),
        _counter("qkdd_link_lock_losses_total", "1", "Times the alignment of the clocks was lost.", "link"),
        _counter("qkdd_link_clicks_total", "1", "Clicks taken from the tagger.", "link"),
        _counter("qkdd_link_tags_lost_total", "1", "Clicks that the tagger or its wire is known to have lost.", "link"),
        _counter("qkdd_link_coincidences_total", "1", "Matched coincidences.", "link"),
        _counter("qkdd_link_pulses_total", "1", "Pulses whose symbols the transmitter streamed (decoy_bb84).", "link"),
        _counter(
            "qkdd_link_symbols_lost_total", "1", "Symbols that did not reach the host, or were asked too late.", "link"
        ),
        _counter(
            "qkdd_link_symbols_asked_total", "1", "Symbols that the transmitter was asked for (on demand).", "link"
        ),
        _gauge(
            "qkdd_link_symbols_margin_seconds",
            "seconds",
            "How much longer the oldest symbol of the last question would have stayed in the transmitter's memory.",
            "link",
        ),
        _gauge(
            "qkdd_link_gain_ratio", "ratio", "Detections a pulse of the last block, by intensity.", "link", "intensity"
        ),
        _gauge(
            "qkdd_link_intensity_error_ratio",
            "ratio",
            "Error rate of the last opened stretch, by intensity.",
            "link",
            "intensity",
        ),
        _gauge("qkdd_link_detected_ratio", "ratio", "Detections a pulse of the last block.", "link"),
        _gauge(
            "qkdd_link_slot_phase_ratio",
            "ratio",
            "Largest phase error of the slots in the last block, in slots.",
            "link",
        ),
        _gauge(
            "qkdd_link_sifting_bits", "bits", "Bits on the wire a detection in the last block, both directions.", "link"
        ),
        _gauge(
            "qkdd_link_intensity_qber_ratio",
            "ratio",
            "Error ratio of one intensity of a decoy-state transmitter in the test basis of the last block.",
            "link",
            "intensity",
        ),
        _counter("qkdd_link_sifted_bits_total", "bits", "Sifted bits of all blocks, also of refused ones.", "link"),
    ),
    "blocks": (
        _counter("qkdd_blocks_accepted_total", "1", "Blocks that gave key.", "link"),
        _counter(
            "qkdd_blocks_corrected_total", "1", "Accepted blocks by method of error correction.", "link", "method"
        ),
        _gauge(
            "qkdd_block_correction_efficiency_ratio",
            "ratio",
            "Bits disclosed by reconciliation of the last block over the Shannon limit.",
            "link",
        ),
        _counter("qkdd_blocks_refused_total", "1", "Blocks that were discarded, by reason code.", "link", "code"),
        _counter("qkdd_secret_bits_total", "bits", "Secret bits of accepted blocks.", "link"),
        _gauge(
            "qkdd_secret_key_rate_bits_per_second",
            "bits_per_second",
            "Secret bits of the last accepted block over its acquisition time.",
            "link",
        ),
        _gauge("qkdd_block_leak_bits", "bits", "Bits disclosed by reconciliation of the last block.", "link"),
        _histogram(
            "qkdd_block_processing_seconds", "seconds", "From the end of a block's acquisition to its commit.", "link"
        ),
    ),
    "peer": (
        _gauge("qkdd_peer_up", "1", "1 while an authenticated session with the peer stands.", "peer"),
        _gauge("qkdd_peer_round_trip_seconds", "seconds", "Round-trip time of the classical channel.", "peer"),
        _counter("qkdd_peer_sent_bytes_total", "bytes", "Bytes sent on the classical channel.", "peer"),
        _counter("qkdd_peer_received_bytes_total", "bytes", "Bytes received on the classical channel.", "peer"),
        _counter(
            "qkdd_peer_handshakes_total", "1", "TLS handshakes by result (ok, or an error code).", "peer", "result"
        ),
        _counter(
            "qkdd_peer_seals_total", "1", "Verified seals of the channel by mode and result.", "peer", "mode", "result"
        ),
        _gauge("qkdd_peer_certificate_expiry_seconds", "seconds", "Time left until our own certificate expires."),
        _gauge("qkdd_masks_left", "1", "One-time masks left for authentication tags.", "direction"),
    ),
    "telemetry": (
        _counter("qkdd_mqtt_messages_total", "1", "Messages that the MQTT broker acknowledged."),
        _counter("qkdd_mqtt_dropped_total", "1", "Messages dropped unsent: too old, or the spool was full."),
        _counter("qkdd_mqtt_canaries_lost_total", "1", "Canary messages that the broker took and did not deliver."),
        _gauge("qkdd_mqtt_waiting_bytes", "bytes", "Messages that wait on disk for the MQTT broker."),
        _counter("qkdd_syslog_messages_total", "1", "Lines given to the syslog collector."),
        _counter("qkdd_syslog_dropped_total", "1", "Lines dropped unsent because the queue was full."),
        _gauge("qkdd_syslog_waiting", "1", "Lines that wait in memory for the syslog collector."),
    ),
    "security": (
        _gauge("qkdd_epsilon_spent_ratio", "ratio", "Share of the key epoch's security budget that is spent."),
        _gauge("qkdd_epoch_days_left", "1", "Days until the budget is spent at the present pace of blocks."),
    ),
    "keys": (
        _gauge("qkdd_spool_bits", "bits", "Key bits in the node's spool by state.", "state"),
        _counter("qkdd_keys_blocks_total", "1", "Blocks in the two-phase commit, by outcome.", "outcome"),
        _counter("qkdd_keys_hand_over_failures_total", "1", "Calls to the KMS that failed, by stable code.", "code"),
        _counter("qkdd_keys_handed_over_total", "1", "Key chunks acknowledged by the KMS."),
        _counter(
            "qkdd_keys_voided_total", "1", "Key chunks that the KMS left unacknowledged for too long, voided there."
        ),
        _histogram("qkdd_key_hand_over_seconds", "seconds", "From a block's commit to the KMS's acknowledgement."),
        _gauge("qkdd_kms_up", "1", "1 while the KMS answers the node."),
    ),
}

METRICS: dict[str, Metric] = {
    metric.name: Metric(metric.name, metric.kind, metric.unit, metric.help, metric.labels, metric.buckets, room)
    for room, metrics in _TABLE.items()
    for metric in metrics
}


def to_markdown() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Served at `http://<[telemetry] listen>/metrics` in the Prometheus text format. Generated from",
        "`qkdd.telemetry.catalogue` by `python -m qkdd.node.docs`; do not edit.",
    ]
    for room in _TABLE:
        lines += ["", f"## {room}", "", "| name | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
        for metric in METRICS.values():
            if metric.room == room:
                labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
                lines.append(f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |")
    for program, table in (("qkdd-kms", KMS_TABLE), ("qkd-psk", PSK_TABLE)):
        lines += [
            "",
            f"## {program}",
            "",
            f"Served by `{program}` itself.",
            "",
            "| name | labels | meaning |",
            "|---|---|---|",
        ]
        for name, (label_names, help_text) in table.items():
            labels = ", ".join(f"`{label}`" for label in label_names) or "–"
            lines.append(f"| `{name}` | {labels} | {help_text} |")
    return "\n".join(lines) + "\n"
