"""The whole system as processes: what the README promises, with and without an eavesdropper, and over kill -9."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qkdd.distill.config import DistillConfig
from qkdd.distill.plan import plan_block

BIN = Path(sys.executable).parent


def demo(tmp_path: Path, *arguments: str) -> dict:
    figures = tmp_path / "figures.json"
    command = [str(BIN / "qkdd"), "demo", "--no-live", "--json", str(figures), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads(figures.read_text())


@pytest.mark.slow
def test_demo_ends_with_the_same_key_on_both_sides(tmp_path: Path) -> None:
    found = demo(tmp_path, "--seconds", "40")
    assert found["keys_equal"]
    assert found["keys_delivered"] >= 2
    assert found["seconds_to_first_key"] < 30
    assert found["qber"] == pytest.approx(0.016, abs=0.004)
    assert 2.5 < found["chsh_s"] < 2.83
    assert found["blocks_accepted"] >= 3
    # a machine that is short of time can lose tags, as hardware does; that block is refused and says so
    assert found["blocks_refused"] <= 1
    assert found["reason"] in (None, "QKD-BLK-TAGS-LOST")
    # within 10 % of the formula for blocks of this size, at the error that the line has plus the margin
    finished = found["blocks_accepted"] + found["blocks_refused"]
    config = DistillConfig()
    plan = plan_block(found["sifted_bits"] // finished, found["qber"] + config.error_margin, config)
    assert found["secret_bits"] / found["blocks_accepted"] == pytest.approx(plan.length, rel=0.10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(("--eve", "0.3"), "QKD-BLK-QBER"), (("--eve", "1", "--qber-max", "0.3"), "QKD-BLK-NO-LENGTH")],
)
def test_an_eavesdropper_gets_no_key_made(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    found = demo(tmp_path, *arguments)
    assert found["keys_delivered"] == 0
    assert found["blocks_accepted"] == 0
    assert found["blocks_refused"] >= 3
    assert found["reason"] == reason


@pytest.mark.slow
def test_a_little_eavesdropping_costs_key(tmp_path: Path) -> None:
    found = demo(tmp_path, "--eve", "0.05")
    assert found["keys_equal"]
    assert found["qber"] == pytest.approx(0.016 + 0.05 / 4, abs=0.004)


@pytest.mark.slow
@pytest.mark.crash
def test_kill_9_loses_no_key(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "qkdd_hil.crash", "--rounds", "10", "--seed", "7", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    found = json.loads(report.read_text())
    assert (found["differing"], found["twice"], found["lost"], found["disagreements"]) == (0, 0, 0, [])
    assert found["keys_delivered"] > 0
