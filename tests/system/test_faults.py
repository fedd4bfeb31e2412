"""The whole system as processes, and what goes wrong around it: each fault has its code, its counter, its healing.

One rig (virtual bench, two KMSs, two daemons) serves all tests of this file, with blocks of 1 s. Every test leaves it in
service, and after every test all key that had been accepted before it must still be there on both sides.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qkdd_hil.bench.rig import FIFO_WORDS
from qkdd_hil.crash import stores
from qkdd_hil.demo.layout import SIDES
from qkdd_hil.demo.options import Options
from qkdd_hil.rig import BIN, SILENCE, Rig, running_rig

from qkdd.testing.patience import PATIENCE_S

pytestmark = pytest.mark.slow

CHANCE = {"QKD-BLK-LEAK", "QKD-BLK-QBER"}  # a block of one second is small: now and then its errors scatter too far


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with running_rig(Options(block="1 s", live=False, seed=5)) as rig:
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


def test_qkdctl_on_a_live_node(rig: Rig) -> None:
    for command in ("status", "devices", "link", "keys", "blocks", "errors"):
        code, text = rig.ctl("alice", command, "--json")
        assert code == 0, command
        json.loads(text)
        code, text = rig.ctl("bob", command)
        assert code == 0, command
        assert text.strip(), command

    def said(*words: str) -> Any:
        return json.loads(rig.ctl("alice", *words, "--json")[1])

    # a busy machine may hold a part up for a moment, and then the node says so
    running = {"node": "alice", "state": "running", "healthy": True}
    rig.until(lambda: running.items() <= said("status").items(), "qkdctl status: alice is running")
    link = json.loads(rig.ctl("bob", "link", "--json")[1])
    assert link["qber"] == pytest.approx(0.016, abs=0.01)
    up = dict.fromkeys(("tagger", "detectors", "polarization"), "up")
    rig.until(lambda: {device["name"]: device["state"] for device in said("devices")} == up, "qkdctl devices: all up")
    code, text = rig.ctl("alice", "devices", "detectors", "--json")
    assert code == 0
    assert {field["name"] for field in json.loads(text)} >= {"bias_current", "enabled"}
    assert len(said("blocks", "--limit", "2")) == 2
    assert said("devices", "nonsense")["code"] == "QKD-CTL-NOT-FOUND"


def test_qkdctl_without_a_daemon_ends_with_3(rig: Rig, tmp_path: Path) -> None:
    for command in ("status", "devices", "link", "keys", "blocks", "errors", "watch", "drain"):
        done = subprocess.run(
            [str(BIN / "qkdctl"), "--socket", str(tmp_path / "none"), command, "--json"],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 3, command
        assert json.loads(done.stdout)["code"] == "QKD-CTL-NO-DAEMON"


def test_qkdctl_watch_shows_blocks_as_they_come(rig: Rig) -> None:
    command = [str(BIN / "qkdctl"), "--socket", str(rig.layout.control_socket("alice")), "watch", "--json"]

    # a shell without job control starts its background jobs deaf to SIGINT, and their children with them
    command = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        kinds = set()
        while "block.accepted" not in kinds:
            kinds.add(json.loads(watching.stdout.readline())["kind"])
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 0


def test_a_tagger_unplugged_in_the_middle_of_a_block_and_back(rig: Rig) -> None:
    failures = rig.metric("bob", "qkdd_part_failures_total", part="tagger", code="QKD-DEV-OFFLINE")
    rig.fault("bob.tagger", "unplug")
    rig.until(lambda: rig.part("bob", "tagger")["state"] != "up", "bob sees the tagger gone")
    rig.until(lambda: rig.error("bob", "QKD-DEV-OFFLINE"), "the code of the unplugged tagger")
    rig.until(
        lambda: rig.metric("bob", "qkdd_part_failures_total", part="tagger", code="QKD-DEV-OFFLINE") > failures,
        "the failure is counted",
    )
    assert rig.metric("bob", "qkdd_device_up", device="tagger") == 0
    code, text = rig.ctl("bob", "status", "--json")
    assert (code, json.loads(text)["healthy"]) == (1, False)
    rig.until(lambda: rig.part("alice", "link")["state"] != "up", "alice ends the link's run with bob's")
    blocks = rig.held("alice")
    rig.fault("bob.tagger", "plug")
    rig.in_service()
    assert rig.metric("bob", "qkdd_device_up", device="tagger") == 1
    assert blocks < rig.held("alice")


@pytest.mark.parametrize(
    ("side", "fault", "args", "code"),
    [
        ("alice", "slip", {"bytes": 3}, "QKD-DEV-TAGS-SLIPPED"),
        ("bob", "lose", {"words": 30_000}, "QKD-DEV-TAGS-LOST"),
    ],
)
def test_a_damaged_tag_stream_costs_its_block_on_both_nodes(
    rig: Rig, side: str, fault: str, args: dict[str, float], code: str
) -> None:
    before = max(rig.accepted(one) for one in SIDES)
    faults = rig.metric(side, "qkdd_tagger_faults_total", code=code)
    refusals = {one: rig.metric(one, "qkdd_blocks_refused_total", code="QKD-BLK-TAGS-LOST") for one in SIDES}
    rig.fault(f"{side}.tagger", fault, **args)
    for one in SIDES:
        rig.until(lambda one=one: rig.refused(one, "QKD-BLK-TAGS-LOST", before), f"{one} refuses the block")
        assert rig.error(one, "QKD-BLK-TAGS-LOST") >= 1
        assert rig.metric(one, "qkdd_blocks_refused_total", code="QKD-BLK-TAGS-LOST") > refusals[one]
    assert rig.metric(side, "qkdd_tagger_faults_total", code=code) > faults
    assert rig.metric(side, "qkdd_tagger_tags_lost_total") >= 1


def test_a_host_that_does_not_read_loses_tags_and_says_so(rig: Rig) -> None:
    before = max(rig.accepted(one) for one in SIDES)
    lost = rig.metric("bob", "qkdd_tagger_tags_lost_total")
    rig.send("bob", signal.SIGSTOP)
    # the real thing: the process does not run, and the instrument's FIFO overflows (clicks come at 4e5/s); shorter than SILENCE
    time.sleep(1.7 * FIFO_WORDS / 4e5)
    rig.send("bob", signal.SIGCONT)
    rig.until(
        lambda: rig.metric("bob", "qkdd_tagger_tags_lost_total") > lost + 1000, "bob's driver counts what was lost"
    )
    rig.until(lambda: rig.refused("bob", "QKD-BLK-TAGS-LOST", before), "the block is refused")
    assert rig.metric("bob", "qkdd_tagger_faults_total", code="QKD-DEV-TAGS-LOST") >= 1


@pytest.mark.parametrize(
    ("device", "fault", "code"),
    [
        ("detectors", "unplug", "QKD-DEV-OFFLINE"),
        ("detectors", "hang", "QKD-DEV-TIMEOUT"),
        ("polarization", "unplug", "QKD-DEV-OFFLINE"),
        ("polarization", "hang", "QKD-DEV-TIMEOUT"),
    ],
)
def test_controllers_may_fail_while_blocks_go_on(rig: Rig, device: str, fault: str, code: str) -> None:
    failures = rig.metric("bob", "qkdd_part_failures_total", part=device)
    rig.fault(f"bob.{device}", fault)
    rig.until(lambda: rig.part("bob", device)["state"] != "up", f"bob sees {device} fail")
    assert rig.part("bob", device)["error"]["code"] == code
    assert rig.error("bob", code) >= 1
    assert rig.metric("bob", "qkdd_part_failures_total", part=device) > failures
    before = max(rig.accepted(side) for side in SIDES)
    rig.until(lambda: all(rig.accepted(side) > before + 1 for side in SIDES), "blocks go on without it")
    rig.fault(f"bob.{device}", "plug" if fault == "unplug" else "clear")
    rig.until(lambda: rig.part("bob", device)["state"] == "up", f"{device} comes back")
    assert rig.metric("bob", "qkdd_device_up", device=device) == 1


def test_a_kms_that_is_killed_gets_all_keys_when_it_is_back(rig: Rig) -> None:
    failures = rig.metric("alice", "qkdd_keys_hand_over_failures_total", code="QKD-KEYS-HANDOVER")
    rig.send("kms-alice", signal.SIGKILL)
    assert rig.ended("kms-alice") == -signal.SIGKILL
    try:
        rig.until(lambda: rig.part("alice", "kms")["state"] != "up", "alice sees the KMS gone")
        rig.until(lambda: rig.error("alice", "QKD-KEYS-HANDOVER"), "the code of a KMS that is away")
        assert rig.metric("alice", "qkdd_keys_hand_over_failures_total", code="QKD-KEYS-HANDOVER") > failures
        assert rig.metric("alice", "qkdd_kms_up") == 0
        rig.until(lambda: rig.spool("alice", "sealed", "offered") >= 3, "key is still made and waits in the spool")
        waiting = rig.held("alice")
    finally:
        rig.again("kms-alice")
    rig.until(lambda: rig.part("alice", "kms")["state"] == "up", "the KMS is back")
    released = lambda: {b for b, s in stores.blocks(rig.layout.node_store("alice")).items() if s == "released"}  # noqa: E731
    rig.until(lambda: waiting <= released(), "everything that waited is handed over")


def test_a_disk_that_takes_no_more_stops_key_and_lets_it_go_on(rig: Rig) -> None:
    """The kernel refuses bob every write beyond a limit, as a quota does (SQLite calls this a failed write, not a full disk)."""
    codes = ("QKD-CORE-STORAGE", "QKD-CORE-DISK-FULL")
    process = rig.processes["bob"].child
    before = sum(rig.error("bob", code) for code in codes)
    _, hard = resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE)
    limit = max(256 << 10, process.log.stat().st_size + (64 << 10))  # room for the log, not for the store
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (limit, hard))
    try:
        rig.until(lambda: sum(rig.error("bob", code) for code in codes) > before, "bob says that he cannot write")
        assert sum(rig.metric("bob", "qkdd_errors_total", code=code) for code in codes) >= 1
        stands = rig.held("bob")
    finally:
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    rig.in_service()
    assert stands < rig.held("bob")
    assert process.process.returncode is None  # the daemon healed by itself


def test_a_peer_that_falls_silent_and_comes_back(rig: Rig) -> None:
    failures = rig.metric("alice", "qkdd_part_failures_total", part="peer")
    rig.send("bob", signal.SIGSTOP)
    try:
        rig.until(lambda: rig.error("alice", "QKD-PEER-SILENT"), "alice calls bob silent", 6 * SILENCE)
        rig.until(lambda: rig.metric("alice", "qkdd_part_failures_total", part="peer") > failures, "it is counted")
        assert rig.get("alice", "/v1/status")["healthy"] is False
        blocks = rig.held("alice")
    finally:
        rig.send("bob", signal.SIGCONT)
    rig.in_service()
    assert blocks <= rig.held("alice")
    assert blocks <= rig.held("bob")


def test_renewed_certificates_are_taken_up_without_losing_a_block(rig: Rig) -> None:
    pki = rig.layout.pki
    for side in SIDES:
        paths = pki.post_quantum[side]
        command = [BIN / "qkdd", "pki", "renew", paths.certificate, paths.key, "--ca", pki.directory / "pq-ca"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
    before = max(rig.accepted(side) for side in SIDES)
    handshakes = {side: rig.metric(side, "qkdd_peer_handshakes_total", result="ok") for side in SIDES}
    failures = {side: rig.metric(side, "qkdd_part_failures_total") for side in SIDES}
    for side in SIDES:
        rig.send(side, signal.SIGHUP)
    rig.until(
        lambda: any(rig.metric(s, "qkdd_peer_handshakes_total", result="ok") > handshakes[s] for s in SIDES),
        "a new handshake with the new certificates",
    )
    rig.until(lambda: all(rig.accepted(side) > before + 4 for side in SIDES), "blocks go on")
    for side in SIDES:
        lost = [b for b in rig.get(side, "/v1/blocks", limit=100) if b["number"] > before and not b["accepted"]]
        assert [b for b in lost if b["code"] not in CHANCE] == []
        assert rig.metric(side, "qkdd_part_failures_total") == failures[side]


def test_drain_and_resume(rig: Rig) -> None:
    code, text = rig.ctl("alice", "drain", "--json")
    assert code == 0
    assert "drained" in json.loads(text)["message"]
    # the run that was drained has closed its session; with the next one all other parts stand again
    rig.until(lambda: rig.get("alice", "/v1/status")["state"] == "drained", "alice is drained")
    assert rig.ctl("alice", "status")[0] == 0  # what was asked for is healthy
    assert rig.metric("alice", "qkdd_draining") == 1
    stands = rig.accepted("alice")
    time.sleep(2.5)  # two blocks' time in which nothing may happen
    assert rig.accepted("alice") == stands
    code, _ = rig.ctl("alice", "resume", "--json")
    assert code == 0
    rig.in_service()
    assert rig.metric("alice", "qkdd_draining") == 0


def test_a_paddle_and_a_bias_over_the_wire_show_and_a_calibration_heals(rig: Rig) -> None:
    """The new settings go over the wire when bob opens his instruments, and the link shows what they did."""
    clear = rig.get("bob", "/v1/link")["qber"]
    rate = rig.metric("bob", "qkdd_detector_count_rate_hertz", device="detectors")
    file = Path(rig.processes["bob"].command[-1])
    usual = file.read_text()
    turned = usual.replace('"20 uA"', '"16 uA"')
    assert turned != usual
    table = '\n[devices.polarization.settings]\nangle = ["85 deg", "100 deg", "85 deg"]\n'
    rig.send("bob", signal.SIGTERM)
    assert rig.ended("bob") == 0
    file.write_text(turned + table)
    rig.again("bob")
    rig.until(
        lambda: (rig.get("bob", "/v1/link")["qber"] or 0) > clear + 0.02, "the turned paddle raises the error rate"
    )
    rig.until(
        lambda: 0 < rig.metric("bob", "qkdd_detector_count_rate_hertz", device="detectors") < 0.97 * rate,
        "the lower bias lowers the counts",
    )
    code, text = rig.ctl("bob", "calibrate", "polarization", "--json", seconds=600)
    assert code == 0, text
    result = json.loads(text)
    assert result["qber_after"] < 0.03 < result["qber_before"]
    assert rig.metric("bob", "qkdd_calibrations_total", result="ok") == 1
    rig.until(lambda: 0 < (rig.get("bob", "/v1/link")["qber"] or 0) < 0.035, "blocks show the lower error rate")
    # the usual bias again; the paddles stay where the calibration left them
    rig.send("bob", signal.SIGTERM)
    assert rig.ended("bob") == 0
    file.write_text(usual)
    rig.again("bob")


def test_in_the_end_both_sides_hold_the_same(rig: Rig) -> None:
    assert rig.fetch_keys() == [True, True]
    for side in SIDES:
        assert rig.ctl(side, "drain")[0] == 0
    rig.until(
        lambda: all(not rig.spool(side, "prepared", "sealed", "offered", "acknowledged") for side in SIDES),
        "all key is handed over",
    )
    assert list(stores.disagreements(*(stores.blocks(rig.layout.node_store(side)) for side in SIDES))) == []
    assert list(stores.missing_chunks(*(stores.chunks(rig.layout.kms_store(side)) for side in SIDES))) == []
    for side in SIDES:
        assert rig.ctl(side, "resume")[0] == 0
