"""Rules and alerts: read by promtool, each alert fires on its cause and not without it, every metric is in the catalogue."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qkdd.kms.metrics import TABLE as KMS_TABLE
from qkdd.psk.metrics import TABLE as PSK_TABLE
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
        'qkdd_detector_dark_count_rate_hertz{device="d",detector="0"}', "100x2525 200x60", "100x2590", "10200m", "ticket",
    ),
    "QkddNodeUnreachable": ('up{job="qkdd"}', "0x40", "1x40", "10m", "page"),
    "QkddKmsDown": ("qkdd_kms_up", "0x40", "1x40", "10m", "page"),
    "QkddAvailabilityBudgetDrains": (
        'qkdd_link_up_seconds_total{link="a-b"}', "0+239.6x1120", "0+240x1120", "4400m", "ticket",
    ),
    "QkddBlocksRefused": ('qkdd_blocks_refused_total{link="a-b",code="QKD-BLK-QBER"}', "0+2x400", "0+0x400", "390m", "ticket"),
    "QkddKeyRateLow": ('qkdd_secret_bits_total{link="a-b"}', "0+300000x288 86400000+500x40", "0+300000x328", "1600m", "ticket"),
    "QkddHandOverLate": ('qkdd_key_hand_over_seconds_bucket{le="1.0"}', "0+5x200", "0+10x200", "190m", "ticket"),
    "QkddCalibrationDoesNotEnd": ("qkdd_calibrating", "1x60", "1x10 0x10 1x40", "45m", "ticket"),
    "QkddTagsLost": ('qkdd_link_tags_lost_total{link="a-b"}', "0+60x60", "0+0x60", "50m", "ticket"),
    "QkddMasksRunOut": ('qkdd_masks_left{direction="a"}', "10x40", "1000x40", "20m", "ticket"),
    "QkddKmsCertificateExpires": ('qkdd_kms_certificate_expiry_seconds{listener="k"}', "86400x40", "9999999x40", "20m", "ticket"),
    "QkddFirmwareOld": ('qkdd_device_firmware_old{device="t"}', "1x100", "0x100", "90m", "ticket"),
    "QkddDiskNearlyFull": ("qkdd_disk_free_ratio", "0.05x40", "0.5x40", "30m", "ticket"),
    "QkddMqttCannotBeReached": ('qkdd_part_up{part="mqtt"}', "0x40", "1x40", "30m", "ticket"),
    "QkddPskTunnelDown": ("qkdd_psk_torn_down", "1x40", "0x40", "10m", "page"),
    "QkddKmsStoreSilent": ("qkdd_kms_store_silent", "1x40", "0x5 1 0x40", "10m", "ticket"),
    "QkddPskRotationLate": ("qkdd_psk_key_age_seconds", "0+60x40", "0 60 0 60 0 60 0x40", "20m", "ticket"),
    "QkddPskRotationFails": ('qkdd_psk_failures_total{code="QKD-PSK-KMS"}', "0+1x60", "3x60", "40m", "ticket"),
    "QkddPskEndsDisagree": ("qkdd_psk_agreed", "0x40", "1 0 1x40", "10m", "ticket"),
    "QkddCertificateExpires": ("qkdd_peer_certificate_expiry_seconds", "86400x40", "9999999x40", "20m", "ticket"),
}  # fmt: skip


STEPS = {"QkddDarkCountsCreepUp": "4m", "QkddAvailabilityBudgetDrains": "4m", "QkddKeyRateLow": "5m"}  # else a minute
# series that a case needs besides its own
COMPANIONS: dict[str, list[tuple[str, str]]] = {
    "QkddBlocksRefused": [('qkdd_blocks_accepted_total{instance="a",link="a-b"}', "0+12x400")],
    "QkddHandOverLate": [('qkdd_key_hand_over_seconds_count{instance="a"}', "0+10x200")],
    "QkddPskRotationLate": [
        ('qkdd_psk_period_seconds{instance="a"}', "120x40"),
        ('qkdd_psk_old_key{instance="a"}', "0x40"),
    ],
    "QkddPskRotationFails": [('qkdd_psk_rotations_total{instance="a"}', "7x60")],
    "QkddPskEndsDisagree": [('qkdd_psk_partner_up{instance="a"}', "1x40")],
    "QkddTagsLost": [('qkdd_link_clicks_total{instance="a",link="a-b"}', "0+30000x60")],
}
EXCUSED = [
    "QkddLinkDown", "QkddAvailabilityBurnsFast", "QkddAvailabilityBurnsSlowly", "QkddAvailabilityBudgetDrains",
    "QkddQberCritical", "QkddCalibrationDrift", "QkddKeyRateLow",
]  # fmt: skip


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def rules_of(alert: str) -> str:
    """The rule file with one alert only and the recordings that it uses, word for word: promtool evaluates every rule of a
    file at every step, which is most of its time."""
    rules = {}
    for rule in re.split(r"^      (?=- (?:record|alert): )", RULES.read_text(), flags=re.MULTILINE)[1:]:
        text = re.split(r"^  - name: ", rule, flags=re.MULTILINE)[0]
        rules[text.split(maxsplit=3)[2]] = text
    kept, more = {alert}, [alert]
    while more:
        found = {name for name in rules if name not in kept and name in rules[more[-1]]}
        more[-1:] = found
        kept |= found
    recordings = [rules[name] for name in rules if name in kept and name != alert]  # in the file's order
    groups = "groups:\n"
    if recordings:
        groups += "  - name: recordings\n    rules:\n" + "".join(f"      {text}" for text in recordings)
    return groups + f"  - name: the-alert\n    rules:\n      {rules[alert]}"


def run_cases(folder: Path, alert: str, cases: list[tuple[str, list[tuple[str, str]], list[str]]]) -> str:
    """Empty when the query over this firing alert gives, in each case of (values, other series, samples), exactly these samples.

    The file is JSON, which YAML includes.
    """
    series, _, _, at, severity = CASES[alert]
    name, _, labels = series.rstrip("}").partition("{")
    step = STEPS.get(alert, "1m")
    tests = []
    for number, (values, extra, samples) in enumerate(cases):
        inputs = [{"series": f'{name}{{instance="a"{"," if labels else ""}{labels}}}', "values": values}]
        inputs += [{"series": other, "values": there} for other, there in (*extra, *COMPANIONS.get(alert, ()))]
        wanted = [{"labels": labels_, "value": 1} for labels_ in samples]
        query = {"expr": firing(alert, severity), "eval_time": at, "exp_samples": wanted}
        tests.append({"name": f"case {number}", "interval": step, "input_series": inputs, "promql_expr_test": [query]})
    (folder / "rules.yml").write_text(rules_of(alert))
    file = folder / "case.yml"
    file.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": step, "tests": tests}))
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
    _, bad, good, _, _ = CASES[name]
    assert not run_cases(tmp_path, name, [(bad, [], ["{}"]), (good, [], [])])
    assert "FAILED" in run_cases(tmp_path, name, [(bad, [], [])]), "the case can fail"


@needs_promtool
def test_tunnels_by_other_signs(tmp_path: Path) -> None:
    """The end that listens has no period; keys that differ; an agent that changes keys between its failures; no line, no word."""
    old = [('qkdd_psk_old_key{instance="b"}', "1x40"), ('qkdd_psk_key_age_seconds{instance="b"}', "1000x40")]
    assert not run_cases(tmp_path, "QkddPskRotationLate", [("0x40", old, ["{}"])])
    differ = [('qkdd_psk_failures_total{instance="a",code="QKD-PSK-KEYS-DIFFER"}', "_x6 1x40")]
    assert not run_cases(tmp_path, "QkddPskEndsDisagree", [("1x40", differ, ["{}"])])
    _, bad, _, _, _ = CASES["QkddPskEndsDisagree"]
    alone, COMPANIONS["QkddPskEndsDisagree"] = COMPANIONS["QkddPskEndsDisagree"], []
    try:
        assert not run_cases(
            tmp_path, "QkddPskEndsDisagree", [(bad, [('qkdd_psk_partner_up{instance="a"}', "0x40")], [])]
        )
    finally:
        COMPANIONS["QkddPskEndsDisagree"] = alone
    _, bad, _, _, _ = CASES["QkddPskRotationFails"]
    alone, COMPANIONS["QkddPskRotationFails"] = COMPANIONS["QkddPskRotationFails"], []
    try:
        changes = [('qkdd_psk_rotations_total{instance="a"}', "0+1x60")]
        assert not run_cases(tmp_path, "QkddPskRotationFails", [(bad, changes, [])])
    finally:
        COMPANIONS["QkddPskRotationFails"] = alone


@needs_promtool
@pytest.mark.parametrize("excuse", ["qkdd_draining", "qkdd_calibrating"])
@pytest.mark.parametrize("name", EXCUSED)
def test_planned_work_raises_no_link_alert(name: str, excuse: str, tmp_path: Path) -> None:
    _, bad, _, _, _ = CASES[name]
    cases = [
        ('{instance="a"}', "1x1200", []),
        ('{instance="a"}', "0x1200", ["{}"]),
        ('{instance="another"}', "1x1200", ["{}"]),
    ]
    assert not run_cases(tmp_path, name, [(bad, [(excuse + who, values)], found) for who, values, found in cases])


def test_each_alert_is_tried_with_the_recordings_it_uses() -> None:
    text = rules_of("QkddAvailabilityBurnsFast")
    assert re.findall(r"- (?:record|alert): (\S+)", text) == [
        "qkdd:link_unavailable:ratio_rate5m", "qkdd:link_unavailable:ratio_rate1h", "qkdd:link_excused",
        "QkddAvailabilityBurnsFast",
    ]  # fmt: skip
    for name in CASES:
        assert set(re.findall(r"\bqkdd:[\w:]+", rules_of(name))) == set(re.findall(r"- record: (\S+)", rules_of(name)))


def test_every_alert_has_its_test() -> None:
    assert set(re.findall(r"- alert: (\w+)", RULES.read_text())) == set(CASES)


def test_every_metric_is_in_the_catalogue() -> None:
    used = {re.sub(r"_(bucket|count)$", "", name) for name in re.findall(r"\bqkdd_[a-z0-9_]+", RULES.read_text())}
    assert used
    assert used <= set(METRICS) | set(KMS_TABLE) | set(PSK_TABLE)


def test_every_page_has_its_runbook() -> None:
    """The rule names the page; the page exists and names the alert."""
    text = RULES.read_text()
    pages = re.findall(r'alert: (\w+)(?:(?!- alert).)*?severity: page.*?runbook: "([^"]+)"', text, re.DOTALL)
    assert len(pages) == sum(severity == "page" for *_, severity in CASES.values())
    for alert, path in pages:
        assert path == f"docs/runbooks/{alert}.md"


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool (Debian: prometheus-alertmanager) is missing")
def test_alertmanager_file_is_valid() -> None:
    done = subprocess.run(
        ["amtool", "check-config", str(ROOT / "monitoring/alertmanager.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_file_is_valid() -> None:
    done = promtool("check", "config", str(ROOT / "monitoring/prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
