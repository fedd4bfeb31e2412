"""Dashboards: fresh, readable by Grafana's rules that can be checked here, every expression valid and about known metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from qkdd.kms.metrics import TABLE as KMS_TABLE
from qkdd.psk.metrics import TABLE as PSK_TABLE
from qkdd.telemetry.catalogue import METRICS
from qkdd.telemetry.dashboards import BOARDS, board, render

ROOT = Path(__file__).resolve().parents[2]
RECORDED = set(re.findall(r"record: (\S+)", (ROOT / "monitoring/rules/qkdd.yml").read_text()))
OTHERS = {"ALERTS"}


def expressions(name: str) -> list[str]:
    found = [target["expr"] for panel in board(name)["panels"] for target in panel["targets"]]
    return [e.replace("$__rate_interval", "5m").replace("$instance", ".*") for e in found]


def names(node: Any) -> set[str]:
    """Metric names of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        return {node.name}
    if isinstance(node, promql_parser.MatrixSelector):
        return names(node.vector_selector)
    found: set[str] = set()
    for part in ("expr", "lhs", "rhs", "param"):
        if (child := getattr(node, part, None)) is not None:
            found |= names(child)
    for child in getattr(node, "args", None) or ():
        found |= names(child)
    return found


@pytest.mark.parametrize("name", BOARDS)
def test_files_are_fresh(name: str) -> None:
    path = ROOT / f"monitoring/grafana/{name}.json"
    assert path.read_text() == render(name), "run `python -m qkdd.telemetry.dashboards`"


@pytest.mark.parametrize("name", BOARDS)
def test_every_expression_is_about_known_metrics(name: str) -> None:
    known = set(METRICS) | set(KMS_TABLE) | set(PSK_TABLE) | RECORDED | OTHERS
    for expression in expressions(name):
        for used in names(promql_parser.parse(expression)):
            assert re.sub(r"_(bucket|count|sum)$", "", used) in known | {used} & known, expression


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")
@pytest.mark.parametrize("name", BOARDS)
def test_prometheus_takes_every_expression(name: str, tmp_path: Path) -> None:
    rules = [{"record": f"check:{i}", "expr": e} for i, e in enumerate(expressions(name))]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "check", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", BOARDS)
def test_panels_fit(name: str) -> None:
    made = board(name)
    ids = [panel["id"] for panel in made["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x, place["y"]) for x in range(place["x"], place["x"] + place["w"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({board(other)["uid"] for other in BOARDS}) == len(BOARDS)


def test_every_metric_of_the_daemon_is_on_the_debug_board() -> None:
    seen: set[str] = set()
    for expression in expressions("debug"):
        seen |= names(promql_parser.parse(expression))
    assert {re.sub(r"_bucket$", "", name) for name in seen} == set(METRICS)
