"""Rules and alerts: read by promtool, each alert fires on its cause and not without it, every metric is in the catalogue."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qkdd.kms.metrics import TABLE as KMS_TABLE
from qkdd.telemetry.catalogue import METRICS

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "monitoring/rules/qkdd.yml"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")

# alert: bad series, the same series when all is well, when the alert must have fired, severity
CASES: dict[str, tuple[str, str, str, str, str]] = {
    "QkddLinkDown": ('qkdd_link_up{link="a-b"}', "0x40", "1x40", "10m", "page"),
    "QkddAvailabilityBurnsFast": ('qkdd_link_up_seconds_total{link="a-b"}', "0+30x90", "0+60x90", "80m", "page"),
    "QkddQberCritical": ('qkdd_link_qber_ratio{link="a-b"}', "0.07x40", "0.02x40", "10m", "page"),
    "QkddAuthenticationFailures": ('qkdd_peer_seals_total{mode="ml-dsa",result="failed"}', "0+1x40", "3x40", "20m", "page"),
    "QkddDetectorBlindingSuspected": ('qkdd_errors_total{code="QKD-NODE-BRIGHT"}', "_x5 1x40", "1x45", "12m", "page"),
    "QkddKeyStoreNearlyEmpty": ('qkdd_kms_pool_bits{peer="b",owner="a"}', "1000x40", "99999x40", "10m", "page"),
    "QkddEpsilonNearlySpent": ("qkdd_epsilon_spent_ratio", "0.95x40", "0.5x40", "10m", "page"),
    "QkddAvailabilityBurnsSlowly": ('qkdd_link_up_seconds_total{link="a-b"}', "0+59x420", "0+60x420", "400m", "ticket"),
    "QkddCalibrationDrift": ('qkdd_link_qber_ratio{link="a-b"}', "0.04x40", "0.02x40", "20m", "ticket"),
    "QkddDarkCountsCreepUp": (
        'qkdd_detector_dark_count_rate_hertz{device="d",detector="0"}', "100x10100 200x200", "100x10300", "10210m", "ticket",
    ),
    "QkddCertificateExpires": ("qkdd_peer_certificate_expiry_seconds", "86400x40", "9999999x40", "20m", "ticket"),
}  # fmt: skip


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def run_case(folder: Path, series: str, values: str, extra: str, at: str, query: str, samples: list[str]) -> str:
    """Empty when the query over firing alerts gives exactly these samples. The file is JSON, which YAML includes."""
    name, _, labels = series.rstrip("}").partition("{")
    wanted = [{"labels": labels_, "value": 1} for labels_ in samples]
    inputs = [{"series": f'{name}{{instance="a"{"," if labels else ""}{labels}}}', "values": values}]
    if extra:
        inputs.append({"series": 'qkdd_draining{instance="a"}', "values": extra})
    test = {
        "interval": "1m",
        "input_series": inputs,
        "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": wanted}],
    }
    file = folder / "case.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    done = promtool("test", "rules", str(file))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def firing(name: str, severity: str) -> str:
    return f'count(ALERTS{{alertname="{name}",alertstate="firing",severity="{severity}"}})'


@needs_promtool
def test_rules_are_valid() -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_alert_fires_on_its_cause_only(name: str, tmp_path: Path) -> None:
    series, bad, good, at, severity = CASES[name]
    assert not run_case(tmp_path, series, bad, "", at, firing(name, severity), ["{}"])
    assert not run_case(tmp_path, series, good, "", at, firing(name, severity), [])


@needs_promtool
@pytest.mark.parametrize("name", ["QkddLinkDown", "QkddAvailabilityBurnsFast", "QkddAvailabilityBurnsSlowly"])
def test_a_drained_node_raises_no_link_alert(name: str, tmp_path: Path) -> None:
    series, bad, _good, at, severity = CASES[name]
    assert not run_case(tmp_path, series, bad, "1x420", at, firing(name, severity), [])


def test_every_alert_has_its_test() -> None:
    assert set(re.findall(r"- alert: (\w+)", RULES.read_text())) == set(CASES)


def test_every_metric_is_in_the_catalogue() -> None:
    used = set(re.findall(r"\bqkdd_[a-z0-9_]+", RULES.read_text()))
    assert used
    assert used <= set(METRICS) | set(KMS_TABLE)
