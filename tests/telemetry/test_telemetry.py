"""The catalogue keeps its own rules, the meter refuses what is not in it, and the rooms use nothing else."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import aiohttp
import pytest

from qkdd.core.config import ConfigRefused, parse
from qkdd.kms.metrics import TABLE as KMS_TABLE
from qkdd.psk.metrics import TABLE as PSK_TABLE
from qkdd.telemetry.catalogue import METRICS, Kind, Metric, to_markdown
from qkdd.telemetry.config import TelemetryConfig
from qkdd.telemetry.errors import MetricsListenFailed, UnknownMetric
from qkdd.telemetry.meter import PrometheusMeter
from qkdd.telemetry.server import MetricsServer

ROOT = Path(__file__).parents[2]
_TABLES = {"kms": KMS_TABLE, "psk": PSK_TABLE}  # processes of their own, with tables of their own
_VERBS = {"add": Kind.COUNTER, "set": Kind.GAUGE, "observe": Kind.HISTOGRAM}


def _uses() -> list[tuple[str, int, str, str, set[str]]]:
    """(file, line, verb, name, labels) of every call like `meter.add("qkdd_…", 1, link="a")` in the shipped packages."""
    found = []
    for folder in ("qkdd", "drivers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                    continue
                first = node.args[0]
                if node.func.attr not in _VERBS or "meter" not in ast.unparse(node.func.value).lower():
                    continue
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    labels = {k.arg for k in node.keywords if k.arg not in (None, "value")}
                    dynamic = any(k.arg is None for k in node.keywords)
                    found.append(
                        (
                            str(path.relative_to(ROOT)),
                            node.lineno,
                            node.func.attr,
                            first.value,
                            {"**"} if dynamic else labels,
                        )
                    )
    return found


def test_every_metric_in_the_source_is_in_the_catalogue() -> None:
    wrong = []
    for file, line, verb, name, labels in _uses():
        room = file.split("/")[1]
        if room in _TABLES:
            if name not in _TABLES[room] or set(_TABLES[room][name][0]) != labels:
                wrong.append(f"{file}:{line}: {name} {sorted(labels)} is not in qkdd.{room}.metrics.TABLE")
            continue
        metric = METRICS.get(name)
        if metric is None:
            wrong.append(f"{file}:{line}: {name} is not in the catalogue")
        elif metric.kind is not _VERBS[verb]:
            wrong.append(f"{file}:{line}: {name} is a {metric.kind}")
        elif labels != {"**"} and labels != set(metric.labels):
            wrong.append(f"{file}:{line}: {name} has labels {metric.labels}, used with {sorted(labels)}")
    assert not wrong, "\n".join(wrong)


def test_every_metric_of_the_catalogue_is_used_somewhere() -> None:
    """A catalogue entry that nothing sets is a promise to operators that is not kept."""
    files = [p for folder in ("qkdd", "drivers") for p in (ROOT / folder).rglob("*.py") if p.name != "catalogue.py"]
    source = "".join(p.read_text(encoding="utf-8") for p in files)
    assert not [name for name in METRICS if f'"{name}"' not in source]


@pytest.mark.parametrize(
    ("name", "kind", "unit", "buckets"),
    [
        ("qkdd_things", Kind.COUNTER, "1", ()),
        ("qkdd_things_total", Kind.GAUGE, "1", ()),
        ("things_total", Kind.COUNTER, "1", ()),
        ("qkdd_wait", Kind.GAUGE, "seconds", ()),
        ("qkdd_wait_seconds", Kind.HISTOGRAM, "seconds", ()),
    ],
)
def test_catalogue_refuses_bad_names(name: str, kind: Kind, unit: str, buckets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"qkdd_|things"):
        Metric(name, kind, unit, "A sentence.", (), buckets)


def test_meter_refuses_unknown_name_kind_and_labels() -> None:
    meter = PrometheusMeter()
    with pytest.raises(UnknownMetric, match="not in the catalogue"):
        meter.add("qkdd_nonsense_total")
    with pytest.raises(UnknownMetric, match="is a counter"):
        meter.set("qkdd_blocks_accepted_total", 1.0, link="a")
    with pytest.raises(UnknownMetric, match="labels"):
        meter.add("qkdd_blocks_accepted_total")


def test_a_level_that_was_never_measured_is_absent() -> None:
    meter = PrometheusMeter()
    assert b"qkdd_epsilon_spent_ratio 0" not in meter.exposition()
    meter.set("qkdd_epsilon_spent_ratio", 0.25)
    meter.set("qkdd_epsilon_spent_ratio", 0.5)
    assert b"qkdd_epsilon_spent_ratio 0.5" in meter.exposition()


def test_metrics_over_http() -> None:
    async def main() -> None:
        meter = PrometheusMeter()
        meter.add("qkdd_blocks_refused_total", link="a-b", code="QKD-BLK-QBER")
        meter.observe("qkdd_key_hand_over_seconds", 0.03)
        scrapes = []
        server = MetricsServer("127.0.0.1:0", meter, refresh=lambda: scrapes.append(1))
        endpoint = await server.start()
        try:
            async with aiohttp.ClientSession() as client, client.get(f"http://{endpoint}/metrics") as reply:
                text = await reply.text()
                assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            second = MetricsServer(str(endpoint), PrometheusMeter())
            with pytest.raises(MetricsListenFailed, match=str(endpoint.port)):
                await second.start()
        finally:
            await server.stop()
        assert 'qkdd_blocks_refused_total{code="QKD-BLK-QBER",link="a-b"} 1.0' in text
        assert 'qkdd_key_hand_over_seconds_bucket{le="0.05"} 1.0' in text
        assert "_created" not in text
        assert scrapes == [1]

    asyncio.run(main())


@pytest.mark.parametrize("listen", ["0.0.0.0:9101", "192.0.2.1:9101", "nonsense", "127.0.0.1:99999", "::1:9101"])
def test_metrics_stay_on_loopback(listen: str) -> None:
    with pytest.raises(ConfigRefused) as refusal:
        parse(f'listen = "{listen}"', TelemetryConfig)
    assert refusal.value.findings[0].key == "listen"
    assert refusal.value.findings[0].remedy


def test_markdown_names_every_metric() -> None:
    text = to_markdown()
    assert all(f"`{name}`" in text for name in METRICS)
