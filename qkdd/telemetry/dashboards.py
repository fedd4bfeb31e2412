"""The Grafana dashboards, made from one table: `python -m qkdd.telemetry.dashboards FOLDER` writes the JSON files.

Three readers: who pays (executive), who is woken (on-call), who searches (debug).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkdd.telemetry.catalogue import METRICS

_SELECT = 'instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """title, PromQL expressions with their legends, unit of Grafana, help; kind "timeseries", "stat" or "table"."""

    title: str
    targets: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    help: str = ""
    thresholds: tuple[tuple[str, float | None], ...] = (("green", None),)
    width: int = 8


def _one(title: str, expression: str, legend: str = "{{instance}}", **options: Any) -> Panel:
    return Panel(title, ((expression, legend),), **options)


_RED_IS_LOW = (("red", None), ("green", 1.0))
EXECUTIVE = (
    _one(
        "Availability, 30 days",
        f"avg_over_time(qkdd_link_up{{{_SELECT}}}[30d])",
        "{{link}}",
        unit="percentunit",
        kind="stat",
        help="Share of time in which the link made key. Objective: 99.99 %.",
        thresholds=(("red", None), ("orange", 0.999), ("green", 0.9999)),
    ),
    _one(
        "Error budget left, 30 days",
        f"1 - (1 - avg_over_time(qkdd_link_up{{{_SELECT}}}[30d])) / 0.0001",
        "{{link}}",
        unit="percentunit",
        kind="stat",
        help="1 is untouched, 0 is spent.",
        thresholds=(("red", None), ("orange", 0.25), ("green", 0.5)),
    ),
    _one(
        "Secret key made today",
        f"increase(qkdd_secret_bits_total{{{_SELECT}}}[24h])",
        "{{link}}",
        unit="decbits",
        kind="stat",
        help="Bits of accepted blocks in 24 hours.",
    ),
    _one(
        "Secret key rate",
        f"qkdd:secret_bits:rate15m{{{_SELECT}}}",
        "{{link}}",
        unit="bps",
        help="Average over 15 minutes.",
        width=16,
    ),
    _one(
        "Keys given to applications",
        "sum(increase(qkdd_kms_keys_drawn_total[24h]))",
        "drawn",
        kind="stat",
        help="In 24 hours, over all KMSs.",
    ),
)
ON_CALL = (
    _one(
        "Link up",
        f"qkdd_link_up{{{_SELECT}}}",
        "{{instance}} {{link}}",
        kind="stat",
        help="1: aligned and making blocks.",
        thresholds=_RED_IS_LOW,
    ),
    _one(
        "Firing alerts",
        'ALERTS{alertname=~"Qkdd.+",alertstate="firing"}',
        "{{alertname}} {{instance}}",
        kind="table",
        help="Each has a runbook of its name in docs/runbooks.",
        width=16,
    ),
    _one(
        "Error rate",
        f"qkdd_link_qber_ratio{{{_SELECT}}}",
        "{{link}}",
        unit="percentunit",
        help="Above 3.5 %: calibrate. Above 5 %: no key.",
        thresholds=(("green", None), ("orange", 0.035), ("red", 0.05)),
    ),
    _one("Secret key rate", f"qkdd:secret_bits:rate15m{{{_SELECT}}}", "{{link}}", unit="bps"),
    Panel(
        "Blocks a minute",
        (
            (f"60 * sum by (link) (rate(qkdd_blocks_accepted_total{{{_SELECT}}}[$__rate_interval]))", "accepted {{link}}"),
            (f"60 * sum by (link, code) (rate(qkdd_blocks_refused_total{{{_SELECT}}}[$__rate_interval]))", "{{code}}"),
        ),
        help="Refused blocks by reason code: `qkdd errors CODE` says what to do.",
    ),
    _one(
        "Parts",
        f"qkdd_part_up{{{_SELECT}}}",
        "{{instance}} {{part}}",
        kind="table",
        help="0: down; `qkdctl errors` says why.",
        thresholds=_RED_IS_LOW,
    ),
    _one("Detector counts", f"qkdd_detector_count_rate_hertz{{{_SELECT}}}", "{{device}} {{detector}}", unit="hertz"),
    _one(
        "Key left in the KMS", "qkdd_kms_pool_bits", "{{instance}} {{peer}} {{owner}}", unit="decbits",
        help="What applications can still draw.",
    ),
    _one(
        "Burn rate of the availability budget",
        f"qkdd:link_unavailable:ratio_rate1h{{{_SELECT}}} / 0.0001",
        "{{link}}",
        help="1: the budget lasts exactly 30 days. 14.4: it is gone in two.",
    ),
    Panel(
        "Tunnels: age of the pre-shared key",
        (("qkdd_psk_key_age_seconds", "{{instance}}"), ("-1 * (qkdd_psk_torn_down == 1)", "{{instance}} torn down")),
        unit="s",
        help="qkd-psk; below zero: the tunnel is blocked. Every age falls to zero each period.",
    ),
    _one("Certificate", f"qkdd_peer_certificate_expiry_seconds{{{_SELECT}}}", "{{instance}}", unit="s", kind="stat"),
)  # fmt: skip


def _debug() -> tuple[Panel, ...]:
    """Every metric of the daemon, in the catalogue's order."""
    panels = []
    for metric in METRICS.values():
        by = ", ".join(("instance", *metric.labels))
        legend = " ".join(f"{{{{{label}}}}}" for label in ("instance", *metric.labels))
        if metric.kind == "histogram":
            buckets = f"sum by (le, {by}) (rate({metric.name}_bucket{{{_SELECT}}}[$__rate_interval]))"
            expression = f"histogram_quantile(0.99, {buckets})"
        elif metric.kind == "counter":
            expression = f"sum by ({by}) (rate({metric.name}{{{_SELECT}}}[$__rate_interval]))"
        else:
            expression = f"{metric.name}{{{_SELECT}}}"
        unit = {"ratio": "percentunit", "seconds": "s", "bytes": "bytes", "hertz": "hertz", "bits": "decbits"}
        panels.append(_one(metric.name, expression, legend, unit=unit.get(metric.unit, "short"), help=metric.help))
    return tuple(panels)


BOARDS = {
    "executive": ("qkdd: the service", EXECUTIVE),
    "on-call": ("qkdd: on call", ON_CALL),
    "debug": ("qkdd: every metric", _debug()),
}


def board(name: str) -> dict[str, Any]:
    """One dashboard in Grafana's JSON model (schema 39)."""
    title, panels = BOARDS[name]
    made, x, y = [], 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > 24:
            x, y = 0, y + 8
        made.append(
            {
                "id": number,
                "type": panel.kind,
                "title": panel.title,
                "description": panel.help,
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "gridPos": {"h": 8, "w": panel.width, "x": x, "y": y},
                "fieldConfig": {
                    "defaults": {
                        "unit": panel.unit,
                        "thresholds": {
                            "mode": "absolute",
                            "steps": [{"color": color, "value": value} for color, value in panel.thresholds],
                        },
                    },
                    "overrides": [],
                },
                "targets": [
                    {
                        "refId": chr(ord("A") + index),
                        "expr": expression,
                        "legendFormat": legend,
                        "instant": panel.kind == "table",
                        "format": "table" if panel.kind == "table" else "time_series",
                    }
                    for index, (expression, legend) in enumerate(panel.targets)
                ],
            }
        )
        x += panel.width
    return {
        "uid": f"qkdd-{name}",
        "title": title,
        "tags": ["qkdd"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                {
                    "name": "instance",
                    "type": "query",
                    "label": "Node",
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "query": {"query": "label_values(qkdd_build_info, instance)", "refId": "instance"},
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "refresh": 2,
                },
            ]
        },
        "panels": made,
    }


def render(name: str) -> str:
    """The file's text."""
    return json.dumps(board(name), indent=1) + "\n"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in BOARDS:
        path = folder / f"{name}.json"
        path.write_text(render(name), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("monitoring/grafana"))
