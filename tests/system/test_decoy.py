"""Decoy-state BB84 as processes: key at the rate of the closed form, none under attack, faults that cost their block."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qkdd_hil.demo.layout import SIDES
from qkdd_hil.demo.options import Options
from qkdd_hil.rig import BIN, Rig, running_rig

pytestmark = pytest.mark.slow


def demo(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    figures = tmp_path / "figures.json"
    command = [str(BIN / "qkdd"), "demo", "--protocol", "decoy_bb84", "--no-live", "--json", str(figures), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def test_demo_ends_with_the_same_key_at_the_expected_rate(tmp_path: Path) -> None:
    found = demo(tmp_path, "--seconds", "50")
    assert found["keys_equal"]
    assert found["keys_delivered"] >= 2
    assert found["seconds_to_first_key"] < 60
    assert found["blocks_accepted"] >= 3
    # a machine that is short of time can lose tags or symbols, as hardware does; that block is refused and says so
    assert found["blocks_refused"] <= 1
    assert found["secret_bits_per_s"] == pytest.approx(found["expected_secret_bits_per_s"], rel=0.10)
    assert found["qber"] == pytest.approx(found["expected_qber"], abs=0.001)
    assert (found["proof"], found["label"]) == ("bb84-2decoy/vl", "")
    for intensity in found["decoy"]["intensities"][:2]:
        assert intensity["gain"] == pytest.approx(intensity["expected_gain"], rel=0.03)
        assert intensity["qber_x"] == pytest.approx(intensity["expected_qber_x"], rel=0.1)


@pytest.mark.parametrize("adversary", ["pns", "intercept"])
def test_an_adversary_gets_no_key_made(tmp_path: Path, adversary: str) -> None:
    found = demo(tmp_path, "--adversary", adversary)
    assert (found["keys_delivered"], found["blocks_accepted"]) == (0, 0)
    assert found["blocks_refused"] >= 3
    # both are told by the proof itself: nothing of single photons, or a phase error that leaves no key
    assert found["reason"] == "QKD-BLK-NO-LENGTH"
    assert {"pns": "single-photon", "intercept": "phase error"}[adversary] in found["reason_text"]


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with running_rig(Options(protocol="decoy_bb84", block_pulses=30_000_000, live=False, seed=5)) as rig:
        yield rig


@pytest.fixture
def rig(running: Rig) -> Iterator[Rig]:
    """The rig in service; afterwards in service again, with every key that had been accepted still there on both sides."""
    running.in_service()
    before = {side: running.held(side) for side in SIDES}
    yield running
    running.in_service()
    for side in SIDES:
        assert before[side] <= running.held(side), f"{side} lost accepted key"


def test_a_board_cut_off_in_the_middle_of_a_block_and_back(rig: Rig) -> None:
    rig.fault("alice.board", "unplug")
    rig.until(lambda: rig.part("alice", "board")["state"] != "up", "alice sees the board gone")
    rig.until(lambda: rig.error("alice", "QKD-DEV-OFFLINE"), "the code of the board")
    held = rig.held("alice")
    rig.fault("alice.board", "plug")
    rig.in_service()
    assert held < rig.held("alice")


def test_symbols_lost_on_the_cable_cost_their_block_on_both_nodes(rig: Rig) -> None:
    before = max(rig.accepted(one) for one in SIDES)
    rig.fault("alice.board", "drop", every=40)
    try:
        for one in SIDES:
            rig.until(lambda one=one: rig.refused(one, "QKD-LNK-SYMBOLS-LOST", before), f"{one} refuses the block")
            assert rig.metric(one, "qkdd_blocks_refused_total", code="QKD-LNK-SYMBOLS-LOST") >= 1
    finally:
        rig.fault("alice.board", "clear")


def test_qkdctl_shows_the_proof_of_the_link(rig: Rig) -> None:
    for side in SIDES:
        code, text = rig.ctl(side, "link", "security", "--json")
        assert code == 0
        found = json.loads(text)
        assert (found["protocol"], found["proof"], found["label"]) == ("decoy_bb84", "bb84-2decoy/vl", "")
    code, text = rig.ctl("alice", "link", "advise", "--json")
    assert code == 0
    advice = json.loads(text)
    assert advice["measured"]["transmission"] == pytest.approx(0.1, rel=0.05)
    assert advice["recommended"]["secret_bits_per_s"] >= advice["present"]["secret_bits_per_s"]
