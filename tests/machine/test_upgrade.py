"""T1: two nodes and two KMSs make key and applications draw it while the package is upgraded from the previous version."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qkdd_hil.crash import stores

from .conftest import NEW, OLD
from .machine import Machine, booted

pytestmark = [pytest.mark.slow, pytest.mark.machine]

RIG = Path(__file__).with_name("rig.py")
FOLDER = "/run/rig"
NODES = ("qkdd@alice", "qkdd@bob")
UNITS = (*NODES, "qkdd-kms@alice", "qkdd-kms@bob")
# the bench's instruments are ptys, which no rack has
BENCH_DROP_IN = "[Service]\nDeviceAllow=char-pts rw\n"

ADMIN = """
[admin]
socket = "/run/qkdd-kms/alice.sock"
view_group = "qkd-view"
admin_group = "qkd-admin"
"""
CHANGE_MASTER_KEY = """
cd /etc/qkdd-kms
qkdd pki master-key alice.master-key.new
mv alice.master-key alice.master-key.old && mv alice.master-key.new alice.master-key
"""


class Site:
    """The machine with the rig in it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def progress(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.machine.run("cat", f"{FOLDER}/progress.json"))
        return found

    def until_delivered(self, more_than: int, seconds: float = 120.0) -> int:
        ends = time.monotonic() + seconds
        while (count := int(str(self.progress()["delivered"]))) <= more_than:
            assert time.monotonic() < ends, self.journal()
            time.sleep(0.2)
        return count

    def held(self) -> int:
        """Blocks that alice holds as key, or did."""
        return sum(state in stores.HELD for state in self.blocks("alice").values())

    def blocks(self, side: str) -> dict[str, str]:
        return self._store(f"/var/lib/qkdd/{side}/keys.sqlite", "SELECT hex(id), state FROM blocks")

    def chunks(self, side: str) -> dict[str, str]:
        return self._store(f"/var/lib/qkdd-kms/{side}/kms.db", "SELECT chunk_id, state FROM chunks")

    def _store(self, path: str, query: str) -> dict[str, str]:
        code = f"import json, sqlite3; found = sqlite3.connect('file:{path}?mode=ro', uri=True).execute({query!r})"
        code += "; print(json.dumps(dict(found)))"
        found: dict[str, str] = json.loads(self.machine.run("python3", "-I", "-c", code))
        return found

    def pids(self) -> dict[str, str]:
        return {unit: self.machine.show(f"{unit}.service", "MainPID") for unit in UNITS}

    def journal(self) -> str:
        return self.machine.run("journalctl", "--no-pager", "-n", "200")


@pytest.fixture(scope="module")
def site(with_previous: Path) -> Iterator[Site]:
    """The previous version installed, everything running, a first key delivered."""
    binds = {with_previous: "/opt/packages", with_previous / "unpacked/usr/lib/qkdd": "/opt/bench", RIG: "/opt/rig.py"}
    with booted("qkdd-t1u", binds) as machine:
        began = time.monotonic()
        machine.run("apt-get", "install", "-y", "--no-install-recommends", f"/opt/packages/qkdd_{OLD}_amd64.deb")
        installed = time.monotonic() - began
        machine.write("/etc/systemd/system/qkdd@.service.d/bench.conf", BENCH_DROP_IN)
        machine.run("mkdir", "-p", FOLDER)
        machine.run("systemd-run", "--unit=rig", "--quiet", "/opt/bench/bin/python3", "/opt/rig.py", FOLDER)
        ends = time.monotonic() + 60
        while machine.try_run("test", "-e", f"{FOLDER}/ready").returncode != 0:
            assert time.monotonic() < ends, machine.run("journalctl", "-u", "rig", "--no-pager")
            time.sleep(0.1)
        machine.run("systemctl", "daemon-reload")
        started = machine.try_run("systemctl", "start", *(f"{unit}.service" for unit in UNITS))
        assert started.returncode == 0, machine.run("journalctl", "--no-pager", "-n", "60")
        running = time.monotonic() - began
        made = Site(machine)
        made.until_delivered(0)
        print(
            f"\nboot {machine.boot_seconds:.1f} s, apt install {installed:.1f} s, all services READY after {running:.1f} s,"
            f" first key {time.monotonic() - began:.1f} s after apt install began"
        )
        yield made


def test_key_goes_on_over_the_upgrade(site: Site) -> None:
    before, pids = site.until_delivered(20), site.pids()
    blocks = site.held()
    began = time.monotonic()
    site.machine.run("apt-get", "install", "-y", "--no-install-recommends", f"/opt/packages/qkdd_{NEW}_amd64.deb")
    took = time.monotonic() - began
    assert site.machine.run("dpkg-query", "-W", "-f", "${Version}", "qkdd") == NEW
    for unit, pid in site.pids().items():
        assert pid not in ("0", pids[unit]), f"{unit} still runs the old version"
    ends = time.monotonic() + 120
    at_restart = site.held()
    while site.held() <= at_restart:
        assert time.monotonic() < ends, site.journal()
        time.sleep(0.2)
    again = time.monotonic() - began
    after = site.until_delivered(int(str(site.progress()["delivered"])))
    print(
        f"\nupgrade {took:.1f} s with {len(UNITS)} services running; next new block {again:.1f} s after it began;"
        f" blocks {blocks} before, {site.held()} after; keys delivered {before} before, {after} after"
    )


def test_the_master_key_is_changed_under_the_packaged_unit(site: Site) -> None:
    """As docs/master-key.md says, while applications draw; keys that were drawn before are fetched afterwards (next test)."""
    machine, unit = site.machine, "qkdd-kms@alice.service"
    machine.run("sh", "-c", f"cat >> /etc/qkdd-kms/alice.toml <<'END'\n{ADMIN}END")
    machine.run("useradd", "-G", "qkd-view,qkd-admin", "boss")
    began = time.monotonic()
    machine.run("sh", "-ec", CHANGE_MASTER_KEY)
    machine.run("systemctl", "restart", unit)
    kms = ("qkdctl", "kms", "--socket", "/run/qkdd-kms/alice.sock")
    said = json.loads(machine.run(*kms, "rotate-master-key", "--json", user="boss"))
    print(f"\nmaster key of the packaged unit changed in {time.monotonic() - began:.1f} s: {said}")
    assert said["state"] == "done"
    assert said["done"] >= said["total"] > 0
    assert "master-key.old" in said["then"]
    machine.run("shred", "-u", "/etc/qkdd-kms/alice.master-key.old")
    machine.run("systemctl", "restart", unit)  # opens its records with the new one alone, else it does not start
    refused = machine.try_run(*kms, "rotate-master-key", "--json", user="boss")
    assert json.loads(refused.stdout)["code"] == "QKD-KMS-ROTATION"
    site.until_delivered(int(str(site.progress()["delivered"])))


def test_nothing_is_lost_and_the_stores_agree(site: Site) -> None:
    for side in ("alice", "bob"):
        site.machine.run("qkdctl", "--socket", f"/run/qkdd/{side}.sock", "drain")
    ends = time.monotonic() + 90
    while any(s not in ("released", "voided") for side in ("alice", "bob") for s in site.blocks(side).values()):
        assert time.monotonic() < ends, "blocks stay with the nodes"
        time.sleep(0.2)
    site.machine.run("touch", f"{FOLDER}/stop")
    while site.machine.try_run("test", "-e", f"{FOLDER}/report.json").returncode != 0:
        assert time.monotonic() < ends, site.machine.run("journalctl", "-u", "rig", "--no-pager")
        time.sleep(0.2)
    report = json.loads(site.machine.run("cat", f"{FOLDER}/report.json"))
    print(f"\napplications: {report}")
    assert report["delivered"] == report["drawn"] > 0
    assert report["held_back"] > 0  # drawn under the old version, fetched under the new one
    assert (report["differing"], report["twice"], report["lost"], report["refused"]) == (0, 0, 0, {})
    nodes = [{bytes.fromhex(block): state for block, state in site.blocks(side).items()} for side in ("alice", "bob")]
    assert list(stores.disagreements(*nodes)) == []
    assert list(stores.missing_chunks(site.chunks("alice"), site.chunks("bob"))) == []
    for side in ("alice", "bob"):
        log = f"/var/lib/qkdd/{side}/audit.log"
        starts = site.machine.run("grep", "-c", "daemon started", log)
        assert int(starts) >= 2, "the audit log goes on where the old version left it"
        site.machine.run("qkdctl", "audit", "verify", log, "--trust", f"{FOLDER}/site/pki/pq-ca/trust.pem")


def test_removed_while_several_nodes_run(site: Site) -> None:
    site.machine.run("apt-get", "remove", "-y", "qkdd")
    for unit in UNITS:
        assert site.machine.try_run("systemctl", "is-active", f"{unit}.service").stdout.strip() != "active"
    site.machine.run("test", "-f", "/var/lib/qkdd/alice/keys.sqlite")
    assert site.machine.try_run("test", "-e", "/usr/lib/qkdd").returncode != 0
